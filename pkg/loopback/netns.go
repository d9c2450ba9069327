package loopback

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
)

// Netns is an open network namespace of a container. It keeps the namespace
// alive until it is closed, whatever becomes of the path.
type Netns struct {
	path string
	ns   *netns.NS
}

// Open opens the network namespace at path, for instance /run/netns/NAME or
// /proc/PID/ns/net, and refuses the caller's own, the machine's first one and,
// where that can be read, process 1's. It looks the path up once, never blocks, whatever lies there,
// and does not open anything but a namespace.
//
// Errors: [ErrNotExist], [ErrNotNetns], [ErrHost], [*OpError].
func Open(path string) (*Netns, error) {
	n, err := openUnchecked(path)
	if err != nil {
		return nil, err
	}
	if err := n.refuseHost(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Close lets go of the namespace.
func (n *Netns) Close() error { return n.ns.Close() }

// openUnchecked also opens the caller's own namespace, to look at.
func openUnchecked(path string) (*Netns, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return nil, about(path, err)
	}
	return &Netns{path, ns}, nil
}

// about says which namespace an error of package netns is about.
func about(path string, err error) error {
	var call *os.SyscallError
	switch {
	case errors.As(err, &call):
		return &OpError{call.Syscall, path, call.Err}
	case errors.Is(err, ErrNotExist), errors.Is(err, ErrNotNetns):
		return fmt.Errorf("%w: %s", err, quote(path))
	default:
		return err
	}
}

// firstInode is the number of the machine's first network namespace since Linux
// 6.18 (include/uapi/linux/nsfs.h, NET_NS_INIT_INO). Earlier kernels number all of
// them from PROC_DYNAMIC_FIRST on, which is above it, so there no namespace has it.
const firstInode = 0xEFFFFFF9

// refuseHost refuses the namespaces whose loopback is not a container's.
func (n *Netns) refuseHost() error {
	for _, host := range []struct{ path, whose string }{
		{"/proc/thread-self/ns/net", "the caller's own"},
		{"/proc/self/ns/net", "the caller's own"}, // the main thread's, should this one have left it
		{"/proc/1/ns/net", "that of process 1, the node's"},
	} {
		id, err := netns.IDOf(host.path)
		switch {
		case err == nil && id == n.ns.ID():
			return fmt.Errorf("%w: %s is %s", ErrHost, quote(n.path), host.whose)
		case err == nil:
		case host.path == "/proc/1/ns/net" && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOENT)):
			// Not ours to read (ptrace(2), hidepid): then it cannot be told apart.
		default:
			return about(n.path, err)
		}
	}
	if n.ns.ID().Ino == firstInode {
		return fmt.Errorf("%w: %s is the machine's first", ErrHost, quote(n.path))
	}
	return nil
}

// dial opens a netlink socket inside the namespace.
func (n *Netns) dial() (c *conn, err error) {
	err = n.ns.Do(func() (err error) { c, err = dialCurrent(n.path); return err })
	return c, about(n.path, err)
}
