package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/cni-none/cni-none/internal/netns"
	"github.com/cni-none/cni-none/internal/nstest"
)

// never is an --interval that no test lives to see: what is reported then was
// heard of, not found.
const never = "10h"

func TestWatchHearsOfAVeth(t *testing.T) {
	ns := nstest.New(t)
	up(t, ns)
	pid := sleeper(t, ns)
	n := inode(t, ns.Path)
	w := startWatch(t, "--interval", never, "--settle", "200ms")

	c := w.next(n, 1, "isolated")
	if c.Expected != "was isolated for 200ms" || len(c.Processes) != 1 || c.Processes[0].PID != pid {
		t.Errorf("%+v", c)
	}
	w.poll("isolated gauge", func() bool { return w.metric(`none_audit_namespaces{state="isolated"}`) >= 1 })

	moveVeth(t, nstest.New(t), ns, "eth0")
	if c = w.next(n, 2, "violated"); c.Was != "isolated" || strings.Join(c.Why, ";") != "interfaces beside lo: eth0 (veth)" {
		t.Errorf("%+v", c)
	}
	w.poll("violated gauge", func() bool {
		return w.metric(fmt.Sprintf(`none_audit_violated{inode="%d",container="",namespace="",pod=""}`, n)) == 1
	})
	if w.metric(`none_audit_namespaces{state="violated"}`) < 1 || w.metric("none_audit_violations_total") < 1 {
		t.Error(w.scrape())
	}

	// What it is violated by has changed: that is news, but no second violation.
	moveVeth(t, nstest.New(t), ns, "eth1")
	if c = w.next(n, 3, "violated"); !strings.Contains(c.Why[0], "eth1 (veth)") {
		t.Errorf("%+v", c)
	}
	dropLink(t, ns, "eth0")
	w.next(n, 4, "violated")
	// Even without an interface left, the namespace knows where they led.
	dropLink(t, ns, "eth1")
	if c = w.next(n, 5, "violated"); !strings.Contains(strings.Join(c.Why, ";"), "it was connected to another network namespace") {
		t.Errorf("%+v", c)
	}
}

// An interface that came and went between two looks has left its trace.
func TestWatchHearsOfAShortVisit(t *testing.T) {
	ns := nstest.New(t)
	up(t, ns)
	sleeper(t, ns)
	n := inode(t, ns.Path)
	w := startWatch(t, "--interval", never, "--settle", "200ms")
	w.next(n, 1, "isolated")
	if err := w.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	moveVeth(t, nstest.New(t), ns, "eth0")
	dropLink(t, ns, "eth0")
	if err := w.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if c := w.next(n, 2, "violated"); len(c.Why) != 1 || !strings.Contains(c.Why[0], "it was connected") {
		t.Errorf("%+v", c)
	}
}

// What is put right is reported too.
func TestWatchHearsOfAnAddress(t *testing.T) {
	ns := nstest.New(t)
	up(t, ns)
	sleeper(t, ns)
	n := inode(t, ns.Path)
	w := startWatch(t, "--interval", never, "--settle", "200ms")
	w.next(n, 1, "isolated")
	giveLo(t, ns, "10.9.8.7/32")
	if c := w.next(n, 2, "violated"); strings.Join(c.Why, ";") != "lo has addresses that are not loopback addresses: 10.9.8.7/32" {
		t.Errorf("%+v", c)
	}
	takeFromLo(t, ns, "10.9.8.7/32")
	if c := w.next(n, 3, "isolated"); c.Was != "violated" || c.Expected == "" {
		t.Errorf("%+v", c)
	}
}

// Without an event, for instance for a namespace that is new, the next look at
// everything finds it.
func TestWatchLooksEverywhere(t *testing.T) {
	w := startWatch(t, "--interval", "300ms", "--settle", "200ms")
	ns := nstest.New(t)
	up(t, ns)
	sleeper(t, ns)
	n := inode(t, ns.Path)
	w.next(n, 1, "isolated")
	moveVeth(t, nstest.New(t), ns, "eth0")
	w.next(n, 2, "violated")
}

// A container that is just being connected to a network is isolated for a
// moment, and that is no promise. A line says what happened; nothing counts.
func TestWatchDoesNotExpectTooSoon(t *testing.T) {
	ns := nstest.New(t)
	sleeper(t, ns)
	empty := nstest.New(t) // no process: work in progress
	w := startWatch(t, "--interval", "300ms", "--settle", "1h")
	n := inode(t, ns.Path)
	w.poll("second look", func() bool { return w.metric("none_audit_scans_total") >= 3 })
	moveVeth(t, nstest.New(t), ns, "eth0")
	moveVeth(t, nstest.New(t), empty, "eth0")
	if c := w.next(n, 1, "not isolated"); c.Expected != "" || c.Violated {
		t.Errorf("%+v", c)
	}
	scans := w.metric("none_audit_scans_total")
	w.poll("another look", func() bool { return w.metric("none_audit_scans_total") > scans+1 })
	if got := w.metric(`none_audit_namespaces{state="violated"}`); got != 0 {
		t.Errorf("%v violated", got)
	}
	if c := w.changes(inode(t, empty.Path)); len(c) != 0 {
		t.Errorf("an empty namespace: %+v", c)
	}
}

