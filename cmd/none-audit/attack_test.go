package main

import (
	"flag"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
	"github.com/cni-none/cni-none/internal/nstest"
)

// reportTime is how long after a veth was moved in the report of it came.
func reportTime(t *testing.T) time.Duration {
	t.Helper()
	w := startWatch(t, "--interval", "500ms", "--settle", "200ms")
	ns := nstest.New(t)
	up(t, ns)
	sleeper(t, ns)
	n := inode(t, ns.Path)
	w.next(n, 1, "isolated")
	from := nstest.New(t)
	var longest time.Duration
	for i := range 2 { // not just in a quiet moment
		moved := time.Now()
		moveVeth(t, from, ns, fmt.Sprintf("eth%d", i))
		c := w.next(n, i+2, "violated")
		longest = max(longest, c.Time.Sub(moved))
		scans := w.metric("none_audit_scans_total")
		w.poll("another look", func() bool { return w.metric("none_audit_scans_total") > scans })
	}
	return longest
}

var full = flag.Bool("full", false, "100,000 mounts and 100,000 addresses, which take long to make, instead of samples")

// What one user does delays a report about another container by less than a
// second, and what is not looked at for its sake is said.
func TestWatchIsNotBlinded(t *testing.T) {
	needRoot(t)
	mounts, addresses := "30000", "12000"
	if *full {
		mounts, addresses = "100000", "100000"
	}
	control := reportTime(t)
	// On a machine where even the control takes long, the attack may take longer.
	limit := time.Second + 10*control
	t.Logf("without an attack: %v", control)
	for _, tt := range []struct {
		name, said string
		args       []string
	}{
		{"mounts", `more than 20000 mounts by `, []string{"mounts", mounts}},
		{"files", `more than 100000 open files by `, []string{"files", "110000"}},
		{"addresses", "", []string{"addresses", addresses}},
		{"churn", "", []string{"churn"}},
		{"forks", "", []string{"forks", "300us"}},
		{"threads", "", []string{"threads", "4000"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			attack(t, "enter", asUser(), tt.args...)
			took := reportTime(t)
			t.Logf("during the attack: %v", took)
			if took > limit {
				t.Errorf("a report came after %v, want less than %v", took, limit)
			}
			out, errs, _ := output(t, exec.Command(audit, "--json"))
			if tt.said != "" && (!strings.Contains(errs, "not looked at: "+tt.said) || !strings.Contains(out, tt.said)) {
				t.Errorf("the list does not say what it left out: %s", errs)
			}
			if tt.said == "" && strings.Contains(errs, "not looked at: more") {
				t.Errorf("the list says that it left something out: %s", errs)
			}
		})
	}
}

