// Package isolation attacks the none network from inside a real container.
//
// Every probe is tried twice: from a control container that has what the probe
// needs (a bridge, the host's namespace, the target's namespace), where it has
// to get through, and from a container on the none network, where it must not.
// A probe that the control does not get through proves nothing, and fails.
//
// Host, neighbours and services are namespaces and sockets that the test makes.
// The machine's own namespace is not touched and no packet can leave.
package isolation

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/plugintest"
	"github.com/cni-none/cni-none/test/isolation/spec"
)

var update = flag.Bool("update", false, "write the tables into docs/")

func TestMain(m *testing.M) { harness.Main(m) }

// A control is the container that a probe has to get through from.
const (
	onBridge  = "a bridge"
	inHost    = "the host's namespace"
	inSecond  = "the second container's namespace"
	withPID   = "the none network and hostPID"
	onNone    = "the none network"
	adminOnly = true
)

type row struct {
	spec.Probe
	control string
	admin   bool // the container has CAP_NET_ADMIN
}

// rows are the probes, in the order of the table.
func (w *world) rows() []row {
	p := func(name, kind, addr, expect, control string) row {
		return row{Probe: spec.Probe{Name: name, Kind: kind, Addr: addr, Expect: expect}, control: control}
	}
	var rows []row
	for _, target := range []struct{ name, who, addr, control string }{
		{"the host", "host", spec.HostAddr, onBridge},
		{"a neighbour on the bridge", "neighbour", w.neighbourAddr, onBridge},
		{"a second container on the none network", "second", "127.0.0.1", inSecond},
	} {
		rows = append(rows,
			p("TCP to "+target.name, "tcp", target.addr+":7001", "this is "+target.who, target.control),
			p("UDP to "+target.name, "udp", target.addr+":7001", "this is "+target.who, target.control),
			p("ICMP echo to "+target.name, "icmp", target.addr, "", target.control),
			p("raw IP to "+target.name, "raw", target.addr, "", target.control))
	}
	rows = append(rows,
		p("IPv6 TCP to the host's global address", "tcp", "["+spec.HostAddr6+"]:7001", "this is host", onBridge),
		p("IPv6 UDP to the host's global address", "udp", "["+spec.HostAddr6+"]:7001", "this is host", onBridge),
		p("ICMPv6 echo to the host's global address", "icmp6", spec.HostAddr6, "", onBridge),
		p("IPv6 TCP to the host's link-local address", "tcp-ll", "["+w.hostLL+"]:7001", "this is host", onBridge),
		p("IPv6 multicast, all nodes", "multicast", "[ff02::1]:7001", "", onBridge),
		p("IPv4 multicast", "multicast", spec.Group+":7003", "", onBridge),
		p("IPv4 broadcast", "broadcast", "255.255.255.255:7001", "", onBridge),
		p("DNS", "dns", "host.test", "203.0.113.53", onBridge),
		p("cloud metadata, 169.254.169.254", "http", "http://169.254.169.254/latest/meta-data/iam", "iam-credentials-of-the-host", onBridge),
		p("the host's services on 127.0.0.1", "tcp", "127.0.0.1:7002", "this is host", inHost),
		p("the host's services on ::1", "tcp", "[::1]:7002", "this is host", inHost),
		p("abstract unix socket of the host", "abstract", "@cni-none-test-host", "this is host", inHost),
		p("abstract unix socket of a second container", "abstract", "@cni-none-test-second", "this is second", inSecond),
		p("ARP for the host", "arp", spec.HostAddr, "", onBridge),
		p("raw frame (AF_PACKET)", "frame", "", "", onBridge),
		p("netlink: an interface other than lo", "links", "", "", onBridge),
		p("sysfs: an interface other than lo", "sysfs", "", "", onBridge),
		p("netlink: a neighbour's hardware address", "neigh", spec.HostAddr+":7001", "this is host", onBridge),
	)
	admin := func(r row) { r.admin = adminOnly; rows = append(rows, r) }
	admin(p("list the host's links by namespace id", "nsid", "", "control0", onBridge))
	admin(p("VXLAN to the host", "vxlan", spec.HostAddr+":7001", "this is host", onBridge))
	admin(p("macvlan with an address of the bridge's subnet", "macvlan", spec.HostAddr+":7001", "this is host", onBridge))
	admin(p("tun: a packet for the host, as if from outside", "tun", spec.HostAddr+":7001", "", inHost))
	admin(p("own default route to an address behind the host", "route", "169.254.169.254:7001", "this is host", onBridge))
	admin(p("veth into the namespace of process 1", "move", "", "", withPID))
	return rows
}

