package main

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/cni-none/cni-none/internal/nstest"
)

// netlinkCommand changes the namespace of the calling thread:
//
//	nl lo up|down
//	nl addr add|del ADDR DEV
//	nl link add KIND NAME        a veth brings a peer, NAMEp; a macvlan a veth below it
//	nl link up|down|del NAME
//	nl link name OLD NEW
//	nl link aside NAME           give a link of that name, if there is one, another
//	nl ipv6 on|off
func netlinkCommand(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: nl lo|addr|link ...")
	}
	switch what, args := args[0]+" "+args[1], args[2:]; what {
	case "lo up":
		return setLink("lo", netlink.LinkSetUp)
	case "lo down":
		return setLink("lo", netlink.LinkSetDown)
	case "addr add":
		return changeAddr(args[0], args[1], netlink.AddrAdd)
	case "addr del":
		return changeAddr(args[0], args[1], netlink.AddrDel)
	case "link add":
		return addLink(args[0], args[1])
	case "link up":
		return setLink(args[0], netlink.LinkSetUp)
	case "link down":
		return setLink(args[0], netlink.LinkSetDown)
	case "link del":
		return setLink(args[0], netlink.LinkDel)
	case "link name":
		return setLink(args[0], func(l netlink.Link) error { return netlink.LinkSetName(l, args[1]) })
	case "link aside":
		if _, err := netlink.LinkByName(args[0]); errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		return setLink(args[0], func(l netlink.Link) error { return netlink.LinkSetName(l, args[0]+"_") })
	case "ipv6 on":
		return os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("0"), 0)
	case "ipv6 off":
		return os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0)
	default:
		return fmt.Errorf("nl %s: unknown", what)
	}
}

// connectOnce leaves a namespace knowing another one that lives on.
func connectOnce(t *testing.T, netns string) error {
	other, err := os.Open(nstest.New(t).Path)
	if err != nil {
		return err
	}
	defer other.Close()
	return nstest.At(t, netns).Try(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "peer", PeerNamespace: netlink.NsFd(other.Fd())}
		return errors.Join(netlink.LinkAdd(veth), setLink("eth0", netlink.LinkDel))
	})
}

func setLink(name string, change func(netlink.Link) error) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return change(link)
}

func changeAddr(addr, name string, change func(netlink.Link, *netlink.Addr) error) error {
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	if a.IP.IsLoopback() {
		a.Scope = int(netlink.SCOPE_HOST) // the kernel refuses two scopes in one prefix
	}
	return setLink(name, func(l netlink.Link) error { return change(l, a) })
}

func addLink(kind, name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	switch kind {
	case "veth":
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "p"})
	case "bridge":
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	case "ifb":
		return netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs})
	case "tun":
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN})
	case "vxlan":
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 7, Port: 4789})
	case "macvlan":
		if err := addLink("veth", name+"v"); err != nil {
			return err
		}
		return setLink(name+"v", func(below netlink.Link) error {
			attrs.ParentIndex = below.Attrs().Index
			return netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
		})
	default:
		return fmt.Errorf("no link of kind %s here", kind)
	}
}
