package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func listCgroups(names []string) []string {
	var dirs []string
	for _, name := range names {
		dirs = append(dirs, cgroups(name)...)
	}
	return dirs
}

// cgroups lists the control groups of a name and those below, parents first, in
// whatever hierarchies there are.
func cgroups(name string) []string {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	var dirs []string
	for _, root := range append(roots, "/sys/fs/cgroup/"+name) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
	}
	return dirs
}

// MakeCgroup makes the tests' group in every hierarchy, or in the only one, for a
// program that wants it to be there.
func MakeCgroup() error {
	hierarchies := []string{"/sys/fs/cgroup"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		hierarchies, _ = filepath.Glob("/sys/fs/cgroup/*")
	}
	for _, dir := range hierarchies {
		// No directory can be made in a hierarchy that is only a link to another.
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
			continue
		}
		if err := os.MkdirAll(filepath.Join(dir, Cgroup()), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroups removes control groups, which the last process may still be leaving.
func removeCgroups(name string) error {
	var last error
	for range 50 {
		last = nil
		for _, dir := range slices.Backward(cgroups(name)) {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				last = fmt.Errorf("remove control group %s: %w", dir, err)
			}
		}
		if last == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return last
}

// removeStaleCgroups removes those of earlier tests that were killed.
func removeStaleCgroups() {
	nested, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupPrefix + "*")
	unified, _ := filepath.Glob("/sys/fs/cgroup/" + cgroupPrefix + "*")
	for _, dir := range append(nested, unified...) {
		name := filepath.Base(dir)
		pid, err := strconv.Atoi(strings.TrimPrefix(name, cgroupPrefix))
		if err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = removeCgroups(name) // what cannot be removed now is another process's, or a later test's
		}
	}
}
