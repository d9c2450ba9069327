package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Kernel is a Debian kernel, unpacked, with its modules.
type Kernel struct {
	Suite   string // of Debian
	Arch    string
	Package string // of Debian
	Version string // of the package
	Release string // what uname -r says

	dir string
}

// unneeded are the modules of hardware that no machine of ours has: most of a
// kernel package.
var unneeded = []string{"*/drivers/gpu", "*/drivers/media", "*/drivers/infiniband", "*/drivers/scsi", "*/drivers/usb", "*/drivers/iio",
	"*/drivers/staging", "*/drivers/net/wireless", "*/drivers/net/ethernet", "*/sound", "./usr/share/doc"}

// unpack puts the packages into the kernel's directory, whole or not at all.
func (k *Kernel) unpack(a *Archive, files []*Package) error {
	tmp := k.dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	for _, p := range files {
		deb, err := a.File(p)
		if err != nil {
			return err
		}
		tar := "set -o pipefail; dpkg-deb --fsys-tarfile \"$1\" | tar -x -C \"$2\""
		for _, dir := range unneeded {
			tar += " --exclude='" + dir + "'"
		}
		if _, err := output(exec.Command("bash", "-c", tar, "unpack", deb, tmp)); err != nil {
			return err
		}
		if err := os.Remove(deb); err != nil {
			return err
		}
	}
	// Newer packages have their modules below /usr alone; kmod looks in /lib.
	if _, err := os.Lstat(filepath.Join(tmp, "lib")); os.IsNotExist(err) {
		if err := os.Symlink("usr/lib", filepath.Join(tmp, "lib")); err != nil {
			return err
		}
	}
	if _, err := output(exec.Command("depmod", "-b", tmp, k.Release)); err != nil {
		return err
	}
	return os.Rename(tmp, k.dir)
}

// image is the file that a boot loader would start.
func (k *Kernel) image() (string, error) {
	for _, f := range []string{"boot/vmlinuz-" + k.Release, "boot/vmlinux-" + k.Release, "lib/modules/" + k.Release + "/vmlinuz"} {
		if f = filepath.Join(k.dir, f); exists(f) {
			return f, nil
		}
	}
	return "", fmt.Errorf("%s holds no kernel image", k.Package)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Modules returns the files of the modules and of all that they depend on, in
// the order in which they have to be loaded. What is built in has none.
func (k *Kernel) Modules(names ...string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	for _, name := range names {
		out, err := output(exec.Command("modprobe", "-d", k.dir, "-S", k.Release, "--show-depends", name))
		if err != nil {
			return nil, fmt.Errorf("%s has no module %s: %w", k.Package, name, err)
		}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) >= 2 && f[0] == "insmod" && !seen[f[1]] {
				seen[f[1]] = true
				files = append(files, f[1])
			}
		}
	}
	return files, nil
}

// Tree is the directory that holds all modules of the kernel.
func (k *Kernel) Tree() string { return filepath.Join(k.dir, "lib/modules", k.Release) }

// module reads a module, unpacked: insmod(2) takes it as it is.
func module(path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	out, err := output(exec.Command("xz", "-dc", path))
	return []byte(out), err
}

// without drops what is twice in files or among those that are loaded, since
// insmod(2) refuses it.
func without(files, loaded []string) []string {
	var out []string
	for _, f := range files {
		if !slices.Contains(out, f) && !slices.Contains(loaded, f) {
			out = append(out, f)
		}
	}
	return out
}