func TestIsolation(t *testing.T) {
	w := newWorld(t)
	t.Run("probes", func(t *testing.T) { testProbes(t, w) })
	t.Run("loopback works", func(t *testing.T) { testLoopbackWorks(t, w) })
	t.Run("connected is refused", func(t *testing.T) { testConnectedIsRefused(t, w) })
	t.Run("families", func(t *testing.T) { testFamilies(t, w) })
	t.Run("gaps", func(t *testing.T) { testGaps(t, w) })
}

// controls tries each probe from where it has to get through.
func (w *world) controls(t *testing.T, rows []row) map[string]map[string]spec.Result {
	t.Helper()
	controls := map[string]map[string]spec.Result{}
	for _, control := range []string{onBridge, inHost, inSecond, withPID} {
		controls[control] = map[string]spec.Result{}
		for _, admin := range []bool{false, true} {
			c := container{name: "control in " + control, probes: choose(rows, admin, func(r row) bool { return r.control == control })}
			if len(c.probes) == 0 {
				continue
			}
			switch control {
			case inHost:
				c.netns = w.host.Path
			case inSecond:
				c.netns = w.second
			case withPID, onBridge:
				c.netns = newNetns(t)
				n := w.bridge
				if control == withPID {
					n = w.none
					c.pidns = fmt.Sprintf("/proc/%d/ns/pid", w.process1)
				}
				if err := w.attach(t, n, fmt.Sprintf("control-%d-%v", len(controls), admin), c.netns); err != nil {
					t.Fatal(err)
				}
			}
			if admin {
				c.name += " with CAP_NET_ADMIN"
				c.caps = withNetAdmin
			}
			setMoveNames(c.probes, "ctl0")
			for k, r := range w.attack(t, c) {
				controls[control][k] = r
			}
		}
	}
	return controls
}

// onNone tries all of them from containers on the none network, one of them with
// CAP_NET_ADMIN: it may do the rest, too.
func (w *world) onNone(t *testing.T, rows []row, gvisor bool) map[string]spec.Result {
	t.Helper()
	none := map[string]spec.Result{}
	for _, admin := range []bool{false, true} {
		c := container{gvisor: gvisor, name: fmt.Sprintf("none, gVisor %v, admin %v", gvisor, admin), netns: newNetns(t), probes: choose(rows, admin, func(row) bool { return true })}
		if err := w.attach(t, w.none, fmt.Sprintf("none-%v-%v", gvisor, admin), c.netns); err != nil {
			t.Fatal(err)
		}
		if admin {
			c.caps = withNetAdmin
		}
		setMoveNames(c.probes, "esc0")
		before := look(t, w.host.Path)
		for k, r := range w.attack(t, c) {
			none[k] = r
		}
		if after := look(t, w.host.Path); before != after {
			t.Errorf("the host changed while %s ran:\nbefore %s\nafter  %s", c.name, before, after)
		}
	}
	return none
}

