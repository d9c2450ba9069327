// Package netns opens network namespaces, verifies that they are some, and runs
// functions inside. It is the only place in the project's programs that calls
// setns(2): a thread that stays behind in a container's namespace would run
// other goroutines there.
package netns

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotExist says that a path names nothing that exists (any more): no
	// file, or a process that has ended.
	ErrNotExist = errors.New("no such network namespace")

	// ErrNotNetns says that a file is not a network namespace.
	ErrNotNetns = errors.New("not a network namespace")
)

// NS is an open network namespace. It lives until it is closed, whatever
// becomes of the path that it was opened by.
type NS struct {
	fd int
	id ID
}

// ID tells one network namespace from another while both exist: two files name
// one namespace if device and inode are the same (namespaces(7)).
type ID struct{ Dev, Ino uint64 }

// Open opens the network namespace at path. It looks the path up once, never
// blocks, whatever lies there, and opens nothing but a namespace.
//
// Errors: [ErrNotExist], [ErrNotNetns], [*os.SyscallError].
func Open(path string) (*NS, error) {
	// O_PATH names a file without calling its driver: opening a fifo may block,
	// opening a device may do anything (watchdogs start, tapes rewind).
	name, err := open(path, unix.O_PATH)
	if err != nil {
		return nil, openError(err)
	}
	defer unix.Close(name)
	return FromFD(name)
}

// OpenLink is Open for ns/net of a process or thread in /proc. The kernel keeps
// that link, and it leads to nothing but a namespace, so it is opened without the
// look before. That makes it half as dear, which counts where thousands are opened.
//
// Errors: [ErrNotExist], [ErrNotNetns], [*os.SyscallError].
func OpenLink(path string) (*NS, error) {
	fd, err := open(path, unix.O_RDONLY)
	if err != nil {
		return nil, openError(err)
	}
	return verified(fd)
}

func openError(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG),
		errors.Is(err, unix.ESRCH): // /proc/PID/ns/net of a process that ends right now
		return ErrNotExist
	default:
		return os.NewSyscallError("open", err)
	}
}

// FromFD opens the network namespace that a descriptor names, which may be an
// O_PATH one and stays the caller's.
//
// Errors: [ErrNotNetns], [*os.SyscallError].
func FromFD(name int) (*NS, error) {
	var fs unix.Statfs_t
	if err := Retry(func() error { return unix.Fstatfs(name, &fs) }); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, ErrNotNetns
	}
	fd, err := open("/proc/self/fd/"+strconv.Itoa(name), unix.O_RDONLY)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	return verified(fd)
}

// verified takes over a descriptor that names a namespace, or closes it.
func verified(fd int) (*NS, error) {
	n := &NS{fd: fd}
	if err := n.verify(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// verify asks the kernel for the kind of namespace, since nsfs holds every kind
// (ioctl_ns(2)), and for its identity.
func (n *NS) verify() error {
	kind, err := RetryInt(func() (int, error) { return unix.IoctlRetInt(n.fd, unix.NS_GET_NSTYPE) })
	if err != nil {
		return os.NewSyscallError("ioctl NS_GET_NSTYPE", err)
	}
	if kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%w but another kind", ErrNotNetns)
	}
	var st unix.Stat_t
	if err := Retry(func() error { return unix.Fstat(n.fd, &st) }); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	n.id = ID{uint64(st.Dev), st.Ino}
	return nil
}

// IDOf returns the identity of the network namespace at a path in /proc, without
// opening it.
//
// Errors: [*os.SyscallError].
func IDOf(path string) (ID, error) {
	var st unix.Stat_t
	if err := Retry(func() error { return unix.Stat(path, &st) }); err != nil {
		return ID{}, os.NewSyscallError("stat "+path, err)
	}
	return ID{uint64(st.Dev), st.Ino}, nil
}

// ID returns the namespace's identity.
func (n *NS) ID() ID { return n.id }

// FD returns the descriptor, which is open until Close.
func (n *NS) FD() int { return n.fd }

// Close lets go of the namespace.
func (n *NS) Close() error { return unix.Close(n.fd) }

func open(path string, flags int) (int, error) {
	return RetryInt(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) })
}

// Retry repeats a system call that a signal interrupted (signal(7)).
func Retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// RetryInt is Retry for a call that returns a number.
func RetryInt(call func() (int, error)) (int, error) {
	var v int
	err := Retry(func() (err error) { v, err = call(); return err })
	return v, err
}
