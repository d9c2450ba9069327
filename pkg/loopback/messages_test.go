package loopback

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

var update = flag.Bool("update", false, "record testdata/links.txt anew")

// linkMessage builds an RTM_NEWLINK message as the kernel would send it.
func linkMessage(index int, name, kind string, flags uint32) []byte {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Type = int32(index), flags, unix.ARPHRD_ETHER
	b := msg.Serialize()
	b = append(b, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)).Serialize()...)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	return append(b, info.Serialize()...)
}

// TestFallbackTunnels holds every device that the kernel may put into a new
// namespace against one that only looks like it.
func TestFallbackTunnels(t *testing.T) {
	const lo = "lo (loopback)"
	for _, c := range []struct {
		name, kind string
		flags      uint32
		addrs      int
		leak       bool
	}{
		{"tunl0", "ipip", 0, 0, false},
		{"gre0", "gre", 0, 0, false},
		{"gretap0", "gretap", 0, 0, false},
		{"erspan0", "erspan", 0, 0, false},
		{"ip_vti0", "vti", 0, 0, false},
		{"sit0", "sit", 0, 0, false},
		{"ip6tnl0", "ip6tnl", 0, 0, false},
		{"ip6gre0", "ip6gre", 0, 0, false},
		{"ip6_vti0", "vti6", 0, 0, false},
		{"sit0", "sit", unix.IFF_UP, 0, true},
		{"sit0", "sit", 0, 1, true},
		{"sit1", "sit", 0, 0, true},
		{"sit0", "veth", 0, 0, true},
		{"tunl0", "sit", 0, 0, true},
		{"eth0", "veth", 0, 0, true},
		{"", "", 0, 0, true},
		{"", "unheard-of", 0, 0, true},
		{"tunl0", "ipip", unix.IFF_POINTOPOINT, 0, true}, // has a remote end
	} {
		l, err := parseLink(linkMessage(2, c.name, c.kind, c.flags))
		if err != nil {
			t.Fatal(err)
		}
		l.Addrs = make([]netip.Prefix, c.addrs)
		s := Survey{Links: []Link{{Name: "lo", Kind: "loopback", Loopback: true, Up: true}, l}}
		if others := s.Others(); len(others) == 1 != c.leak {
			t.Errorf("%+v beside %s: %v", c, lo, others)
		}
	}
}

// recorded are links as a kernel described them: name, then the message in hex.
// go test -run Recorded -update ./pkg/loopback records them on this machine.
const recorded = "testdata/links.txt"

func TestRecordedLinks(t *testing.T) {
	from := recorded
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 { // the file is of the other byte order
		from = filepath.Join(t.TempDir(), "links.txt")
	}
	if *update || from != recorded {
		record(t, from)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"lo": "loopback", "eth0": "veth", "br0": "bridge", "ifb7": "ifb", "tun0": "tun", "vx0": "vxlan", "mv0": "macvlan", "eth0p": "veth",
	}
	for line := range strings.Lines(string(b)) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if want[name] == "" && from != recorded {
			continue // a fallback tunnel of this kernel
		}
		msg, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		l, err := parseLink(msg)
		if err != nil || l.Name != name || l.Kind != want[name] || l.Loopback != (name == "lo") || l.MTU == 0 || !l.IPv6 {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
		delete(want, name)
		// Cut anywhere, it is an error or a link, and never a crash.
		for i := range msg {
			parseLink(msg[:i])
		}
	}
	if len(want) > 0 {
		t.Errorf("not recorded: %v", want)
	}
}

