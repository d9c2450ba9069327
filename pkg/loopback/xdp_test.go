package loopback

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// passAll loads an XDP program that lets every packet pass (bpf(2)): enough to be
// seen; one that redirects by a DEVMAP carries packets into another namespace.
func passAll() (fd int, err error) {
	const movR0, exit, xdpPass, typeXDP = 0xb7, 0x95, 2, 6
	program := make([]byte, 16) // two struct bpf_insn
	program[0], program[8] = movR0, exit
	binary.NativeEndian.PutUint32(program[4:], xdpPass)
	license := []byte("GPL\x00")
	attr := struct { // union bpf_attr, BPF_PROG_LOAD
		kind, count           uint32
		instructions, licence uint64
		_                     [120]byte
	}{kind: typeXDP, count: 2, instructions: uint64(uintptr(unsafe.Pointer(&program[0]))), licence: uint64(uintptr(unsafe.Pointer(&license[0])))}
	r, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(program)
	runtime.KeepAlive(license)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// TestXDP: an XDP program on lo is seen, and an exclusive namespace may not have one.
func TestXDP(t *testing.T) {
	ns := nstest.New(t)
	n := open1(t, ns)
	before, err := n.Up(Exclusive)
	if err != nil || before.Lo().XDP {
		t.Fatalf("without a program: %+v, %v", before, err)
	}
	program, err := passAll()
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) && os.Getenv("CI") == "" {
		t.Skipf("needs bpf(2): %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(program)
	ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		return errors.Join(err, netlink.LinkSetXdpFd(lo, program))
	})
	var f *Findings
	if _, err := n.Up(Exclusive); !errors.As(err, &f) || !f.XDP || len(f.Violations()) != 1 {
		t.Error(err)
	}
	if _, err := n.Up(Shared); err != nil {
		t.Errorf("shared: %v", err)
	}
	ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		return errors.Join(err, netlink.LinkSetXdpFd(lo, -1))
	})
	if _, err := n.Up(Exclusive); err != nil {
		t.Errorf("without it again: %v", err)
	}
}

// TestParseXDP: what the kernel says of XDP in a way that is not known counts as a program.
func TestParseXDP(t *testing.T) {
	for want, values := range map[bool][][]byte{
		false: {nl.NewRtAttr(nl.IFLA_XDP_ATTACHED, []byte{0}).Serialize()},
		true:  {nil, {1}, nl.NewRtAttr(nl.IFLA_XDP_ATTACHED, []byte{2}).Serialize(), nl.NewRtAttr(nl.IFLA_XDP_ATTACHED, nil).Serialize()},
	} {
		for _, value := range values {
			msg := append(linkMessage(1, "lo", "", unix.IFF_LOOPBACK), nl.NewRtAttr(unix.IFLA_XDP, value).Serialize()...)
			if l, err := parseLink(msg); err != nil || l.XDP != want {
				t.Errorf("%x: %v, %v", value, l.XDP, err)
			}
		}
	}
}

// TestFallbackTunnelElsewhere: a device that has the name of a fallback tunnel
// and is tied to another namespace is an interface like any other.
func TestFallbackTunnelElsewhere(t *testing.T) {
	own := linkMessage(2, "tunl0", "ipip", 0)
	tied := append(linkMessage(2, "tunl0", "ipip", 0), nl.NewRtAttr(unix.IFLA_LINK_NETNSID, nl.Uint32Attr(0)).Serialize()...)
	for name, msg := range map[string][]byte{"own": own, "tied": tied} {
		l, err := parseLink(msg)
		if err != nil {
			t.Fatal(err)
		}
		s := Survey{Links: []Link{l}}
		if len(s.Others()) == 0 != (name == "own") {
			t.Errorf("%s: %v", name, s.Others())
		}
	}
}

// TestForeignFallback: a tunnel that leads somewhere does not pass for the
// kernel's own because it has its name. Needs a kernel with ipip.
func TestForeignFallback(t *testing.T) {
	ns, other := nstest.New(t), nstest.New(t)
	n := open1(t, ns)
	tunnel := func() *netlink.Iptun {
		attrs := netlink.LinkAttrs{Name: "tunl0", TxQLen: -1}
		return &netlink.Iptun{LinkAttrs: attrs, Local: net.IPv4(192, 0, 2, 1), Remote: net.IPv4(192, 0, 2, 2)}
	}
	aside := func() error { // the kernel's own, where there is one
		own, err := netlink.LinkByName("tunl0")
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		return errors.Join(err, netlink.LinkSetName(own, "own0"))
	}
	foreign := func(what string) {
		t.Helper()
		s, err := n.Survey()
		if err != nil || !slices.ContainsFunc(s.Others(), func(l Link) bool { return l.Name == "tunl0" }) {
			t.Errorf("%s: %v, %v", what, s.Links, err)
		}
	}
	ns.Do(aside)
	if err := ns.Try(func() error { return netlink.LinkAdd(tunnel()) }); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no ipip")
	} else if err != nil {
		t.Fatal(err)
	}
	foreign("with a remote end")
	ns.Do(func() error {
		l, err := netlink.LinkByName("tunl0")
		return errors.Join(err, netlink.LinkDel(l))
	})
	target, err := os.Open(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	other.Do(aside)
	other.Do(func() error {
		moved := tunnel()
		moved.Remote = nil
		if err := netlink.LinkAdd(moved); err != nil {
			return err
		}
		return netlink.LinkSetNsFd(moved, int(target.Fd()))
	})
	foreign("with its underlay in another namespace")
}
