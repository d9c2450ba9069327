package loopback

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Survey is what a network namespace held when somebody looked.
type Survey struct {
	Links []Link // every interface, in the kernel's order
}

// Link is a network interface.
type Link struct {
	Index    int
	Name     string // any bytes but '/', ':' and white space: quote it before a terminal sees it
	Kind     string // the kernel's rtnl_link_ops kind ("veth"), or the link layer ("ether") where there is none
	Up       bool   // administratively up (IFF_UP)
	Loopback bool   // the namespace's own loopback interface (IFF_LOOPBACK), by whatever name
	IPv6     bool   // IPv6 exists here and is not disabled on this interface
	MTU      int    // bytes
	MAC      net.HardwareAddr
	Addrs    []netip.Prefix // IPv4 and IPv6
}

// Survey lists what is in the namespace. It changes nothing.
//
// Errors: [ErrChanging], [*OpError].
func (n *Netns) Survey() (*Survey, error) {
	c, err := n.dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.survey()
}

// Inspect surveys any network namespace, the caller's own and the node's
// included: looking harms none. It needs CAP_SYS_ADMIN, as setns(2) does.
//
// Errors: [ErrNotExist], [ErrNotNetns], [ErrChanging], [*OpError].
func Inspect(path string) (*Survey, error) {
	n, err := openAny(path)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	return n.Survey()
}

// InspectSelf surveys the network namespace of the calling thread. It needs no
// privilege and no /proc.
//
// Errors: [ErrChanging], [*OpError].
func InspectSelf() (*Survey, error) {
	c, err := dialHere("")
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.survey()
}

// Lo returns the loopback interface, or nil where the survey has none.
func (s *Survey) Lo() *Link {
	for i := range s.Links {
		if s.Links[i].Loopback {
			return &s.Links[i]
		}
	}
	return nil
}

// Others returns the interfaces that keep the namespace from being isolated:
// all but loopback and the kernel's idle fallback tunnels.
func (s *Survey) Others() []Link {
	var others []Link
	for _, l := range s.Links {
		if !l.Loopback && !l.isFallbackTunnel() {
			others = append(others, l)
		}
	}
	return others
}

// skipStats spares the kernel the counters: RTEXT_FILTER_SKIP_STATS
// (include/uapi/linux/rtnetlink.h).
const skipStats = 1 << 3

func (c *conn) survey() (*Survey, error) {
	var s Survey
	links := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	links.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	links.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	err := c.dump("list interfaces", links, unix.RTM_NEWLINK,
		func() { s.Links = nil },
		func(b []byte) error {
			l, err := parseLink(b)
			s.Links = append(s.Links, l)
			return err
		})
	if err != nil {
		return nil, err
	}

	addrs := nl.NewNetlinkRequest(unix.RTM_GETADDR, 0)
	addrs.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	err = c.dump("list addresses", addrs, unix.RTM_NEWADDR,
		func() {
			for i := range s.Links {
				s.Links[i].Addrs = nil
			}
		},
		func(b []byte) error {
			index, prefix, err := parseAddr(b)
			for i := range s.Links {
				if s.Links[i].Index == index && prefix.IsValid() {
					s.Links[i].Addrs = append(s.Links[i].Addrs, prefix)
				}
			}
			return err
		})
	if err != nil {
		return nil, err
	}
	return &s, nil
}

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
	}
	attrs, err := nl.ParseRouteAttr(b[unix.SizeofIfInfomsg:])
	if err != nil {
		return Link{}, errMalformed
	}
	for _, a := range attrs {
		switch a.Attr.Type &^ unix.NLA_F_NESTED {
		case unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(a.Value)
		case unix.IFLA_ADDRESS:
			l.MAC = append(net.HardwareAddr(nil), a.Value...)
		case unix.IFLA_MTU:
			if len(a.Value) >= 4 {
				l.MTU = int(binary.NativeEndian.Uint32(a.Value))
			}
		case unix.IFLA_LINKINFO:
			if kind := nested(a.Value, unix.IFLA_INFO_KIND); len(kind) > 0 {
				l.Kind = unix.ByteSliceToString(kind)
			}
		case unix.IFLA_AF_SPEC:
			l.IPv6 = hasIPv6(nested(a.Value, unix.AF_INET6))
		}
	}
	return l, nil
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
func nested(b []byte, typ uint16) []byte {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil
	}
	for _, a := range attrs {
		if a.Attr.Type&^unix.NLA_F_NESTED == typ {
			return a.Value
		}
	}
	return nil
}

// parseAddr reads an RTM_NEWADDR message (rtnetlink(7), struct ifaddrmsg). The
// prefix is invalid for families other than IPv4 and IPv6.
func parseAddr(b []byte) (index int, prefix netip.Prefix, err error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return 0, prefix, errMalformed
	}
	msg := nl.DeserializeIfAddrmsg(b)
	attrs, err := nl.ParseRouteAttr(b[unix.SizeofIfAddrmsg:])
	if err != nil {
		return 0, prefix, errMalformed
	}
	if msg.Family != unix.AF_INET && msg.Family != unix.AF_INET6 {
		return int(msg.Index), prefix, nil
	}
	// IFA_LOCAL is the interface's own address; IFA_ADDRESS is the peer's on a
	// point-to-point link and stands alone for plain IPv6.
	for _, a := range attrs {
		if a.Attr.Type == unix.IFA_LOCAL || a.Attr.Type == unix.IFA_ADDRESS && !prefix.IsValid() {
			ip, ok := netip.AddrFromSlice(a.Value)
			if !ok {
				return 0, prefix, errMalformed
			}
			prefix = netip.PrefixFrom(ip, int(msg.Prefixlen))
		}
	}
	return int(msg.Index), prefix, nil
}
