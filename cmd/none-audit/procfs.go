package main

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
)

// procfs reads /proc with as few system calls and as little garbage as can be:
// a node has thousands of processes, and os.ReadDir and os.ReadFile cost several
// times what the kernel needs for the answer.
type procfs struct {
	text    []byte // what was read last
	entries []byte // of directories
}

func newProcfs() *procfs {
	return &procfs{text: make([]byte, 64<<10), entries: make([]byte, 32<<10)}
}

// openAt opens a file below a directory.
func openAt(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// link reads a symbolic link. What it returns lives until the next call.
func (p *procfs) link(dir int, name string) ([]byte, error) {
	n, err := unix.Readlinkat(dir, name, p.text)
	return p.text[:max(n, 0)], err
}

// file reads the beginning of a file, which lives until the next call.
func (p *procfs) file(dir int, name string) ([]byte, error) {
	fd, err := openAt(dir, name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, p.text)
	return p.text[:max(n, 0)], err
}

// numbers calls visit with the names in an open directory that are numbers, as
// the kernel hands them out: a bufferful at a time.
func (p *procfs) numbers(dir int, buffer []byte, visit func(n int)) error {
	for {
		n, err := unix.Getdents(dir, buffer)
		if err != nil {
			return err
		}
		if n <= 0 {
			return nil
		}
		for b := buffer[:n]; len(b) > 0; {
			// struct linux_dirent64: ino and offset of 8 bytes, length of 2, type, name.
			const nameAt = int(unsafe.Offsetof(unix.Dirent{}.Name))
			length := int(binary.NativeEndian.Uint16(b[unsafe.Offsetof(unix.Dirent{}.Reclen):]))
			if n, ok := number(b[nameAt:length]); ok {
				visit(n)
			}
			b = b[length:]
		}
	}
}

// number reads a name that ends with a zero byte.
func number(name []byte) (n int, ok bool) {
	for _, c := range name {
		if c < '0' || c > '9' {
			return n, ok && c == 0
		}
		n, ok = 10*n+int(c-'0'), true
	}
	return 0, false
}

// numbersIn is numbers for a directory by name.
func (p *procfs) numbersIn(dir int, name string, visit func(n int)) error {
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return p.numbers(fd, p.entries, visit)
}

// inodeOf reads a link as the kernel writes it: "net:[4026531833]".
func inodeOf(link []byte, kind string) (uint64, bool) {
	if len(link) < len(kind)+4 || string(link[:len(kind)]) != kind || link[len(kind)] != ':' || link[len(kind)+1] != '[' {
		return 0, false
	}
	var n uint64
	for _, c := range link[len(kind)+2 : len(link)-1] {
		if c < '0' || c > '9' || n > 1<<60 {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	return n, link[len(link)-1] == ']'
}

// gone says that an error means no more than that something has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, netns.ErrNotExist)
}
