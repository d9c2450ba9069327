package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// label is the extended attribute that SELinux keeps a file's context in.
const label = "security.selinux"

// tempName is the one temporary name that a file can have beside it. It is
// fixed, so that a rerun overwrites what an interrupted run left, and it ends in
// what neither containerd's imports (*.toml) nor libcni (.conf, .conflist, .json) read.
func tempName(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".cni-none-tmp")
}

// write puts data at path in one step: into a temporary file in the same
// directory, synced, labelled, then renamed. A program that reads path sees
// all of the old file or all of the new one. An existing file's owner, mode and
// label are kept. It reports whether anything changed.
func write(path string, data []byte, mode fs.FileMode) (bool, error) {
	uid, gid := 0, 0
	switch st, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	case !st.Mode().IsRegular():
		return false, fmt.Errorf("%s is not a regular file (%s): it is managed by something else; point that at the change instead", path, st.Mode().Type())
	default:
		old, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		if bytes.Equal(old, data) && (mode&0o111 == 0 || st.Mode().Perm() == mode) {
			return false, nil
		}
		if mode&0o111 == 0 {
			mode = st.Mode().Perm()
		}
		sys := st.Sys().(*syscall.Stat_t)
		uid, gid = int(sys.Uid), int(sys.Gid)
	}
	want, err := labelFor(path)
	if err != nil {
		return false, err
	}
	tmp := tempName(path)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = func() error {
		if _, err := f.Write(data); err != nil {
			return err
		}
		if want != nil {
			if err := unix.Fsetxattr(int(f.Fd()), label, want, 0); err != nil {
				return fmt.Errorf("give %s the SELinux label %q of its neighbours: %w", path, want, err)
			}
		}
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
		if err := f.Chmod(mode); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if err := os.Rename(tmp, path); err != nil {
			return err
		}
		return syncDir(filepath.Dir(path))
	}()
	if err != nil {
		_ = os.Remove(tmp)
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	return true, nil
}

// remove deletes a file, and is content when it is not there.
func remove(path string) error {
	for _, p := range []string{tempName(path), path} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := syncDir(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// mkdir makes path and those above it that are missing, and returns the ones it made.
func mkdir(path string) (made []string, err error) {
	if st, err := os.Stat(path); err == nil {
		if !st.IsDir() {
			return nil, fmt.Errorf("%s is not a directory", path)
		}
		return nil, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if made, err = mkdir(filepath.Dir(path)); err != nil {
		return made, err
	}
	want, err := labelFor(path)
	if err != nil {
		return made, err
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		return made, err
	}
	made = append(made, path)
	if err := os.Chmod(path, 0o755); err != nil { // whatever the umask
		return made, err
	}
	if want != nil {
		if err := unix.Lsetxattr(path, label, want, 0); err != nil {
			_ = os.Remove(path)
			return made, fmt.Errorf("give %s the SELinux label %q of its neighbours: %w", path, want, err)
		}
	}
	return made, syncDir(filepath.Dir(path))
}

// labelFor returns the SELinux label that path should have: its own, or else
// that of a neighbour of the same kind, or else its directory's. nil where the
// file system has no labels.
func labelFor(path string) ([]byte, error) {
	dir := filepath.Dir(path)
	candidates := []string{path}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	wantDir := filepath.Ext(path) == ".d" // the only directories made here beside others
	for _, e := range entries {
		if e.IsDir() == wantDir && (e.IsDir() || e.Type().IsRegular()) && filepath.Join(dir, e.Name()) != tempName(path) {
			candidates = append(candidates, filepath.Join(dir, e.Name()))
		}
	}
	for _, p := range append(candidates, dir) {
		buf := make([]byte, 1024)
		n, err := unix.Lgetxattr(p, label, buf)
		switch {
		case err == nil:
			return buf[:n], nil
		case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOENT):
		case errors.Is(err, unix.ENOTSUP):
			return nil, nil
		default:
			return nil, fmt.Errorf("read the SELinux label of %s: %w", p, err)
		}
	}
	return nil, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// fileSum is the sum of a file, or "" where there is none.
func fileSum(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return sum(data), nil
}
