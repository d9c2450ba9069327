package main

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"
)

// placeholder is an address that is reported and never assigned, for runtimes
// that insist on one: one address, or a prefix that has one for each container.
type placeholder netip.Prefix

// reserved are the ranges in which an address is assigned to no host, so that
// reporting it cannot send a packet to one.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("192.0.0.8/32"),    // IPv4 dummy address, RFC 7600
	netip.MustParsePrefix("100:0:0:1::/64"),  // dummy IPv6 prefix, RFC 9780
	netip.MustParsePrefix("100::/64"),        // discard-only, RFC 6666
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation, RFC 5737, as are the next two
	netip.MustParsePrefix("198.51.100.0/24"), //
	netip.MustParsePrefix("203.0.113.0/24"),  //
	netip.MustParsePrefix("2001:db8::/32"),   // documentation, RFC 3849
	netip.MustParsePrefix("3fff::/20"),       // documentation, RFC 9637
}

const placeholderRemedy = "use 192.0.0.8 for IPv4 and 100:0:0:1::/64 for IPv6"

func (c *call) placeholders() ([]placeholder, error) {
	var texts []string
	if err := c.conf.decode("placeholderIPs", &texts); err != nil {
		return nil, err
	}
	var list []placeholder
	for _, text := range texts {
		p, err := parsePlaceholder(text)
		if err != nil {
			return nil, err
		}
		for _, other := range list {
			if netip.Prefix(other).Addr().Is4() == p.Addr().Is4() {
				return nil, cannotHonour("placeholderIPs", fmt.Sprintf("%q", texts), "there are two of one address family", "keep one for IPv4 and one for IPv6 at most")
			}
		}
		list = append(list, placeholder(p))
	}
	return list, nil
}

func parsePlaceholder(text string) (netip.Prefix, error) {
	value := quoteValue(text)
	p, err := parsePrefix(text)
	switch {
	case err != nil || strings.Contains(text, "%") || p.Addr().Is4In6():
		return p, invalidConfig("placeholderIPs", value+" is neither an address nor a prefix", placeholderRemedy)
	case p.IsSingleIP():
	case p.Addr().Is4():
		return p, invalidConfig("placeholderIPs", value+" is an IPv4 prefix, which has too few addresses to give each container one", "use 192.0.0.8")
	case p.Bits() > 64 || p != p.Masked():
		return p, invalidConfig("placeholderIPs", value+" is not an IPv6 prefix of 64 bits or less with zeros after them", "use 100:0:0:1::/64")
	}
	for _, r := range reserved {
		if r.Bits() <= p.Bits() && r.Contains(p.Addr()) {
			return p, nil
		}
	}
	return p, cannotHonour("placeholderIPs", value, "it could be a host's address", placeholderRemedy)
}

// parsePrefix takes an address for the prefix that holds it alone.
func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	addr, err := netip.ParseAddr(text)
	return netip.PrefixFrom(addr, addr.BitLen()), err
}

// address returns the address, as a host prefix, that is reported for a
// container: in a prefix, the low 64 bits are a hash of its ID, so that two
// containers differ and there is no list of which has which. A collision
// among 100,000 containers has a probability of 3 in 10^10.
func (p placeholder) address(containerID string) netip.Prefix {
	prefix := netip.Prefix(p)
	if prefix.IsSingleIP() {
		return prefix
	}
	h := fnv.New64a()
	h.Write([]byte(containerID))
	b := prefix.Addr().As16()
	// Zero would be the subnet's routers (RFC 4291, 2.6.1).
	binary.BigEndian.PutUint64(b[8:], max(h.Sum64(), 1))
	return netip.PrefixFrom(netip.AddrFrom16(b), 128)
}
