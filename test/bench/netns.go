package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
)

// namespace is a container's network namespace, held by a bind mount.
type namespace struct {
	path string
	h    *netlink.Handle // a socket inside
}

// newNamespace makes a namespace in dir, with lo down.
func newNamespace(dir string, n int) (*namespace, error) {
	ns := &namespace{path: filepath.Join(dir, "ns"+strconv.Itoa(n))}
	if err := os.WriteFile(ns.path, nil, 0o600); err != nil {
		return nil, err
	}
	return ns, netns.InNew(func() (err error) {
		if err = unix.Mount("/proc/thread-self/ns/net", ns.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", ns.path, err)
		}
		ns.h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
}

func (n *namespace) remove() error {
	n.h.Close()
	if err := unix.Unmount(n.path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", n.path, err)
	}
	return os.Remove(n.path)
}

var lo = &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}}

func (n *namespace) setUp(up bool) error {
	if up {
		return n.h.LinkSetUp(lo)
	}
	return n.h.LinkSetDown(lo)
}

// expectLo says when lo is not what a command should have left behind: a
// program that fails fast is not to win.
func (n *namespace) expectLo(up bool) error {
	l, err := n.h.LinkByIndex(1)
	if err != nil {
		return err
	}
	if is := l.Attrs().Flags&net.FlagUp != 0; is != up {
		return fmt.Errorf("lo is up: %v, expected %v", is, up)
	}
	return nil
}
