package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// What is open for writing is not looked at, since it is no namespace: root does
// not get to open one for writing either, by whatever path.
func TestWritable(t *testing.T) {
	ns := nstest.New(t)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	isWritable := func(path string, flags int) bool {
		t.Helper()
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		defer unix.Close(fd)
		return writable(dir, strconv.Itoa(fd))
	}
	for _, path := range []string{ns.Path, "/proc/self/ns/net"} {
		for _, flags := range []int{unix.O_RDONLY, unix.O_PATH} {
			if isWritable(path, flags) {
				t.Errorf("%s, opened with %#x, is left out", path, flags)
			}
		}
		for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR, unix.O_WRONLY | unix.O_APPEND} {
			if fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0); !errors.Is(err, unix.EPERM) {
				unix.Close(fd)
				t.Errorf("%s can be opened with %#x, and would not be seen: %v", path, flags, err)
			}
		}
	}
	for flags, want := range map[int]bool{unix.O_RDONLY: false, unix.O_WRONLY: true, unix.O_RDWR: true} {
		if got := isWritable(plain, flags); got != want {
			t.Errorf("a file opened with %#x: writable %v, want %v", flags, got, want)
		}
	}
}
