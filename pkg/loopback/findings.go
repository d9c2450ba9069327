package loopback

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

var (
	lo4 = netip.MustParsePrefix("127.0.0.1/8")
	lo6 = netip.MustParsePrefix("::1/128")
)

// Policy says what a namespace may hold beside a loopback interface.
type Policy int

const (
	// Exclusive is for a namespace that holds nothing but lo.
	Exclusive Policy = iota
	// Shared is for one to which other networks are attached as well.
	Shared
)

// Findings is everything in which a namespace falls short of a [Policy]: the
// error of [Survey.Check].
type Findings struct {
	Extra       []Link         // interfaces that an exclusive namespace must not hold
	NSIDs       []int32        // ids of other namespaces that an exclusive namespace must not know
	NonLoopback []netip.Prefix // addresses on lo, in an exclusive namespace, that are not loopback addresses
	XDP         bool           // an XDP program is on lo, in an exclusive namespace
	LoMissing   bool           // there is no loopback interface
	Name        string         // the loopback interface's name where it is not lo
	Down        bool           // lo is down
	Missing     []netip.Prefix // addresses that lo should have and does not have
}

// Check compares the survey with what the none network promises: lo is there, is
// up and has its addresses and, if exclusive, nothing else is there.
//
// Errors: [*Findings].
func (s *Survey) Check(p Policy) error {
	var f Findings
	if p == Exclusive {
		f.Extra, f.NSIDs = s.Others(), s.NSIDs
	}
	if lo := s.Lo(); lo == nil {
		f.LoMissing = true
	} else {
		f.lookAtLo(lo, p)
	}
	if len(f.Violations()) == 0 && len(f.Faults()) == 0 {
		return nil
	}
	return &f
}

func (f *Findings) lookAtLo(lo *Link, p Policy) {
	if lo.Name != "lo" {
		f.Name = lo.Name
	}
	f.Down = !lo.Up
	f.XDP = lo.XDP && p == Exclusive
	if !slices.Contains(lo.Addrs, lo4) {
		f.Missing = append(f.Missing, lo4)
	}
	if lo.IPv6 && (!slices.Contains(lo.Addrs, lo6) || slices.Contains(lo.tentative, lo6)) {
		f.Missing = append(f.Missing, lo6)
	}
	for _, a := range lo.Addrs {
		if p == Exclusive && !a.Addr().IsLoopback() {
			f.NonLoopback = append(f.NonLoopback, a)
		}
	}
}

// Error says all that was found.
func (f *Findings) Error() string {
	return strings.Join(append(f.Violations(), f.Faults()...), "; ")
}

// Violations says what [Netns.Up] does not put right, because it was made on
// purpose: a namespace with any of it is not isolated.
func (f *Findings) Violations() []string {
	var t []string
	if len(f.Extra) > 0 {
		t = append(t, "interfaces beside lo: "+join(f.Extra, Link.String))
	}
	if len(f.NSIDs) > 0 {
		t = append(t, "it was connected to another network namespace and can be again: nsid "+
			join(f.NSIDs, func(id int32) string { return strconv.Itoa(int(id)) }))
	}
	if f.XDP {
		t = append(t, "an XDP program is attached to lo, and may redirect packets into another namespace")
	}
	if f.LoMissing {
		t = append(t, "there is no loopback interface")
	}
	if f.Name != "" {
		t = append(t, "the loopback interface is called "+quote(f.Name)+", not lo")
	}
	if len(f.NonLoopback) > 0 {
		t = append(t, "lo has addresses that are not loopback addresses: "+join(f.NonLoopback, netip.Prefix.String))
	}
	return t
}

// Faults says what keeps lo from working, and what [Netns.Up] puts right.
func (f *Findings) Faults() []string {
	var t []string
	if f.Down {
		t = append(t, "lo is down")
	}
	if len(f.Missing) > 0 {
		t = append(t, "lo lacks "+join(f.Missing, netip.Prefix.String))
	}
	return t
}

// refusals returns the violations alone, or nil where there is none.
func (f Findings) refusals() error {
	f.Down, f.Missing = false, nil
	if len(f.Violations()) == 0 {
		return nil
	}
	return &f
}

// String names the interface and its kind, fit for a terminal.
func (l Link) String() string { return quote(l.Name) + " (" + quote(l.Kind) + ")" }

// quote leaves an ordinary name or path as it is, and cuts a long one.
func quote(name string) string {
	const most = 200
	cut := ""
	if len(name) > most {
		name, cut = name[:most], "..."
	}
	if q := strconv.Quote(name); q != `"`+name+`"` || name == "" {
		return q + cut
	}
	return name + cut
}

// maxItems bounds each list in a text: what owns a namespace may fill it.
const maxItems = 8

func join[T any](items []T, text func(T) string) string {
	var texts []string
	for i, item := range items {
		if i == maxItems {
			return strings.Join(texts, ", ") + " and " + thousands(len(items)-maxItems) + " more"
		}
		texts = append(texts, text(item))
	}
	return strings.Join(texts, ", ")
}

// thousands writes n as 1,192.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
