package loopback

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// upTries bounds how often Up looks again after it has put something right.
const upTries = 8

// Up leaves the namespace with lo up, with 127.0.0.1/8 and, where the namespace
// has IPv6, ::1/128, and returns the survey that shows it. What is missing it
// restores, so it may be called again at any time, also by several at once.
//
// If [Exclusive], it refuses a namespace that holds any interface but lo, that
// knows another namespace (see [Survey]), or whose lo has an address that is not
// a loopback address. A refusal comes before any change.
//
// Errors: [*Findings] for a refusal, [ErrChanging], [*OpError].
func (n *Netns) Up(p Policy) (*Survey, error) {
	c, err := n.dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	var f *Findings
	for try := range upTries {
		s, err := c.survey()
		if err != nil {
			return nil, err
		}
		if !errors.As(s.Check(p), &f) {
			return s, nil
		}
		if err := f.refusals(); err != nil {
			return nil, err
		}
		err = c.heal(s.Lo().Index, f)
		if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOBUFS) {
			// Another process was faster, or the answer was dropped, or the kernel has
			// not got round to ::1: what comes by netlink it takes up in the background
			// (addrconf_dad_start).
			time.Sleep(time.Millisecond << try)
			err = nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: lo was put right %d times, and still: %s", ErrChanging, upTries, f.Error())
}

// heal brings lo up or, if it is up, gives it the addresses that are missing.
// One at a time: coming up, lo gets both addresses from the kernel (devinet.c
// and addrconf.c, on NETDEV_UP).
func (c *conn) heal(index int, f *Findings) error {
	if f.Down {
		return c.setUp(index)
	}
	for _, p := range f.Missing {
		if err := c.addAddr(index, p); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) setUp(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	msg.Change = unix.IFF_UP
	msg.Flags = unix.IFF_UP
	req.AddData(msg)
	return c.request("bring lo up", req)
}

func (c *conn) addAddr(index int, p netip.Prefix) error {
	family := unix.AF_INET
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	msg := nl.NewIfAddrmsg(family)
	msg.Index = uint32(index)
	msg.Prefixlen = uint8(p.Bits())
	msg.Scope = unix.RT_SCOPE_HOST
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	if p.Addr().Is6() {
		// Without it there is a route that the kernel does not make when it adds
		// the address itself (addrconf.c, init_loopback).
		req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NOPREFIXROUTE)))
	}
	return c.request("give lo "+p.String(), req)
}
