package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/isolation/spec"
)

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// packet sends a frame out of an interface with AF_PACKET.
func packet(i net.Interface, ethertype uint16, frame []byte) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(ethertype)))
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Protocol: htons(ethertype), Ifindex: i.Index, Halen: 6}))
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

var everybody = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func mac(i net.Interface) []byte {
	if len(i.HardwareAddr) == 6 {
		return i.HardwareAddr
	}
	return make([]byte, 6)
}

// frame broadcasts a frame of the ethertype that IEEE 802 keeps for
// experiments. The target listens for it.
func frame(p spec.Probe) error {
	return each(func(i net.Interface) error {
		b := append(append([]byte{}, everybody...), mac(i)...)
		b = binary.BigEndian.AppendUint16(b, spec.Ethertype)
		b = append(b, p.Token...)
		fd, err := packet(i, spec.Ethertype, append(b, make([]byte, 64)...))
		if err != nil {
			return err
		}
		unix.Close(fd)
		return errSent
	})
}

// arp asks who has the target's address and waits for the answer.
func arp(p spec.Probe) error {
	target := net.ParseIP(p.Addr).To4()
	return each(func(i net.Interface) error {
		b := append(append([]byte{}, everybody...), mac(i)...)
		b = append(b, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
		b = append(b, mac(i)...)
		b = append(b, 0, 0, 0, 0) // an ARP probe: no address of our own
		b = append(append(b, make([]byte, 6)...), target...)
		fd, err := packet(i, unix.ETH_P_ARP, append(b, make([]byte, 18)...))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		buf := make([]byte, 128)
		for end := time.Now().Add(patience); time.Now().Before(end); {
			n, err := unix.Read(fd, buf)
			if err != nil {
				return fmt.Errorf("no answer: %w", err)
			}
			if n >= 42 && binary.BigEndian.Uint16(buf[20:]) == 2 && net.IP(buf[28:32]).Equal(target) {
				return nil
			}
		}
		return errors.New("no answer")
	})
}

// links: does netlink show an interface that leads somewhere?
func links(spec.Probe) error {
	all, err := netlink.LinkList()
	if err != nil {
		return err
	}
	return others(len(all), func(i int) string { return all[i].Attrs().Name })
}

// sysfs shows the interfaces of the namespace it was mounted in.
func sysfs(spec.Probe) error {
	all, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return err
	}
	return others(len(all), func(i int) string { return all[i].Name() })
}

func others(n int, name func(int) string) error {
	var names []string
	for i := range n {
		if name(i) != "lo" {
			return nil
		}
		names = append(names, name(i))
	}
	return fmt.Errorf("only %v", names)
}

// neighbours: does the kernel know a hardware address?
func neighbours(p spec.Probe) error {
	_ = tcp(p) // to have spoken with another host
	all, err := netlink.NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, n := range all {
		if len(n.HardwareAddr) == 6 && !strings.HasPrefix(n.HardwareAddr.String(), "00:00:00") && n.HardwareAddr[0]&1 == 0 {
			return nil
		}
	}
	return fmt.Errorf("none among %d entries", len(all))
}

// otherNamespaces lists the links of another namespace by its id in this one.
// An interface whose peer is elsewhere gives that namespace an id.
func otherNamespaces(p spec.Probe) error {
	var last error
	for nsid := range 8 {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(nsid))))
		msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		if err != nil {
			last = fmt.Errorf("namespace id %d: %w", nsid, err)
			continue
		}
		for _, m := range msgs {
			if strings.Contains(string(m), p.Expect) {
				return nil
			}
		}
		last = fmt.Errorf("namespace id %d: %d links, none of them %s", nsid, len(msgs), p.Expect)
	}
	return last
}

// throughID makes a veth pair whose other end is in a namespace that this one
// has an id for, up and on the bridge there, and dials out of its own end.
// The id stays when the interface that it was given for is gone.
func throughID(p spec.Probe) error {
	bridge := 0
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(0)))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return fmt.Errorf("list the links of namespace id 0: %w", err)
	}
	for _, m := range msgs {
		if strings.Contains(string(m), "control0\x00") {
			bridge = int(nl.DeserializeIfInfomsg(m).Index)
		}
	}

	req = nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	there := nl.NewIfInfomsg(unix.AF_UNSPEC)
	there.Flags, there.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(there)
	req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(0)))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("there0")))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("here0"))
	peer.AddRtAttr(unix.IFLA_NET_NS_PID, nl.Uint32Attr(uint32(os.Getpid())))
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	defer drop("here0")
	if err := up("here0", spec.MacvlanAddr); err != nil {
		return err
	}
	return tcp(p)
}