func testProbes(t *testing.T, w *world) {
	rows := w.rows()
	controls := w.controls(t, rows)
	none := w.onNone(t, rows, false)

	var table strings.Builder
	fmt.Fprintf(&table, "| probe | control | control | none |\n|---|---|---|---|\n")
	through := 0
	for _, r := range rows {
		c, n := controls[r.control][r.Name], none[r.Name]
		name := r.Name
		if r.admin {
			name += " (CAP_NET_ADMIN)"
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s |\n", name, r.control, verdict(c), verdict(n))
		fmt.Printf("%-68s control %-8s none %-8s %s\n", name, verdict(c), verdict(n), oneLine(n.Detail))
		if !c.Through {
			t.Errorf("%s: the control in %s does not get through (%s): the probe proves nothing", r.Name, r.control, c.Detail)
		} else {
			through++
		}
		if n.Through {
			t.Errorf("%s: got out of the none network: %s", r.Name, n.Detail)
		}
	}
	escaped := 0
	for _, n := range none {
		if n.Through {
			escaped++
		}
	}
	fmt.Printf("\nprobes: %d; control through: %d; none through: %d\n", len(rows), through, escaped)
	compare(t, security, "probes", table.String())
}

func verdict(r spec.Result) string {
	if r.Through {
		return "through"
	}
	return "no"
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 110 {
		s = s[:110] + "..."
	}
	return s
}

func choose(rows []row, admin bool, want func(row) bool) []spec.Probe {
	var probes []spec.Probe
	for _, r := range rows {
		if r.admin == admin && want(r) {
			probes = append(probes, r.Probe)
		}
	}
	return probes
}

// setMoveNames gives the interface that a container moves a name of its own, so
// that the host's tells who moved it.
func setMoveNames(probes []spec.Probe, name string) {
	for i := range probes {
		if probes[i].Kind == "move" {
			probes[i].Expect = name
		}
	}
}

// testLoopbackWorks: the container's own loopback is a network, before and
// after a DEL under the running container, as `podman network disconnect` does.
func testLoopbackWorks(t *testing.T, w *world) {
	ns := newNetns(t)
	if err := w.attach(t, w.none, "works", ns); err != nil {
		t.Fatal(err)
	}
	c := container{name: "works", netns: ns, probes: []spec.Probe{
		{Name: "127.0.0.1", Kind: "self", Addr: "127.0.0.1:0", Expect: "it is me"},
		{Name: "127.1.2.3", Kind: "self", Addr: "127.1.2.3:0", Expect: "it is me"},
		{Name: "::1", Kind: "self", Addr: "[::1]:0", Expect: "it is me"},
	}}
	for _, when := range []string{"after ADD", "after DEL"} {
		if when == "after DEL" {
			w.detach(t, w.none, "works", ns)
		}
		for name, r := range w.attack(t, c) {
			if !r.Through {
				t.Errorf("%s: %s does not work: %s", when, name, r.Detail)
			}
		}
	}
}

// testConnectedIsRefused: a namespace that has a way out is not called isolated,
// whether the way was there before or came afterwards, and neither is the host's.
func testConnectedIsRefused(t *testing.T, w *world) {
	// getsOut shows that the refused namespace does have a way out.
	getsOut := func(t *testing.T, ns string) {
		t.Helper()
		c := container{name: "connected", netns: ns, probes: []spec.Probe{{Name: "TCP", Kind: "tcp", Addr: spec.HostAddr + ":7001", Expect: "this is host"}}}
		if r := w.attack(t, c)["TCP"]; !r.Through {
			t.Errorf("the namespace that was to be refused has no way out: %s", r.Detail)
		}
	}
	t.Run("a bridge before ADD", func(t *testing.T) {
		ns := newNetns(t)
		if err := w.attach(t, w.bridge, "before", ns); err != nil {
			t.Fatal(err)
		}
		wantCode(t, w.attach(t, w.none, "before", ns), 100)
		getsOut(t, ns)
	})
	t.Run("a bridge after ADD", func(t *testing.T) {
		ns := newNetns(t)
		if err := w.attach(t, w.none, "after", ns); err != nil {
			t.Fatal(err)
		}
		if err := w.check("after", ns); err != nil {
			t.Fatal(err)
		}
		if err := w.attach(t, w.bridge, "after", ns); err != nil {
			t.Fatal(err)
		}
		wantCode(t, w.check("after", ns), 100)
		getsOut(t, ns)
	})
	// The interface is gone, and the id that the kernel gave to the namespace of
	// its other end stays: with CAP_NET_ADMIN that is a way out (throughID).
	t.Run("a bridge that is gone again", func(t *testing.T) {
		ns := newNetns(t)
		if err := w.attach(t, w.bridge, "gone", ns); err != nil {
			t.Fatal(err)
		}
		w.detach(t, w.bridge, "gone", ns)
		wantCode(t, w.attach(t, w.none, "gone", ns), 100)
		c := container{name: "gone", netns: ns, caps: withNetAdmin, probes: []spec.Probe{
			{Name: "by its id", Kind: "via-nsid", Addr: spec.HostAddr + ":7001", Expect: "this is host"}}}
		if r := w.attack(t, c)["by its id"]; !r.Through {
			t.Errorf("the namespace that was to be refused has no way out: %s", r.Detail)
		}
	})
	t.Run("the host's namespace", func(t *testing.T) {
		before := look(t, w.host.Path)
		wantCode(t, w.attach(t, w.none, "host", w.host.Path), 8)
		wantCode(t, w.check("host", w.host.Path), 8)
		getsOut(t, w.host.Path)
		if after := look(t, w.host.Path); before != after {
			t.Errorf("the host changed:\nbefore %s\nafter  %s", before, after)
		}
	})
	t.Run("an address on lo", func(t *testing.T) {
		ns := newNetns(t)
		err := plugintest.With(ns, func(h *netlink.Handle) error {
			lo, err := h.LinkByName("lo")
			if err != nil {
				return err
			}
			addr, _ := netlink.ParseAddr("10.231.0.77/32")
			return h.AddrAdd(lo, addr)
		})
		if err != nil {
			t.Fatal(err)
		}
		wantCode(t, w.attach(t, w.none, "address", ns), 101)
	})
}

func wantCode(t *testing.T, err error, code uint) {
	t.Helper()
	var e *types.Error
	if err == nil {
		t.Errorf("accepted, want an error with code %d", code)
	} else if !errors.As(err, &e) || e.Code != code {
		t.Errorf("want code %d: %v", code, err)
	}
}

func look(t *testing.T, path string) string {
	t.Helper()
	lines, err := plugintest.Look(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// familyProbes are about what a network namespace does not contain.
func (w *world) familyProbes(t *testing.T) []spec.Probe {
	t.Helper()
	if w.vsockPort == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("this kernel has no AF_VSOCK")
		}
		t.Skip("this kernel has no AF_VSOCK: there is nothing to show")
	}
	return []spec.Probe{
		{Name: "AF_VSOCK port of another namespace", Kind: "vsock", Addr: fmt.Sprint(w.vsockPort)},
		// unix, IPv4, IPv6, netlink, packet
		{Name: "another family than unix, IP, netlink and packet", Kind: "families", Expect: "1 2 10 16 17"},
		{Name: "io_uring, whose sockets no filter sees", Kind: "io_uring"},
	}
}

const name32 = "32-bit x86 (socketcall)"

// try32 runs a 32-bit program, which has socketcall(2): the filter ends a program
// of an architecture that it does not list.
func (w *world) try32(t *testing.T, c container) spec.Result {
	t.Helper()
	c.program = []string{"/bin/probe32"}
	out, err := w.run(t, c)
	return spec.Result{Through: err == nil && strings.Contains(out, "<nil>"), Detail: fmt.Sprint(out, err)}
}

// testFamilies: what a network namespace does not contain, and that the profile
// in conf/seccomp closes it. Each row is seen open without the profile.
func testFamilies(t *testing.T, w *world) {
	ns := newNetns(t)
	if err := w.attach(t, w.none, "families", ns); err != nil {
		t.Fatal(err)
	}
	const profile = "../../conf/seccomp/airgap.json"
	probes := w.familyProbes(t)
	open := w.attack(t, container{name: "no profile", netns: ns, probes: probes})
	closed := w.attack(t, container{name: "profile", netns: ns, probes: probes, seccomp: profile})

	open[name32] = w.try32(t, container{name: "32 bits, no profile", netns: ns})
	closed[name32] = w.try32(t, container{name: "32 bits, profile", netns: ns, seccomp: profile})
	probes = append(probes, spec.Probe{Name: name32})

	var table strings.Builder
	fmt.Fprintf(&table, "| on the none network | without | with the profile |\n|---|---|---|\n")
	for _, p := range probes {
		o, c := open[p.Name], closed[p.Name]
		fmt.Fprintf(&table, "| %s | %s | %s |\n", p.Name, verdict(o), verdict(c))
		fmt.Printf("%-68s without %-8s profile %-8s %s\n", p.Name, verdict(o), verdict(c), oneLine(c.Detail))
		if !o.Through {
			t.Errorf("%s: not open without the profile (%s): this proves nothing", p.Name, o.Detail)
		}
		if c.Through {
			t.Errorf("%s: open with the profile: %s", p.Name, c.Detail)
		}
	}
	compare(t, security, "families", table.String())

	// With the profile the container's own network still works.
	self := container{name: "self", netns: ns, seccomp: profile, probes: []spec.Probe{{Name: "self", Kind: "self", Addr: "127.0.0.1:0", Expect: "it is me"}}}
	if r := w.attack(t, self)["self"]; !r.Through {
		t.Errorf("with the profile, loopback does not work: %s", r.Detail)
	}
}

// testGaps: what a container may be given that leads around its network
// namespace. Each is tried without and with it, so that the document warns only of
// what is a way out.
func testGaps(t *testing.T, w *world) {
	hostPID := fmt.Sprintf("/proc/%d/ns/pid", w.process1)
	socket := spec.Probe{Kind: "abstract", Addr: "/host/socket", Expect: "this is host"}
	move := spec.Probe{Kind: "move", Expect: "gap0"}
	setns := spec.Probe{Kind: "setns", Addr: spec.HostAddr + ":7001", Expect: "this is host"}
	nsid := spec.Probe{Kind: "via-nsid", Addr: spec.HostAddr + ":7001", Expect: "this is host"}
	connect := spec.Probe{Kind: "tcp", Addr: spec.HostAddr + ":7001", Expect: "this is host"}
	admin := append([]string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"}, withNetAdmin...)
	anyFile := append([]string{"CAP_DAC_READ_SEARCH"}, capabilities...)
	tcp, udp := w.hostSocket(t, unix.SOCK_STREAM), w.hostSocket(t, unix.SOCK_DGRAM)

	var table strings.Builder
	fmt.Fprintf(&table, "| the container is given | without | with it |\n|---|---|---|\n")
	for i, gap := range []struct {
		name          string
		probe         spec.Probe
		without, with container
		after         *network // attached to the namespace after ADD
		detach        bool     // and detached again
		xdp           bool     // lo gets an XDP program after ADD, from outside
	}{
		{name: "a unix socket of the host in a mount", probe: socket, with: container{mount: w.socketDir}},
		{name: "CAP_NET_ADMIN, with hostPID", probe: move,
			without: container{caps: withNetAdmin}, with: container{caps: withNetAdmin, pidns: hostPID}},
		{name: "CAP_SYS_ADMIN and CAP_SYS_PTRACE (privileged), with hostPID", probe: setns,
			without: container{caps: admin}, with: container{caps: admin, pidns: hostPID}},
		{name: "an interface after ADD", probe: connect, after: w.bridge},
		{name: "an interface after ADD that is gone again, and CAP_NET_ADMIN", probe: nsid,
			without: container{caps: withNetAdmin}, with: container{caps: withNetAdmin}, after: w.bridge, detach: true},
		{name: "an XDP program on lo after ADD, with a map of the host's devices", probe: spec.Probe{Kind: "frame"}, xdp: true},
		{name: "an open socket of the host, inherited or passed", probe: spec.Probe{Kind: "inherited", Addr: spec.HostAddr + ":7001", Expect: "this is host"},
			with: container{files: []*os.File{tcp}}},
		{name: "CAP_NET_ADMIN, with any open socket of another namespace (SIOCGSKNS)", probe: spec.Probe{Kind: "move-by-socket", Expect: "gap1"},
			without: container{caps: withNetAdmin}, with: container{caps: withNetAdmin, files: []*os.File{udp}}},
		{name: "CAP_DAC_READ_SEARCH, with any file of the host's disk", probe: spec.Probe{Kind: "handle", Addr: w.socketHandle(t), Expect: "this is host"},
			with: container{caps: anyFile}},
	} {
		gap.probe.Name = gap.name
		var verdicts []string
		for j, c := range []container{gap.without, gap.with} {
			with := j == 1
			c.name = fmt.Sprintf("gap %d, %v", i, with)
			c.netns = newNetns(t)
			c.probes = []spec.Probe{gap.probe}
			id := fmt.Sprintf("gap-%d-%v", i, with)
			if err := w.attach(t, w.none, id, c.netns); err != nil {
				t.Fatal(err)
			}
			if with && gap.after != nil {
				if err := w.attach(t, gap.after, id, c.netns); err != nil {
					t.Fatal(err)
				}
				if gap.detach {
					w.detach(t, gap.after, id, c.netns)
				}
				wantCode(t, w.check(id, c.netns), 100)
			}
			if with && gap.xdp {
				w.redirectLo(t, c.netns)
				wantCode(t, w.check(id, c.netns), 100)
			}
			r := w.attack(t, c)[gap.name]
			verdicts = append(verdicts, verdict(r))
			if r.Through != with {
				t.Errorf("%s, %v: got through: %v: %s", gap.name, with, r.Through, r.Detail)
			}
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", gap.name, verdicts[0], verdicts[1])
		fmt.Printf("%-68s without %-8s with %s\n", gap.name, verdicts[0], verdicts[1])
	}
	compare(t, security, "gaps", table.String())
}

const security = "../../docs/security.md"

// compare holds a table against a document, between the marker of that
// name and the next empty line, so that the document tells what was seen.
func compare(t *testing.T, doc, marker, table string) {
	t.Helper()
	raw, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	begin := "<!-- table: " + marker + " -->\n"
	before, rest, ok := strings.Cut(string(raw), begin)
	if !ok {
		t.Fatalf("%s has no %q", doc, begin)
	}
	was, after, ok := strings.Cut(rest, "\n\n")
	if !ok {
		t.Fatalf("%s: no empty line after the table %q", doc, marker)
	}
	if was+"\n" == table {
		return
	}
	if !*update {
		t.Errorf("%s does not have the table %q that was seen; run test/run.sh isolation -update. Seen:\n%s", doc, marker, table)
		return
	}
	if err := os.WriteFile(doc, []byte(before+begin+table+"\n"+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
