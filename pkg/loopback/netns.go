package loopback

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Netns is an open network namespace of a container. It keeps the namespace
// alive until it is closed, whatever becomes of the path.
type Netns struct {
	path string
	fd   int
}

// Open opens the network namespace at path, for instance /run/netns/NAME or
// /proc/PID/ns/net, and refuses the caller's own and, where that can be read,
// process 1's. It looks the path up once, never blocks, whatever lies there,
// and does not open anything but a namespace.
//
// Errors: [ErrNotExist], [ErrNotNetns], [ErrHost], [*OpError].
func Open(path string) (*Netns, error) {
	n, err := openAny(path)
	if err != nil {
		return nil, err
	}
	if err := n.guard(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Close lets go of the namespace.
func (n *Netns) Close() error { return unix.Close(n.fd) }

// openAny is Open for whoever only looks: it also opens the caller's own namespace.
func openAny(path string) (*Netns, error) {
	// O_PATH names a file without calling its driver: opening a fifo may block,
	// opening a device may do anything (watchdogs start, tapes rewind).
	name, err := open(path, unix.O_PATH)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENAMETOOLONG):
		// ESRCH: /proc/PID/ns/net of a process that ends right now.
		return nil, fmt.Errorf("%w: %s", ErrNotExist, path)
	case err != nil:
		return nil, &OpError{"open", path, err}
	}
	defer unix.Close(name)

	var fs unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(name, &fs) }); err != nil {
		return nil, &OpError{"fstatfs", path, err}
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, fmt.Errorf("%w: %s", ErrNotNetns, path)
	}
	fd, err := open("/proc/self/fd/"+strconv.Itoa(name), unix.O_RDONLY)
	if err != nil {
		return nil, &OpError{"open", path, err}
	}
	// nsfs holds every kind of namespace; ioctl_ns(2) tells which one this is.
	kind, err := retryInt(func() (int, error) { return unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE) })
	if err != nil {
		unix.Close(fd)
		return nil, &OpError{"ioctl NS_GET_NSTYPE", path, err}
	}
	if kind != unix.CLONE_NEWNET {
		unix.Close(fd)
		return nil, fmt.Errorf("%w: %s is another kind of namespace", ErrNotNetns, path)
	}
	return &Netns{path, fd}, nil
}

// guard refuses the namespaces whose loopback is not a container's. Two files
// name one namespace if device and inode are the same (namespaces(7)).
func (n *Netns) guard() error {
	var target unix.Stat_t
	if err := retry(func() error { return unix.Fstat(n.fd, &target) }); err != nil {
		return &OpError{"fstat", n.path, err}
	}
	for _, host := range []struct{ path, whose string }{
		{"/proc/thread-self/ns/net", "the caller's own"},
		{"/proc/self/ns/net", "the caller's own"}, // the main thread's, should this one have left it
		{"/proc/1/ns/net", "that of process 1, the node's"},
	} {
		var st unix.Stat_t
		err := retry(func() error { return unix.Stat(host.path, &st) })
		switch {
		case err == nil && st.Dev == target.Dev && st.Ino == target.Ino:
			return fmt.Errorf("%w: %s is %s", ErrHost, n.path, host.whose)
		case err == nil:
		case host.path == "/proc/1/ns/net" && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOENT)):
			// Not ours to read (ptrace(2), hidepid): then it cannot be told apart.
		default:
			return &OpError{"stat " + host.path, n.path, err}
		}
	}
	return nil
}

// dial opens a netlink socket inside the namespace.
func (n *Netns) dial() (*conn, error) {
	var c *conn
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		home, openErr := open("/proc/thread-self/ns/net", unix.O_RDONLY)
		if openErr != nil {
			runtime.UnlockOSThread()
			err = &OpError{"open /proc/thread-self/ns/net", n.path, openErr}
			return
		}
		defer unix.Close(home)
		if setErr := setns(n.fd); setErr != nil {
			runtime.UnlockOSThread()
			err = &OpError{"setns", n.path, setErr}
			return
		}
		c, err = dialHere(n.path)
		if setns(home) == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine, and nobody else gets to run in there
	}()
	<-done
	return c, err
}

func setns(fd int) error {
	return retry(func() error { return unix.Setns(fd, unix.CLONE_NEWNET) })
}

func open(path string, flags int) (int, error) {
	return retryInt(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) })
}

// retry repeats a system call that a signal interrupted (signal(7)).
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func retryInt(call func() (int, error)) (int, error) {
	var v int
	err := retry(func() (err error) { v, err = call(); return err })
	return v, err
}