// To watch a namespace does not keep it: when the last process ends, its veth
// goes, and the end is heard of.
func TestWatchKeepsNothingAlive(t *testing.T) {
	outside := nstest.New(t)
	ns := nstest.New(t)
	up(t, ns)
	cmd := exec.Command("sleep", "600")
	startIn(t, ns, cmd)
	n := inode(t, ns.Path)
	w := startWatch(t, "--interval", never, "--settle", "200ms")
	w.next(n, 1, "isolated")
	moveVeth(t, outside, ns, "eth0")
	w.next(n, 2, "violated")
	unmount(t, ns)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "end of the veth", func() bool {
		var gone bool
		inNS(t, outside, func(h *netlink.Handle) error {
			_, err := h.LinkByName("peth0")
			gone = err != nil
			return nil
		})
		return gone
	})
	w.next(n, 3, "gone")
	w.poll("gauge without it", func() bool {
		return !strings.Contains(w.scrape(), fmt.Sprintf("inode=\"%d\"", n))
	})
}

// The kernel gives a number to the next namespace as soon as it is free. What
// was expected of the first is not expected of the second.
func TestWatchTellsNamespacesWithOneNumberApart(t *testing.T) {
	nstest.New(t) // needs root, as this does
	e, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	ids := map[int]bool{}
	numbers := map[uint64]int{}
	for i := 0; i < 40; i++ {
		f := anonymousNamespace(t)
		id, err := e.track(f)
		if err != nil || ids[id] {
			t.Fatalf("id %d: %v; or it was another's", id, err)
		}
		if again, err := e.track(f); again != id || err != nil {
			t.Fatalf("first %d, then %d, %v", id, again, err)
		}
		ids[id] = true
		numbers[f.ID().Ino]++
		f.Close()
		waitFor(t, "word of the end", func() bool { return e.drain().ended[id] })
	}
	t.Logf("%d namespaces had %d numbers", len(ids), len(numbers))
}

// anonymousNamespace makes a namespace that only the file holds.
func anonymousNamespace(t *testing.T) *netns.NS {
	t.Helper()
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return f
}

// Neither files nor memory grow with the number of namespaces.
func TestWatchIsBounded(t *testing.T) {
	w := startWatch(t, "--interval", "500ms", "--settle", "200ms")
	files := func() int {
		names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := w.metric("none_audit_scans_total")
	w.poll("looks", func() bool { return w.metric("none_audit_scans_total") >= before+2 })
	few := files()
	const many = 100
	for range many {
		ns := nstest.New(t)
		up(t, ns)
	}
	w.poll("the namespaces", func() bool { return w.metric("none_audit_seen_namespaces") >= many })
	var most int
	before = w.metric("none_audit_scans_total")
	w.poll("looks", func() bool {
		most = max(most, files())
		return w.metric("none_audit_scans_total") >= before+3
	})
	// On a slow machine, more looks are under way at a time.
	if most > few+many/2 {
		t.Errorf("%d files with few namespaces, %d with %d more", few, most, many)
	}
	t.Logf("%d files, then at most %d; a look took %v s", few, most, w.metric("none_audit_scan_seconds"))
}

// An owner of a namespace who changes it all the time gets few lines.
func TestWatchBoundsItsLines(t *testing.T) {
	ns := nstest.New(t)
	sleeper(t, ns)
	n := inode(t, ns.Path)
	w := startWatch(t, "--interval", never, "--settle", "200ms")
	w.next(n, 1, "isolated")
	start := time.Now()
	const changes = 100
	inNS(t, ns, func(h *netlink.Handle) error {
		for range changes / 2 {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "eth0"
			veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth1"}
			if err := h.LinkAdd(veth); err != nil {
				return err
			}
			if err := h.LinkDel(veth); err != nil {
				return err
			}
		}
		return nil
	})
	// What it ends with is what is reported last.
	w.poll("end", func() bool { c := w.changes(n); return c[len(c)-1].State == "isolated" })
	took := time.Since(start)
	got := len(w.changes(n))
	if limit := 3 + int(took/pause); got > limit {
		t.Errorf("%d lines for %d changes in %v, want at most %d", got, changes, took, limit)
	}
	t.Logf("%d lines for %d changes in %v", got, changes, took)
}

func TestMetricsAreWellFormed(t *testing.T) {
	var m metrics
	k := &watched{expected: "x", row: row{
		Inode: 7, Verdict: notIsolated, Violated: true,
		Containers: []*container{{ID: "a\"b\\c\n\x1b", Pod: &pod{"n", "p", ""}}},
	}}
	m.count(map[uint64]*watched{7: k}, []string{"more than 7 mounts by uid 1000"})
	text := string(m.text())
	if want := `none_audit_violated{inode="7",container="a\"b\\\\c\\n\\x1b",namespace="n",pod="p"} 1`; !strings.Contains(text, want+"\n") {
		t.Errorf("no %s in\n%s", want, text)
	}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, "none_audit_") {
			t.Errorf("%q", line)
		}
	}
	// The endpoint itself, and whether it is quiet when nothing is wrong.
	w := startWatch(t, "--interval", never)
	if health, status, err := w.get("/healthz"); err != nil || status != http.StatusOK || health != "ok\n" {
		t.Errorf("healthz: %d, %q, %v", status, health, err)
	}
}