func record(t *testing.T, path string) {
	ns := nstest.New(t)
	var out bytes.Buffer
	attrs := func(name string) netlink.LinkAttrs { return netlink.LinkAttrs{Name: name, TxQLen: -1} }
	ns.Do(func() error {
		err := errors.Join(
			netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs("eth0"), PeerName: "eth0p"}),
			netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs("br0")}),
			netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs("ifb7")}),
			netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs("tun0"), Mode: netlink.TUNTAP_MODE_TUN}),
			netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs("vx0"), VxlanId: 7, Port: 4789}))
		if err != nil {
			return err
		}
		below, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		above := attrs("mv0")
		above.ParentIndex = below.Attrs().Index
		if err := netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: above, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
			return err
		}
		c, err := dialCurrent("")
		if err != nil {
			return err
		}
		defer c.close()
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
		messages, err := c.exchange(req)
		for _, m := range messages {
			l, parseErr := parseLink(m.payload)
			err = errors.Join(err, parseErr)
			fmt.Fprintf(&out, "%s %x\n", l.Name, m.payload)
		}
		return err
	})
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestParseLinkRefuses(t *testing.T) {
	whole := linkMessage(1, "lo", "x", 0)
	broken := slices.Clone(whole)
	broken[unix.SizeofIfInfomsg] = 3 // an attribute shorter than its own header
	for name, b := range map[string][]byte{"nothing": nil, "half a header": whole[:8], "a broken attribute": broken} {
		if _, err := parseLink(b); !errors.Is(err, unix.EBADMSG) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What IPv6 has to say may be missing or cut: then there is none.
	for _, spec := range [][]byte{nil, {1}, {3, 0, 0, 0}, nl.NewRtAttr(unix.IFLA_INET6_CONF, make([]byte, 8)).Serialize()} {
		if hasIPv6(spec) {
			t.Errorf("IPv6 in %x", spec)
		}
	}
}

func addrMessage(family uint8, bits uint8, attrs ...*nl.RtAttr) []byte {
	msg := nl.NewIfAddrmsg(int(family))
	msg.Prefixlen, msg.Index = bits, 5
	b := msg.Serialize()
	for _, a := range attrs {
		b = append(b, a.Serialize()...)
	}
	return b
}

func TestParseAddr(t *testing.T) {
	local := nl.NewRtAttr(unix.IFA_LOCAL, []byte{10, 0, 0, 1})
	peer := nl.NewRtAttr(unix.IFA_ADDRESS, []byte{10, 0, 0, 2})
	six := nl.NewRtAttr(unix.IFA_ADDRESS, netip.MustParseAddr("2001:db8::1").AsSlice())
	for name, c := range map[string]struct {
		msg  []byte
		want string // empty for an error
	}{
		"peer first":       {addrMessage(unix.AF_INET, 32, peer, local), "10.0.0.1/32"},
		"local first":      {addrMessage(unix.AF_INET, 32, local, peer), "10.0.0.1/32"},
		"IPv6":             {addrMessage(unix.AF_INET6, 64, six), "2001:db8::1/64"},
		"another family":   {addrMessage(unix.AF_PHONET, 0, local), "invalid Prefix"},
		"nothing":          {nil, ""},
		"odd length":       {addrMessage(unix.AF_INET, 8, nl.NewRtAttr(unix.IFA_LOCAL, []byte{10, 0, 0})), ""},
		"broken attribute": {append(addrMessage(unix.AF_INET, 8), 3, 0, 1, 0), ""},
	} {
		a, err := parseAddr(c.msg)
		if c.want == "" {
			if !errors.Is(err, unix.EBADMSG) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || a.index != 5 || a.prefix.String() != c.want {
			t.Errorf("%s: %+v %v", name, a, err)
		}
	}
}

// TestWithoutNSIDs: only a kernel that does not know the request is taken for one
// that has no ids.
func TestWithoutNSIDs(t *testing.T) {
	for err, want := range map[*OpError]bool{
		{opNSIDs, "", unix.EOPNOTSUPP}:           true,
		{opNSIDs, "", unix.EPERM}:                false,
		{"list interfaces", "", unix.EOPNOTSUPP}: false,
	} {
		s, got := withoutNSIDs(&Survey{Links: make([]Link, 2)}, err)
		if s.NoNSIDs != want || (got == nil) != want || len(s.Links) != 2 {
			t.Errorf("%v: %+v, %v", err, s, got)
		}
	}
	if s, err := withoutNSIDs(&Survey{}, nil); err != nil || s.NoNSIDs {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestParseNSID(t *testing.T) {
	whole := append(make([]byte, 4), nl.NewRtAttr(unix.NETNSA_NSID, nl.Uint32Attr(7)).Serialize()...)
	if id, err := parseNSID(whole); id != 7 || err != nil {
		t.Errorf("%d, %v", id, err)
	}
	for _, b := range [][]byte{nil, whole[:3], whole[:4], whole[:6], append(make([]byte, 4), nl.NewRtAttr(unix.NETNSA_NSID, []byte{7}).Serialize()...)} {
		if _, err := parseNSID(b); !errors.Is(err, unix.EBADMSG) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

// nlmsg is a netlink message with its header.
func nlmsg(typ, flags uint16, seq uint32, payload ...byte) []byte {
	req := nl.NetlinkRequest{NlMsghdr: unix.NlMsghdr{Type: typ, Flags: flags, Seq: seq}}
	req.AddRawData(payload)
	return req.Serialize()
}

func errnoPayload(e unix.Errno) []byte { return nl.Uint32Attr(uint32(-int32(e))) }

func TestAnswer(t *testing.T) {
	done := nlmsg(unix.NLMSG_DONE, 0, 7, 0, 0, 0, 0)
	link := nlmsg(unix.RTM_NEWLINK, 0, 7, 1, 2, 3, 4)
	for name, c := range map[string]struct {
		datagrams [][]byte
		messages  int
		err       error
	}{
		"in one":                    {[][]byte{slices.Concat(link, link, done)}, 2, nil},
		"in three":                  {[][]byte{link, link, done}, 2, nil},
		"acknowledged":              {[][]byte{nlmsg(unix.NLMSG_ERROR, 0, 7, 0, 0, 0, 0)}, 0, nil},
		"done without a status":     {[][]byte{nlmsg(unix.NLMSG_DONE, 0, 7)}, 0, nil},
		"refused":                   {[][]byte{nlmsg(unix.NLMSG_ERROR, 0, 7, errnoPayload(unix.EPERM)...)}, 0, unix.EPERM},
		"failed at the end":         {[][]byte{link, nlmsg(unix.NLMSG_DONE, 0, 7, errnoPayload(unix.ENOMEM)...)}, 1, unix.ENOMEM},
		"interrupted":               {[][]byte{nlmsg(unix.RTM_NEWLINK, unix.NLM_F_DUMP_INTR, 7), done}, 1, errInterrupted},
		"interrupted at the end":    {[][]byte{link, nlmsg(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 7, 0, 0, 0, 0)}, 1, errInterrupted},
		"after another's":           {[][]byte{nlmsg(unix.NLMSG_DONE, 0, 6), nlmsg(unix.RTM_NEWLINK, 0, 6), done}, 0, nil},
		"an error without a number": {[][]byte{nlmsg(unix.NLMSG_ERROR, 0, 7)}, 0, errMalformed},
		"half a header":             {[][]byte{link[:8]}, 0, errMalformed},
		"too long":                  {[][]byte{link[:18]}, 0, errMalformed},
		"too short":                 {[][]byte{make([]byte, 16)}, 0, errMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			a := answer{seq: 7}
			for i, d := range c.datagrams {
				last, err := a.add(d)
				if i < len(c.datagrams)-1 {
					if last || err != nil {
						t.Fatalf("ended early: %v", err)
					}
					continue
				}
				if !errors.Is(err, c.err) || err == nil && !last {
					t.Errorf("last: %v, %v, want %v", last, err, c.err)
				}
			}
			if len(a.messages) != c.messages {
				t.Errorf("%d messages, want %d", len(a.messages), c.messages)
			}
		})
	}
}

func TestUntilConsistent(t *testing.T) {
	calls := 0
	want := []message{{seq: 7}}
	got, err := untilConsistent("list", func() ([]message, error) {
		if calls++; calls < 5 {
			return []message{{}, {}}, []error{errInterrupted, unix.ENOBUFS, unix.EBUSY}[calls%3]
		}
		return want, nil
	})
	if err != nil || calls != 5 || len(got) != 1 || got[0].seq != 7 {
		t.Errorf("%d calls: %v, %v", calls, got, err)
	}
	calls = 0
	_, err = untilConsistent("list", func() ([]message, error) { calls++; return nil, errInterrupted })
	if !errors.Is(err, ErrChanging) || calls != dumpTries {
		t.Errorf("%d calls: %v", calls, err)
	}
}

func TestFindings(t *testing.T) {
	up := Link{Name: "lo", Kind: "loopback", Loopback: true, Up: true, IPv6: true, Addrs: []netip.Prefix{lo4, lo6}}
	with := func(change func(*Link)) Survey {
		lo := up
		lo.Addrs = slices.Clone(up.Addrs)
		change(&lo)
		return Survey{Links: []Link{lo}}
	}
	for want, s := range map[string]Survey{
		"":                               with(func(*Link) {}),
		"lo is down":                     with(func(l *Link) { l.Up = false }),
		"lo lacks 127.0.0.1/8, ::1/128 ": with(func(l *Link) { l.Addrs, l.tentative = []netip.Prefix{lo6}, []netip.Prefix{lo6} }),
		"lo lacks ::1/128":               with(func(l *Link) { l.Addrs = l.Addrs[:1] }),
		"lo lacks 127.0.0.1/8, ::1/128":  with(func(l *Link) { l.Addrs = nil }),
		"lo lacks 127.0.0.1/8":           with(func(l *Link) { l.Addrs, l.IPv6 = nil, false }),
		"there is no loopback interface": {},
		`the loopback interface is called "a\x1bb", not lo`: with(func(l *Link) { l.Name = "a\x1bb" }),
	} {
		err := s.Check(Exclusive)
		if (err == nil) != (want == "") || err != nil && err.Error() != strings.TrimSpace(want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	known := Survey{Links: []Link{up}, NSIDs: []int32{0, 3}}
	refuses(t, known, "it was connected to another network namespace and can be again: nsid 0, 3")
	foreign := with(func(l *Link) {
		l.Addrs = append(l.Addrs, netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("127.9.9.9/8"))
	})
	refuses(t, foreign, "lo has addresses that are not loopback addresses: 192.0.2.1/32")
	full := Survey{Links: []Link{up}}
	for i := range 1200 {
		full.Links = append(full.Links, Link{Name: fmt.Sprintf("v%d", i), Kind: "veth"})
	}
	refuses(t, full, "interfaces beside lo: v0 (veth), v1 (veth), v2 (veth), v3 (veth), v4 (veth), v5 (veth), v6 (veth), v7 (veth) and 1,192 more")
	if got := (Link{}).String(); got != `"" ("")` {
		t.Error(got)
	}
}

// refuses requires a survey that an exclusive namespace may not have, which Up
// does not put right, and a shared one may.
func refuses(t *testing.T, s Survey, want string) {
	t.Helper()
	var f *Findings
	if err := s.Check(Exclusive); !errors.As(err, &f) || f.refusals() == nil || f.Error() != want {
		t.Errorf("%v, want %q", err, want)
	}
	if err := s.Check(Shared); err != nil {
		t.Error(err)
	}
}

func TestOpErrorNamesTheErrno(t *testing.T) {
	for want, err := range map[string]error{
		"setns (/x): operation not permitted (EPERM)": &OpError{"setns", "/x", unix.EPERM},
		"list (/x): no errno at all":                  &OpError{"list", "/x", errors.New("no errno at all")},
		"setns: bad file descriptor (EBADF)":          &OpError{"setns", "", unix.EBADF},
	} {
		if err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
	}
}
