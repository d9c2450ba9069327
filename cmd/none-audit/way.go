package main

import (
	"errors"
	"io/fs"

	"github.com/cni-none/cni-none/internal/netns"
	"golang.org/x/sys/unix"
)

// A way leads to a namespace: a file below the root directory of a process.
// What is under another process's root its owner may move at any time, so the
// way is checked again when it is walked.
type way struct {
	root  string // "/proc/PID/root", or "" for a path of our own
	path  string
	mount bool // it leads over a bind mount
	link  bool // it is ns/net of a process or thread, which leads nowhere else
}

// maxWays bounds the ways of each kind to remember: processes end between the
// walk and the look.
const maxWays = 4

// open opens what the way leads to if it is a network namespace, and nothing else.
func (w way) open() (*netns.NS, error) {
	if w.link {
		return netns.OpenLink(w.path)
	}
	if w.root == "" {
		return netns.Open(w.path)
	}
	root, err := retryOpen(func() (int, error) {
		return unix.Open(w.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	fd, err := openBelow(root, w.path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return netns.FromFD(fd)
}

const resolveCached = 0x20 // RESOLVE_CACHED, include/uapi/linux/openat2.h

// openBelow names a file under the root directory of another process. The kernel
// names mount points without links, and has what is on the way to one in its
// cache: no server needs to be asked, nor a FUSE program that would make us wait.
func openBelow(root int, path string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | resolveCached,
	}
	fd, err := retryOpen(func() (int, error) { return unix.Openat2(root, path, &how) })
	if errors.Is(err, unix.EINVAL) { // RESOLVE_CACHED came with Linux 5.12
		how.Resolve &^= resolveCached
		fd, err = retryOpen(func() (int, error) { return unix.Openat2(root, path, &how) })
	}
	return fd, err
}

// retryOpen repeats what was interrupted, or raced with a rename (openat2(2), EAGAIN).
func retryOpen(open func() (int, error)) (fd int, err error) {
	for range 16 {
		fd, err = open()
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return fd, err
}

// addWay remembers a way, those over mounts last.
func (ns *namespace) addWay(w way) {
	alike := 0
	for _, other := range ns.ways {
		if other.mount == w.mount {
			alike++
		}
	}
	switch {
	case alike >= maxWays:
	case w.mount:
		ns.ways = append(ns.ways, w)
	default:
		ns.ways = append([]way{w}, ns.ways...)
	}
}

// open opens the namespace by the first way that still leads there. The error is
// one that gone knows where nothing leads there any more.
func (ns *namespace) open() (*netns.NS, error) {
	if ns.held != nil {
		return netns.FromFD(ns.held.FD())
	}
	err := error(fs.ErrNotExist)
	for _, w := range ns.ways {
		n, openErr := w.open()
		switch {
		case openErr != nil:
			if !gone(openErr) {
				err = openErr
			}
		case n.ID().Ino != ns.inode: // the process moved on, or the pid is another's
			n.Close()
		default:
			return n, nil
		}
	}
	return nil, err
}

// keep opens the namespace of a process that may have ended by the time that it
// is looked at.
func (ns *namespace) keep(dir int, name string) bool {
	if ns.held != nil {
		return true
	}
	fd, err := openAt(dir, name, unix.O_RDONLY)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := netns.FromFD(fd)
	if err != nil {
		return false
	}
	if n.ID().Ino != ns.inode {
		n.Close()
		return false
	}
	ns.held = n
	return true
}

// letGo closes what keep opened.
func (ns *namespace) letGo() {
	if ns.held != nil {
		ns.held.Close()
		ns.held = nil
	}
}
