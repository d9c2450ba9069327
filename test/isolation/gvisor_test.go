package isolation

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/isolation/spec"
)

// TestGVisor attacks from inside gVisor. A probe that gVisor gets through with on
// a bridge has that as its control; what gVisor does not let through anywhere has
// the control that runc has: the way out is there, and gVisor's kernel closes it.
func TestGVisor(t *testing.T) {
	w := newWorld(t)
	t.Run("probes", func(t *testing.T) { testGVisorProbes(t, w) })
	t.Run("families", func(t *testing.T) { testGVisorFamilies(t, w) })
}

func testGVisorProbes(t *testing.T, w *world) {
	rows := w.rows()
	controls := w.controls(t, rows)
	none := w.onNone(t, rows, true)
	bridged := map[string]spec.Result{}
	for _, admin := range []bool{false, true} {
		c := container{name: fmt.Sprint("gVisor on a bridge, admin ", admin), gvisor: true, netns: newNetns(t),
			probes: choose(rows, admin, func(r row) bool { return r.control == onBridge })}
		if err := w.attach(t, w.bridge, fmt.Sprint("gvisor-", admin), c.netns); err != nil {
			t.Fatal(err)
		}
		if admin {
			c.caps = withNetAdmin
		}
		for k, r := range w.attack(t, c) {
			bridged[k] = r
		}
	}

	var table strings.Builder
	fmt.Fprintf(&table, "| probe | control | control | gVisor on the none network |\n|---|---|---|---|\n")
	inGVisor := 0
	for _, r := range rows {
		where, c, n := r.control+", gVisor", bridged[r.Name], none[r.Name]
		if c.Through {
			inGVisor++
		} else {
			where, c = r.control+", runc", controls[r.control][r.Name]
		}
		name := r.Name
		if r.admin {
			name += " (CAP_NET_ADMIN)"
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s |\n", name, where, verdict(c), verdict(n))
		fmt.Printf("%-68s %-45s %-8s none %-8s %s\n", name, where, verdict(c), verdict(n), oneLine(n.Detail))
		if !c.Through {
			t.Errorf("%s: the control in %s does not get through (%s): the probe proves nothing", r.Name, where, c.Detail)
		}
		if n.Through {
			t.Errorf("%s: got out of the none network: %s", r.Name, n.Detail)
		}
	}
	fmt.Printf("\nprobes: %d; control through in gVisor: %d; none through: 0\n", len(rows), inGVisor)
	compare(t, "../../docs/gvisor.md", "probes", table.String())
}

// testGVisorFamilies: what a network namespace does not contain is not there in
// gVisor, without any profile.
func testGVisorFamilies(t *testing.T, w *world) {
	ns := newNetns(t)
	if err := w.attach(t, w.none, "gvisor-families", ns); err != nil {
		t.Fatal(err)
	}
	probes := w.familyProbes(t)
	runc := w.attack(t, container{name: "runc", netns: ns, probes: probes})
	gvisor := w.attack(t, container{name: "gVisor", gvisor: true, netns: ns, probes: probes})
	runc[name32] = w.try32(t, container{name: "runc, 32 bits", netns: ns})
	gvisor[name32] = w.try32(t, container{name: "gVisor, 32 bits", gvisor: true, netns: ns})

	var table strings.Builder
	fmt.Fprintf(&table, "| on the none network, without a profile | runc | gVisor |\n|---|---|---|\n")
	for _, p := range append(probes, spec.Probe{Name: name32}) {
		r, g := runc[p.Name], gvisor[p.Name]
		fmt.Fprintf(&table, "| %s | %s | %s |\n", p.Name, verdict(r), verdict(g))
		fmt.Printf("%-68s runc %-8s gVisor %-8s %s\n", p.Name, verdict(r), verdict(g), oneLine(g.Detail))
		if !r.Through {
			t.Errorf("%s: not open with runc (%s): this proves nothing", p.Name, r.Detail)
		}
	}
	compare(t, "../../docs/gvisor.md", "families", table.String())
}
