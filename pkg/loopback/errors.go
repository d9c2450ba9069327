package loopback

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
)

var (
	// ErrNotExist says that a path names nothing that exists (any more): no
	// file, or a process that has ended.
	ErrNotExist = netns.ErrNotExist

	// ErrNotNetns says that a path names something that is not a network namespace.
	ErrNotNetns = netns.ErrNotNetns

	// ErrHost says that a path names the network namespace of the caller itself,
	// of process 1 or the machine's first one, whose loopback is not ours to touch.
	ErrHost = errors.New("not a namespace of a container's own")

	// ErrChanging says that the namespace kept changing while we looked.
	// A later call may succeed.
	ErrChanging = errors.New("the namespace kept changing")
)

// OpError is a refusal by the kernel.
type OpError struct {
	Op   string // what was tried: "open", "setns", "list interfaces"
	Path string // the namespace, as the caller named it; empty for the caller's own
	Err  error  // mostly a syscall.Errno
}

func (e *OpError) Error() string {
	if e.Path == "" {
		return e.Op + ": " + describe(e.Err)
	}
	return e.Op + " (" + quote(e.Path) + "): " + describe(e.Err)
}

func (e *OpError) Unwrap() error { return e.Err }

// describe adds the errno's name, which is what one looks up in a manual page.
func describe(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return err.Error() + " (" + unix.ErrnoName(errno) + ")"
	}
	return err.Error()
}
