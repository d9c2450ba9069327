//go:build inside

// Package inside shows, in a machine whose kernel has the modules, what the
// kernel of most development machines cannot: it runs where package kernels puts
// it, beside bin/none, and is not built elsewhere.
package inside

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

const plugin = "../../../bin/none"

// call runs the plugin on a namespace, as a runtime does.
func call(t *testing.T, command, netns string) (stdout string, ok bool) {
	t.Helper()
	cmd := exec.Command(plugin)
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=" + netns, "CNI_PATH=/"}
	cmd.Stdin = strings.NewReader(`{"cniVersion": "1.1.0", "name": "airgap", "type": "none"}`)
	out, err := cmd.Output()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), err == nil
}

// refused calls ADD and CHECK, and wants both to fail with code 100 and the words.
func refused(t *testing.T, netns string, words ...string) {
	t.Helper()
	for _, command := range []string{"ADD", "CHECK"} {
		out, ok := call(t, command, netns)
		var e struct {
			Code         int
			Msg, Details string
		}
		if err := json.Unmarshal([]byte(out), &e); err != nil || ok || e.Code != 100 {
			t.Errorf("%s: %s", command, out)
			continue
		}
		for _, w := range words {
			if !strings.Contains(e.Msg+e.Details, w) {
				t.Errorf("%s does not say %q: %s", command, w, out)
			}
		}
	}
}

// accepted calls ADD and CHECK, and wants both to succeed with lo alone.
func accepted(t *testing.T, netns string) {
	t.Helper()
	out, ok := call(t, "ADD", netns)
	var result struct{ Interfaces []struct{ Name string } }
	if err := json.Unmarshal([]byte(out), &result); err != nil || !ok || len(result.Interfaces) != 1 || result.Interfaces[0].Name != "lo" {
		t.Errorf("ADD: %s", out)
	}
	if out, ok := call(t, "CHECK", netns); !ok {
		t.Errorf("CHECK: %s", out)
	}
}

// fallbacks are the devices that a new namespace is born with
// (Documentation/admin-guide/sysctl/net.rst, fb_tunnels_only_for_init_net).
var fallbacks = map[string]string{
	"tunl0": "ipip", "gre0": "gre", "gretap0": "gretap", "erspan0": "erspan", "ip_vti0": "vti",
	"sit0": "sit", "ip6tnl0": "ip6tnl", "ip6gre0": "ip6gre", "ip6_vti0": "vti6",
}

// TestFallbackTunnels: all nine are there, of the kind that we know, and none is
// a reason to refuse until it is used.
func TestFallbackTunnels(t *testing.T) {
	ns := nstest.New(t)
	found := map[string]string{}
	ns.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Attrs().Name != "lo" {
				found[l.Attrs().Name] = l.Type()
			}
		}
		return err
	})
	for name := range fallbacks {
		if found[name] == "" {
			t.Errorf("a new namespace has no %s: %v", name, found)
		}
	}
	for name := range found {
		if fallbacks[name] == "" {
			t.Errorf("a new namespace has a %s (%s)", name, found[name])
		}
	}
	accepted(t, ns.Path)
	for name, kind := range fallbacks {
		t.Run(name, func(t *testing.T) {
			up, addressed := nstest.New(t), nstest.New(t)
			with(t, up, name, func(l netlink.Link) error {
				err := netlink.LinkSetUp(l)
				if errors.Is(err, unix.EADDRNOTAVAIL) { // like Ethernet, and without a MAC
					err = errors.Join(netlink.LinkSetHardwareAddr(l, []byte{2, 0, 0, 0, 0, 1}), netlink.LinkSetUp(l))
				}
				return err
			})
			refused(t, up.Path, name, kind)
			with(t, addressed, name, func(l netlink.Link) error {
				return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}})
			})
			refused(t, addressed.Path, name, kind)
		})
	}
}

// with does something to an interface of a namespace.
func with(t *testing.T, ns *nstest.NS, name string, do func(netlink.Link) error) {
	t.Helper()
	ns.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return do(l)
	})
}

// noFallbacks makes new namespaces without fallback tunnels, until the test ends.
func noFallbacks(t *testing.T) {
	t.Helper()
	const sysctl = "/proc/sys/net/core/fb_tunnels_only_for_init_net"
	if err := os.WriteFile(sysctl, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(sysctl, []byte("0"), 0) })
}

