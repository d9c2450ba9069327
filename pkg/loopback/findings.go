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

// Findings is everything in which a namespace falls short of a loopback
// interface that works and nothing else. It is an error when there is any.
type Findings struct {
	Extra   []Link         // interfaces that an exclusive namespace must not hold
	Peers   []int32        // other namespaces that an exclusive namespace must not know
	Foreign []netip.Prefix // addresses on lo, in an exclusive namespace, that are not loopback addresses
	NoLo    bool           // there is no loopback interface
	Name    string         // the loopback interface's name where it is not lo
	Down    bool           // lo is down
	Missing []netip.Prefix // addresses that lo should have and has not
}

// Findings compares the survey with what the none network promises, and returns
// nil where nothing is missing and, if exclusive, nothing is too much.
func (s *Survey) Findings(exclusive bool) *Findings {
	var f Findings
	if exclusive {
		f.Extra, f.Peers = s.Others(), s.Peers
	}
	if lo := s.Lo(); lo == nil {
		f.NoLo = true
	} else {
		f.lookAtLo(lo, exclusive)
	}
	if len(f.texts()) == 0 {
		return nil
	}
	return &f
}

func (f *Findings) lookAtLo(lo *Link, exclusive bool) {
	if lo.Name != "lo" {
		f.Name = lo.Name
	}
	f.Down = !lo.Up
	if !slices.Contains(lo.Addrs, lo4) {
		f.Missing = append(f.Missing, lo4)
	}
	if lo.IPv6 && (!slices.Contains(lo.Addrs, lo6) || slices.Contains(lo.tentative, lo6)) {
		f.Missing = append(f.Missing, lo6)
	}
	for _, a := range lo.Addrs {
		if exclusive && !a.Addr().IsLoopback() {
			f.Foreign = append(f.Foreign, a)
		}
	}
}

// intended returns what Up may not put right, because it is somebody's
// intention, and nil where there is no such thing.
func (f Findings) intended() *Findings {
	f.Down, f.Missing = false, nil
	if len(f.texts()) == 0 {
		return nil
	}
	return &f
}

// Error says all that was found, the interfaces that are too many first.
func (f *Findings) Error() string { return strings.Join(f.texts(), "; ") }

func (f *Findings) texts() []string {
	var t []string
	if len(f.Extra) > 0 {
		t = append(t, "interfaces beside lo: "+join(f.Extra, Link.String))
	}
	if len(f.Peers) > 0 {
		t = append(t, "it has been connected to another namespace, and could be again: known by number "+
			join(f.Peers, func(id int32) string { return strconv.Itoa(int(id)) }))
	}
	if f.NoLo {
		t = append(t, "there is no loopback interface")
	}
	if f.Name != "" {
		t = append(t, "the loopback interface is called "+quote(f.Name)+", not lo")
	}
	if f.Down {
		t = append(t, "lo is down")
	}
	if len(f.Missing) > 0 {
		t = append(t, "lo lacks "+join(f.Missing, netip.Prefix.String))
	}
	if len(f.Foreign) > 0 {
		t = append(t, "lo has addresses that are not loopback addresses: "+join(f.Foreign, netip.Prefix.String))
	}
	return t
}

// String names the interface and its kind, fit for a terminal.
func (l Link) String() string { return quote(l.Name) + " (" + quote(l.Kind) + ")" }

// quote leaves an ordinary name as it is.
func quote(name string) string {
	if q := strconv.Quote(name); q != `"`+name+`"` || name == "" {
		return q
	}
	return name
}

func join[T any](items []T, text func(T) string) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = text(item)
	}
	return strings.Join(texts, ", ")
}