// Watch reports what it does not look at, in a line and in the metrics.
func TestWatchSaysWhatItLeavesOut(t *testing.T) {
	needRoot(t)
	w := startWatch(t, "--interval", "200ms")
	if w.metric("none_audit_alarms") != 0 && strings.Contains(w.scrape(), "20000 mounts") {
		t.Fatalf("control: %s", w.scrape())
	}
	attack(t, "enter", asUser(), "mounts", "20500")
	series := regexp.MustCompile(`(?m)^none_audit_not_looked_at\{what="more than 20000 mounts by uid \d+.*"\} 1$`)
	w.poll("series", func() bool { return series.MatchString(w.scrape()) })
	if w.metric("none_audit_alarms") < 1 {
		t.Error(w.scrape())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.ContainsFunc(w.lines, func(l string) bool {
		return strings.Contains(l, `"state":"not looked at"`) && strings.Contains(l, "more than 20000 mounts by uid")
	}) {
		t.Errorf("no line: %s", strings.Join(w.lines, "\n"))
	}
}

// A process that forks and exits all the time is seen: one that is gone before it is
// visited, and one that is gone between that and the look.
func TestListSeesAForker(t *testing.T) {
	needRoot(t)
	for _, life := range []string{"300us", "700us", "1ms", "8ms", "30ms"} {
		t.Run(life, func(t *testing.T) {
			_, said := attack(t, "forks", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Setpgid: true}, life)
			n, err := strconv.ParseUint(said, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			seen, unseen := 0, 0
			const lists = 20
			for range lists {
				out, errs, _ := output(t, exec.Command(audit, "--json"))
				switch {
				case strings.Contains(out, fmt.Sprintf(`"inode": %d`, n)):
					seen++
				case strings.Contains(errs, "not looked at: processes that end before they can be looked at"):
					unseen++
				}
			}
			t.Logf("seen by %d of %d lists, %d more said that they missed something", seen, lists, unseen)
			if seen+unseen < lists || seen < lists*3/4 {
				t.Errorf("seen by %d of %d lists, %d more said that they missed something", seen, lists, unseen)
			}
		})
	}
}

// A file of a process whose first thread has ended, and a mount that only another
// thread than the first sees, hold a namespace.
func TestListLooksAtEveryThread(t *testing.T) {
	opened, mounted := nstest.New(t), nstest.New(t)
	openedInode, mountedInode := inode(t, opened.Path), inode(t, mounted.Path)
	leader, fd := attack(t, "leader", nil, opened.Path)
	thread, _ := attack(t, "mount", nil)
	unmount(t, opened)
	unmount(t, mounted)
	rows, _ := auditJSON(t)
	path := regexp.MustCompile(fmt.Sprintf(`^/proc/%d/task/\d+/fd/%s$`, leader, fd))
	if r, ok := rows[openedInode]; !ok || !slices.ContainsFunc(r.Files, path.MatchString) || r.Verdict != isolated {
		t.Errorf("a file of %d: %+v", leader, r)
	}
	if r, ok := rows[mountedInode]; !ok || !slices.Contains(r.Mounts, mounted.Path) || r.Verdict != isolated {
		t.Errorf("a mount in a thread of %d: %+v", thread, r)
	}
}

// What is violated and cannot be looked at for a while stays violated; what was
// isolated is unknown, and that is an alarm.
func TestUnknownIsAnAlarm(t *testing.T) {
	var out strings.Builder
	w := newWatcher()
	w.settle, w.out, w.asJSON = time.Hour, &out, true
	blind := row{Verdict: unknown, Why: []string{"the namespace kept changing"}}
	for i, was := range []row{{Verdict: isolated}, {Verdict: notIsolated, Why: []string{"eth0"}}} {
		k := &watched{inode: uint64(i), ns: &namespace{claimed: "network airgap"}}
		w.known[k.inode] = k
		for _, r := range []row{was, blind, blind} {
			if err := w.judge(k, r); err != nil {
				t.Fatal(err)
			}
		}
		if want := []string{"unknown", "violated"}[i]; k.row.state() != want {
			t.Errorf("%s became %s, want %s", was.Verdict, k.row.state(), want)
		}
	}
	if lines := strings.Count(out.String(), "\n"); lines != 3 {
		t.Errorf("%d lines, want isolated, unknown, violated:\n%s", lines, out.String())
	}
	var m metrics
	m.count(w.known, nil)
	for _, want := range []string{"none_audit_alarms 2\n", `none_audit_namespaces{state="unknown"} 1`, `none_audit_namespaces{state="violated"} 1`} {
		if !strings.Contains(string(m.text()), want) {
			t.Errorf("no %s in\n%s", want, m.text())
		}
	}
}

// A violated namespace that no walk finds any more stays violated for as long as
// it exists; one that was isolated is gone.
func TestUnseenStaysViolated(t *testing.T) {
	ns := nstest.New(t)
	e, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	open, err := netns.Open(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	alive, err := e.track(open)
	open.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		id    int
		row   row
		stays bool
	}{
		{"violated", alive, row{Verdict: notIsolated, Violated: true}, true},
		{"violated, and ended", 1 << 20, row{Verdict: notIsolated, Violated: true}, false},
		{"isolated", alive, row{Verdict: isolated}, false},
	} {
		var out strings.Builder
		w := newWatcher()
		w.events, w.out, w.asJSON = e, &out, true
		k := &watched{inode: 7, id: tt.id, expected: "network airgap", ns: &namespace{}, row: tt.row}
		w.known[7], w.byID[tt.id] = k, k
		for range 3 {
			if err := w.update(walk{scan: &scan{}, start: time.Now()}); err != nil {
				t.Fatal(err)
			}
		}
		if stays := w.known[7] == k; stays != tt.stays || stays == strings.Contains(out.String(), `"state":"gone"`) {
			t.Errorf("%s: still known: %v, want %v: %s", tt.name, stays, tt.stays, out.String())
		}
	}
}
