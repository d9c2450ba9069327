package loopback

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Survey is what a network namespace held at one moment.
type Survey struct {
	Links []Link // every interface, in the kernel's order

	// NSIDs are the numbers by which this namespace knows others (ip netns
	// list-id). It got them with an interface that led there, and keeps them
	// when the interface is gone; with CAP_NET_ADMIN they are enough to make
	// another one (IFLA_TARGET_NETNSID, net/core/rtnetlink.c). A new namespace has none.
	NSIDs []int32

	// NoNSIDs says that the kernel knows no such numbers, as gVisor's does not:
	// then there is no connection that they could lead to. Only InspectSelf sets it.
	NoNSIDs bool
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
	XDP      bool           // an XDP program is attached, which sees and redirects packets before all else

	elsewhere bool           // it is tied to a device or a socket in another namespace (IFLA_LINK_NETNSID)
	remote    bool           // it has a remote end (IFF_POINTOPOINT)
	tentative []netip.Prefix // of Addrs, those that cannot be used yet (RFC 4862, 5.4)
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
	n, err := openUnchecked(path)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	return n.Survey()
}

// InspectSelf surveys the network namespace of the calling thread. It needs no
// privilege and no /proc. With an error that came late, the survey holds what
// was found before: an interface beside lo is one, whatever would have followed.
//
// Errors: [ErrChanging], [*OpError].
func InspectSelf() (*Survey, error) {
	c, err := dialCurrent("")
	if err != nil {
		return &Survey{}, err
	}
	defer c.close()
	return withoutNSIDs(c.survey())
}

// withoutNSIDs accepts a survey of a kernel that has no ids to list: that list is
// the last. A kernel that refuses the list instead may have something to hide.
func withoutNSIDs(s *Survey, err error) (*Survey, error) {
	var op *OpError
	if errors.As(err, &op) && op.Op == opNSIDs && errors.Is(err, unix.EOPNOTSUPP) {
		s.NoNSIDs = true
		return s, nil
	}
	return s, err
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

// survey returns what it found with every error.
func (c *conn) survey() (*Survey, error) {
	var s Survey
	for _, list := range []func(*Survey) error{c.listLinks, c.listAddrs, c.listNSIDs} {
		if err := list(&s); err != nil {
			return &s, err
		}
	}
	return &s, nil
}

// skipStats spares the kernel the counters: RTEXT_FILTER_SKIP_STATS
// (include/uapi/linux/rtnetlink.h).
const skipStats = 1 << 3

func (c *conn) listLinks(s *Survey) error {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	payloads, err := c.dump("list interfaces", req, unix.RTM_NEWLINK)
	if err != nil {
		return err
	}
	for _, b := range payloads {
		l, err := parseLink(b)
		if err != nil {
			return &OpError{"list interfaces", c.path, err}
		}
		s.Links = append(s.Links, l)
	}
	return nil
}

func (c *conn) listAddrs(s *Survey) error {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, 0)
	req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	payloads, err := c.dump("list addresses", req, unix.RTM_NEWADDR)
	if err != nil {
		return err
	}
	links := make(map[int]*Link, len(s.Links))
	for i := range s.Links {
		links[s.Links[i].Index] = &s.Links[i]
	}
	for _, b := range payloads {
		a, err := parseAddr(b)
		if err != nil {
			return &OpError{"list addresses", c.path, err}
		}
		l := links[a.index]
		if l == nil || !a.prefix.IsValid() {
			continue
		}
		l.Addrs = append(l.Addrs, a.prefix)
		if a.tentative {
			l.tentative = append(l.tentative, a.prefix)
		}
	}
	return nil
}

const opNSIDs = "list known namespaces"

func (c *conn) listNSIDs(s *Survey) error {
	req := nl.NewNetlinkRequest(unix.RTM_GETNSID, 0)
	req.AddRawData(make([]byte, align(unix.SizeofRtGenmsg)))
	payloads, err := c.dump(opNSIDs, req, unix.RTM_NEWNSID)
	if err != nil {
		return err
	}
	for _, b := range payloads {
		id, err := parseNSID(b)
		if err != nil {
			return &OpError{opNSIDs, c.path, err}
		}
		s.NSIDs = append(s.NSIDs, id)
	}
	return nil
}