func named(name string) netlink.LinkAttrs {
	la := netlink.NewLinkAttrs()
	la.Name = name
	return la
}

// up gives a link an address and sets it up.
func up(name, cidr string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if cidr != "" {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("address %s: %w", cidr, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// drop removes a link that a probe made.
func drop(name string) {
	if l, err := netlink.LinkByName(name); err == nil {
		_ = netlink.LinkDel(l)
	}
}

// moveToProcess1 makes a veth pair and moves one end to the namespace of
// process 1, as a way onto the host. The test looks for it there.
func moveToProcess1(p spec.Probe) error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: named("stay"), PeerName: p.Expect}); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	l, err := netlink.LinkByName(p.Expect)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetNsPid(l, 1); err != nil {
		return fmt.Errorf("move veth: %w", err)
	}
	if _, err := netlink.LinkByName(p.Expect); err == nil {
		return errors.New("process 1 is in this namespace: it stayed here")
	}
	return errSent
}

// setns goes into the network namespace of process 1 and dials from there.
func setns(p spec.Probe) error {
	runtime.LockOSThread() // for good: nothing else shall run in there
	fd, err := unix.Open("/proc/1/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return tcp(p)
}

// vxlan makes a tunnel to the target and dials through it.
func vxlan(p spec.Probe) error {
	host, _, err := net.SplitHostPort(p.Addr)
	if err != nil {
		return err
	}
	v := &netlink.Vxlan{LinkAttrs: named("vx0"), VxlanId: spec.VNI, Group: net.ParseIP(host), Port: spec.VxlanPort, Learning: true}
	if err := netlink.LinkAdd(v); err != nil {
		return fmt.Errorf("add vxlan: %w", err)
	}
	defer drop("vx0")
	if err := up("vx0", spec.VxlanInside); err != nil {
		return err
	}
	return dial("tcp", spec.VxlanTarget, p)
}

// macvlan makes a macvlan on every interface, gives it an address of the
// target's subnet and dials out of it. A container that has only lo makes a
// veth pair first, since a macvlan does not sit on a loopback interface.
func macvlan(p spec.Probe) error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: named("own0"), PeerName: "own1"}); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	defer drop("own0")
	if err := errors.Join(up("own0", ""), up("own1", "")); err != nil {
		return err
	}
	return each(func(i net.Interface) error {
		mv := &netlink.Macvlan{LinkAttrs: named("mv0"), Mode: netlink.MACVLAN_MODE_BRIDGE}
		mv.ParentIndex = i.Index
		if err := netlink.LinkAdd(mv); err != nil {
			return fmt.Errorf("add macvlan: %w", err)
		}
		defer drop("mv0")
		if err := up("mv0", spec.MacvlanAddr); err != nil {
			return err
		}
		c, err := device("mv0").Dial("tcp", p.Addr)
		if err != nil {
			return err
		}
		defer c.Close()
		return banner(c, p)
	})
}

// tun makes a tun device and feeds the kernel a packet for the target, as if
// it came from outside. The target listens for it.
func tun(p spec.Probe) error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	ifr, err := unix.NewIfreq("probe0")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	if err := up("probe0", spec.TunAddr); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(p.Addr)
	if err != nil {
		return err
	}
	dst, err := net.ResolveUDPAddr("udp", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	udpLen := 8 + len(p.Token)
	b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	b = append(append(b, net.ParseIP(spec.TunPeer).To4()...), dst.IP.To4()...)
	binary.BigEndian.PutUint16(b[2:], uint16(20+udpLen))
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	b = binary.BigEndian.AppendUint16(b, 4242)
	b = binary.BigEndian.AppendUint16(b, uint16(dst.Port))
	b = binary.BigEndian.AppendUint16(b, uint16(udpLen))
	b = append(b, 0, 0) // no checksum
	b = append(b, p.Token...)
	if _, err := f.Write(b); err != nil {
		return err
	}
	return errSent
}

// route throws the default route away and adds its own, over every interface,
// to an address behind the target.
func route(p spec.Probe) error {
	gw := net.ParseIP(spec.HostAddr)
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	_ = netlink.RouteDel(&netlink.Route{Dst: all})
	return each(func(i net.Interface) error {
		r := &netlink.Route{Dst: all, LinkIndex: i.Index, Gw: gw, Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("add route: %w", err)
		}
		err := tcp(p)
		if err != nil {
			_ = netlink.RouteDel(r)
		}
		return err
	})
}
