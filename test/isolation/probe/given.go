package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/isolation/spec"
)

// given is the first descriptor that a container inherits beside stdio.
const given = 3

// inherited connects a TCP socket that was made elsewhere: a socket stays in the
// namespace of the one who made it.
func inherited(p spec.Probe) error {
	to, err := net.ResolveTCPAddr("tcp4", p.Addr)
	if err != nil {
		return err
	}
	if err := unix.Connect(given, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	f := os.NewFile(given, "given")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return err
	}
	defer c.Close()
	return banner(c, p)
}

// moveBySocket asks a socket for its namespace (net/socket.c, SIOCGSKNS, for
// CAP_NET_ADMIN) and makes a veth that leads there.
func moveBySocket(p spec.Probe) error {
	const siocgskns = 0x894C
	ns, err := unix.IoctlRetInt(given, siocgskns)
	if err != nil {
		return fmt.Errorf("SIOCGSKNS: %w", err)
	}
	defer unix.Close(ns)
	veth := &netlink.Veth{LinkAttrs: named("stay1"), PeerName: p.Expect, PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	return errSent
}

// byHandle opens a file that is in no mount of the container, by its number on
// the disk (open_by_handle_at(2)). The test gives the number; an attacker tries them.
func byHandle(p spec.Probe) error {
	raw, err := hex.DecodeString(p.Addr)
	if err != nil || len(raw) < 2 {
		return errors.Join(err, errors.New("no handle"))
	}
	disk, err := unix.Open("/etc/resolv.conf", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(disk)
	fd, err := unix.OpenByHandleAt(disk, unix.NewFileHandle(int32(raw[0]), raw[1:]), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_by_handle_at: %w", err)
	}
	defer unix.Close(fd)
	return dial("unix", fmt.Sprintf("/proc/self/fd/%d", fd), p)
}