// TestForeignTunnel: a tunnel that leads somewhere is refused under a fallback's
// name and kind, down and without an address as it is. First the control.
func TestForeignTunnel(t *testing.T) {
	noFallbacks(t)
	accepted(t, nstest.New(t).Path)
	remote := []byte{192, 0, 2, 1}
	t.Run("from another namespace", func(t *testing.T) {
		ns, outside := nstest.New(t), nstest.New(t)
		file, err := os.Open(ns.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		outside.Do(func() error {
			err := netlink.LinkAdd(&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "tunl0"}, Local: []byte{192, 0, 2, 2}, Remote: remote})
			return err
		})
		with(t, outside, "tunl0", func(l netlink.Link) error { return netlink.LinkSetNsFd(l, int(file.Fd())) })
		refused(t, ns.Path, "tunl0", "ipip")
	})
	t.Run("with a remote end", func(t *testing.T) {
		ns := nstest.New(t)
		ns.Do(func() error {
			return netlink.LinkAdd(&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "tunl0"}, Local: []byte{192, 0, 2, 2}, Remote: remote})
		})
		refused(t, ns.Path, "tunl0", "ipip")
	})
	t.Run("of another kind", func(t *testing.T) {
		ns := nstest.New(t)
		ns.Do(func() error { return netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "tunl0"}}) })
		refused(t, ns.Path, "tunl0", "dummy")
	})
}

// TestKinds: every kind of interface is refused, by its name and kind.
func TestKinds(t *testing.T) {
	noFallbacks(t)
	named := func(name string) netlink.LinkAttrs { return netlink.LinkAttrs{Name: name} }
	on := func(parent string, l func(index int) netlink.Link) func() error {
		return func() error {
			if err := netlink.LinkAdd(&netlink.Dummy{LinkAttrs: named(parent)}); err != nil {
				return err
			}
			p, err := netlink.LinkByName(parent)
			if err != nil {
				return err
			}
			return netlink.LinkAdd(l(p.Attrs().Index))
		}
	}
	for kind, add := range map[string]func() error{
		"wireguard": func() error { return netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: named("x0")}) },
		"vrf":       func() error { return netlink.LinkAdd(&netlink.Vrf{LinkAttrs: named("x0"), Table: 10}) },
		"dummy":     func() error { return netlink.LinkAdd(&netlink.Dummy{LinkAttrs: named("x0")}) },
		"xfrm":      func() error { return netlink.LinkAdd(&netlink.Xfrmi{LinkAttrs: named("x0"), Ifid: 7}) },
		"geneve": func() error {
			return netlink.LinkAdd(&netlink.Geneve{LinkAttrs: named("x0"), ID: 7, Remote: []byte{192, 0, 2, 1}, Dport: 6081})
		},
		"vcan":  func() error { return netlink.LinkAdd(&netlink.GenericLink{LinkAttrs: named("x0"), LinkType: "vcan"}) },
		"vxcan": func() error { return netlink.LinkAdd(&netlink.GenericLink{LinkAttrs: named("x0"), LinkType: "vxcan"}) },
		"ipvlan": on("parent", func(index int) netlink.Link {
			return &netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: "x0", ParentIndex: index}, Mode: netlink.IPVLAN_MODE_L2}
		}),
		"macvlan": on("parent", func(index int) netlink.Link {
			return &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "x0", ParentIndex: index}, Mode: netlink.MACVLAN_MODE_BRIDGE}
		}),
	} {
		t.Run(kind, func(t *testing.T) {
			ns := nstest.New(t)
			ns.Do(add)
			refused(t, ns.Path, "x0", kind)
		})
	}
}

const port = 4711

// listen holds an AF_VSOCK port here.
func listen(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}), unix.Listen(fd, 1))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// send sends a word to that port.
func send() error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: port}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	_, err = unix.Write(fd, []byte("out"))
	return err
}

// TestVsock: a namespace that is isolated reaches a listener of another one
// through AF_VSOCK, and data passes. That is why conf/seccomp/airgap.json
// refuses that family; package node shows that it does.
func TestVsock(t *testing.T) {
	listener := listen(t)
	defer unix.Close(listener)
	ns := nstest.New(t)
	accepted(t, ns.Path)
	ns.Do(send)
	conn, _, err := unix.Accept(listener)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(conn)
	data := make([]byte, 16)
	if n, err := unix.Read(conn, data); err != nil || !slices.Equal(data[:n], []byte("out")) {
		t.Errorf("read %q, %v", data[:n], err)
	}
}

// TestVsockOfItsOwn: where the kernel can give new namespaces a vsock of their own
// (Linux 7.0, Documentation/networking/af_vsock.rst), that way out is closed.
func TestVsockOfItsOwn(t *testing.T) {
	const mode = "/proc/sys/net/vsock/child_ns_mode"
	if _, err := os.Stat(mode); errors.Is(err, os.ErrNotExist) {
		t.Log("this kernel has one vsock for the whole machine")
		return
	}
	if err := os.WriteFile(mode, []byte("local"), 0); err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(mode, []byte("global"), 0)
	ns := nstest.New(t)
	accepted(t, ns.Path)
	listener := listen(t)
	defer unix.Close(listener)
	if err := ns.Try(send); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		t.Errorf("a namespace with a vsock of its own gets through: %v", err)
	}
}
