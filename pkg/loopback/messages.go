package loopback

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// parseLink reads an RTM_NEWLINK message (rtnetlink(7), struct ifinfomsg).
func parseLink(b []byte) (Link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return Link{}, errMalformed
	}
	info := nl.DeserializeIfInfomsg(b)
	l := Link{
		Index:    int(info.Index),
		Kind:     info.EncapType(),
		Up:       info.Flags&unix.IFF_UP != 0,
		Loopback: info.Flags&unix.IFF_LOOPBACK != 0,
		remote:   info.Flags&unix.IFF_POINTOPOINT != 0,
	}
	err := attributes(b[unix.SizeofIfInfomsg:], func(typ uint16, value []byte) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(value)
		case unix.IFLA_ADDRESS:
			l.MAC = append(net.HardwareAddr(nil), value...)
		case unix.IFLA_MTU:
			if len(value) >= 4 {
				l.MTU = int(binary.NativeEndian.Uint32(value))
			}
		case unix.IFLA_LINKINFO:
			if kind := nested(value, unix.IFLA_INFO_KIND); len(kind) > 0 {
				l.Kind = unix.ByteSliceToString(kind)
			}
		case unix.IFLA_LINK_NETNSID:
			l.elsewhere = true
		case unix.IFLA_XDP:
			l.XDP = hasXDP(value)
		case unix.IFLA_AF_SPEC:
			l.IPv6 = hasIPv6(nested(value, unix.AF_INET6))
		}
	})
	return l, err
}

// hasXDP reads IFLA_XDP, which is there with or without a program. A mode that is
// not known to be none counts as one.
func hasXDP(xdp []byte) bool {
	const none = 0 // XDP_ATTACHED_NONE, include/uapi/linux/if_link.h
	mode := nested(xdp, nl.IFLA_XDP_ATTACHED)
	return len(mode) != 1 || mode[0] != none
}

// hasIPv6 reads IPv6's part of IFLA_AF_SPEC, which is missing where the kernel
// or the interface has no IPv6. Its devconf is an array of int32 indexed by
// DEVCONF_* (include/uapi/linux/ipv6.h).
func hasIPv6(spec []byte) bool {
	const devconfDisableIPv6 = 26
	conf := nested(spec, unix.IFLA_INET6_CONF)
	if len(conf) < 4*(devconfDisableIPv6+1) {
		return false
	}
	return binary.NativeEndian.Uint32(conf[4*devconfDisableIPv6:]) == 0
}

// nested returns the value of the attribute of type typ in b, or nil.
func nested(b []byte, typ uint16) (found []byte) {
	// What is malformed behind the one that was looked for does not matter.
	_ = attributes(b, func(t uint16, value []byte) {
		if t == typ {
			found = value
		}
	})
	return found
}

// attributes calls visit with each attribute in b (netlink(7), struct nlattr).
// It is our own because nl.ParseRouteAttr panics on one that is cut off.
func attributes(b []byte, visit func(typ uint16, value []byte)) error {
	for len(b) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return errMalformed
		}
		visit(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofNlAttr:length])
		b = b[min(align(length), len(b)):]
	}
	return nil
}

type addr struct {
	index     int
	prefix    netip.Prefix // invalid for families other than IPv4 and IPv6
	tentative bool
}

// parseAddr reads an RTM_NEWADDR message (rtnetlink(7), struct ifaddrmsg).
func parseAddr(b []byte) (addr, error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return addr{}, errMalformed
	}
	msg := nl.DeserializeIfAddrmsg(b)
	a := addr{index: int(msg.Index), tentative: msg.Flags&unix.IFA_F_TENTATIVE != 0}
	if msg.Family != unix.AF_INET && msg.Family != unix.AF_INET6 {
		return a, nil
	}
	// IFA_LOCAL is the interface's own address; IFA_ADDRESS is the peer's on a
	// point-to-point link and stands alone for plain IPv6.
	var local, address []byte
	err := attributes(b[unix.SizeofIfAddrmsg:], func(typ uint16, value []byte) {
		switch typ {
		case unix.IFA_LOCAL:
			local = value
		case unix.IFA_ADDRESS:
			address = value
		}
	})
	if local == nil {
		local = address
	}
	ip, ok := netip.AddrFromSlice(local)
	if err != nil || !ok {
		return a, errMalformed
	}
	a.prefix = netip.PrefixFrom(ip, int(msg.Prefixlen))
	return a, nil
}

// parseNSID reads an RTM_NEWNSID message (net/core/net_namespace.c,
// rtnl_net_fill): the number by which the namespace knows another one.
func parseNSID(b []byte) (id int32, err error) {
	if len(b) < align(unix.SizeofRtGenmsg) {
		return 0, errMalformed
	}
	value := nested(b[align(unix.SizeofRtGenmsg):], unix.NETNSA_NSID)
	if len(value) < 4 {
		return 0, errMalformed
	}
	return int32(binary.NativeEndian.Uint32(value)), nil
}