// The text form is one line per change, whatever a name holds.
func TestWatchText(t *testing.T) {
	ns := nstest.New(t)
	var out strings.Builder
	w := newWatcher()
	w.settle, w.out = time.Hour, &out
	k := &watched{inode: inode(t, ns.Path), ns: &namespace{claimed: "network air\ngap", containers: []*container{{"c\n1", &pod{"n", "p\x1b", ""}}}}}
	if err := w.judge(k, row{Verdict: isolated}); err != nil {
		t.Fatal(err)
	}
	if err := w.judge(k, row{Verdict: isolated}); err != nil { // no change, no line
		t.Fatal(err)
	}
	if err := w.judge(k, row{Verdict: notIsolated, Why: []string{"eth0 (veth, up)"}}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", lines)
	}
	_, line, _ := strings.Cut(lines[1], " ")
	if want := fmt.Sprintf(`violated net:[%d] pod n/p\x1b: eth0 (veth, up) (network air\ngap)`, k.inode); line != want {
		t.Errorf("%s\nwant %s", line, want)
	}
	out.Reset()
	w.asJSON = true
	if err := w.judge(k, row{Verdict: isolated}); err != nil || !json.Valid([]byte(out.String())) || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// A namespace that has the number of one that is gone is another one: what was
// expected of the first says nothing about it.
func TestWatchForgetsTheFirstOfANumber(t *testing.T) {
	ns := nstest.New(t)
	moveVeth(t, nstest.New(t), ns, "eth0")
	e, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	for name, id := range map[string]int{"another": 1 << 20, "the same": 0} {
		var out strings.Builder
		w := newWatcher()
		w.events, w.out, w.err, w.asJSON, w.settle = e, &out, &out, true, time.Hour
		n := inode(t, ns.Path)
		if id == 0 {
			open, err := netns.Open(ns.Path)
			if err != nil {
				t.Fatal(err)
			}
			if id, err = e.track(open); err != nil {
				t.Fatal(err)
			}
			open.Close()
		}
		first := &watched{inode: n, id: id, expected: "was isolated", sorted: true, lane: lane{inode: n}, row: row{Inode: n, Verdict: isolated}}
		first.ns = &namespace{inode: n, ways: []way{{path: ns.Path, mount: true}}}
		w.known[n], w.byID[id] = first, first
		w.agenda.at(first, time.Now())
		for w.known[n] == nil || w.known[n].row.Verdict != notIsolated {
			if err := w.goOn(time.Now()); err != nil {
				t.Fatal(err)
			}
			select {
			case r := <-w.lanes.done:
				if err := w.evaluate(r); err != nil {
					t.Fatal(err)
				}
			case <-time.After(time.Millisecond):
			}
		}
		var c change
		if err := json.Unmarshal([]byte(out.String()), &c); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out.String())
		}
		want := map[string]string{"another": "gone", "the same": "violated"}[name]
		if c.State != want || (w.known[n] == first) != (name == "the same") {
			t.Errorf("%s: %s", name, out.String())
		}
	}
}

// The health page fails when there was no look for a while.
func TestHealth(t *testing.T) {
	var m metrics
	ask := func() int {
		r := httptest.NewRecorder()
		m.handler(time.Hour).ServeHTTP(r, httptest.NewRequest("GET", "/healthz", nil))
		return r.Code
	}
	if code := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("before the first look: %d", code)
	}
	m.scanned(time.Now(), 1, 0)
	if code := ask(); code != http.StatusOK {
		t.Errorf("after a look: %d", code)
	}
	m.last = time.Now().Add(-2 * time.Hour)
	if code := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("two hours later: %d", code)
	}
}

// A container that has just come is known from the record of its attachment, long
// before the next look at everything, and so is what happens to it.
func TestWatchHearsOfAnAttachment(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "results")
	if err := os.Mkdir(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	w := startWatch(t, "--interval", "10h", "--claimed-only", "--cni-cache", cache)
	w.poll("a first look", func() bool { return w.metric("none_audit_scans_total") >= 1 })
	ns := nstest.New(t)
	up(t, ns)
	sleeper(t, ns)
	n := inode(t, ns.Path)
	write(t, filepath.Join(cache, "airgap-c1-eth0"), cacheEntry("c1", ns.Path, false))
	w.next(n, 1, "isolated")
	moveVeth(t, nstest.New(t), ns, "eth0")
	w.next(n, 2, "violated")
}
