// Package faults makes every system call of the plugin fail, one at a time.
//
// strace does it to the program that is shipped: it first lists the calls of a
// command, then runs the command once for every call, errno and position, and
// lets exactly that call return the error without doing anything. Whatever
// happens then must be a success that is true or one CNI error, the stand-in
// for the host must be as it was, and the next call without a fault must heal
// what the failed one left.
//
// The Go runtime makes calls of its own, most of them before main. Some of
// them it cannot do without: it then throws, and no code of the plugin runs.
// Those are counted apart, and only calls in runtimeCalls may end so.
package faults

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/cni-none/cni-none/internal/nstest"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/plugintest"
)

var (
	full = flag.Bool("full", false, "every position of the Go runtime's calls, too, not just the first and a later one")
)

func TestMain(m *testing.M) { harness.Main(m) }

// errnos are those that the kernel gives when it is out of something or does
// not let us. EINTR is the one that a program may have to stand by trying again.
var errnos = []string{"EPERM", "ENOMEM", "ENOBUFS", "EINTR", "EIO", "EMFILE", "ENOENT"}

// runtimeCalls are made by the Go runtime for memory, threads, signals, time
// and its poller. It throws when one of them fails that it relies on, which no
// program can catch. fcntl and openat are here for the check of the standard
// descriptors, which runs before main.
var runtimeCalls = map[string]bool{
	"arch_prctl": true, "clone": true, "clone3": true, "epoll_create1": true, "epoll_ctl": true,
	"epoll_pwait": true, "eventfd2": true, "fcntl": true, "futex": true, "getpid": true, "gettid": true,
	"madvise": true, "mmap": true, "mprotect": true, "munmap": true, "nanosleep": true, "prctl": true,
	"prlimit64": true, "rt_sigaction": true, "rt_sigprocmask": true, "sched_getaffinity": true,
	"sched_yield": true, "sigaltstack": true, "tgkill": true, "timer_create": true, "timer_settime": true,
	"timer_delete": true, "set_tid_address": true, "getrandom": true,
}

// untried are the calls that cannot be made to fail: execve is strace's own,
// and the others do not return.
var untried = []string{"execve", "exit", "exit_group", "rt_sigreturn"}

// scene is a command in a state that a namespace can be in.
type scene struct {
	name, command string
	prepare       func(ns string) error
	wantCode      uint // the code without a fault; 0 is success
}

func loUp(ns string) error   { return plugintest.SetLo(ns, true) }
func loDown(ns string) error { return plugintest.SetLo(ns, false) }

// leak puts a veth pair into the namespace: something that breaks isolation.
func leak(ns string) error {
	return plugintest.With(ns, func(h *netlink.Handle) error {
		if _, err := h.LinkByName("leak0"); err == nil {
			return nil
		}
		la := netlink.NewLinkAttrs()
		la.Name = "leak0"
		return h.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: "leak1"})
	})
}

func both(fs ...func(string) error) func(string) error {
	return func(ns string) error {
		for _, f := range fs {
			if err := f(ns); err != nil {
				return err
			}
		}
		return nil
	}
}

var scenes = []scene{
	{"ADD, new namespace", "ADD", loDown, 0},
	{"ADD, other interfaces", "ADD", both(leak, loDown), 100},
	{"CHECK, isolated", "CHECK", loUp, 0},
	{"CHECK, other interfaces", "CHECK", both(leak, loUp), 100},
	{"CHECK, lo down", "CHECK", loDown, 101},
	{"DEL", "DEL", loUp, 0},
}

// sensible are the codes a fault may end in: 3 and 8 when CNI_NETNS cannot be
// opened or identified, 5 for stdin and stdout, 11 for a namespace that did
// not hold still, 100 and 101 for what CHECK sees, 102 where the kernel refuses.
var sensible = []uint{3, 5, 8, 11, 100, 101, 102}

// fault is one system call that fails once.
type fault struct {
	call, errno string
	when        int
}

func (f fault) String() string { return fmt.Sprintf("%s:error=%s:when=%d", f.call, f.errno, f.when) }

// tally counts how the faults of a scene ended.
type tally struct {
	mu                   sync.Mutex
	calls, tried, missed int
	byCall               map[string]map[string]int // call, how it ended, how often
}

func (c *tally) add(f fault, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byCall[f.call] == nil {
		c.byCall[f.call] = map[string]int{}
	}
	c.byCall[f.call][what]++
}

func TestFaults(t *testing.T) {
	var mu sync.Mutex
	results := map[string]*tally{}
	t.Run("scenes", func(t *testing.T) {
		for _, s := range scenes {
			t.Run(s.name, func(t *testing.T) {
				c := runScene(t, s)
				mu.Lock()
				results[s.name] = c
				mu.Unlock()
			})
		}
	})
	report(t, results)
}

func runScene(t *testing.T, s scene) *tally {
	c := &tally{byCall: map[string]map[string]int{}}
	counts := trace(t, s)
	c.calls = len(counts)
	var plan []fault
	for _, call := range sorted(counts) {
		if slices.Contains(untried, call) {
			continue
		}
		n := counts[call]
		for _, errno := range errnos {
			for _, when := range positions(call, n) {
				plan = append(plan, fault{call, errno, when})
			}
		}
	}
	queue := make(chan fault)
	var wg sync.WaitGroup
	const workers = 2
	for range workers {
		// Made here and not on the worker: nstest may end the test.
		w := &worker{t: t, s: s, c: c, node: plugintest.NewNode(t), ns: nstest.New(t).Path, dir: t.TempDir()}
		var err error
		if w.host, err = plugintest.Look(w.node.Path); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for f := range queue {
				w.try(f)
			}
		})
	}
	for _, f := range plan {
		queue <- f
	}
	close(queue)
	wg.Wait()
	return c
}

// positions are the calls to fail of n: all of the plugin's own, and the first
// and a later one of the runtime's, which are many and before main.
func positions(call string, n int) []int {
	if runtimeCalls[call] && !*full {
		return slices.Compact([]int{1, (n + 2) / 2})
	}
	var all []int
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

// writes matches what a plugin without state never does.
var writes = regexp.MustCompile(`open.*(O_WRONLY|O_RDWR|O_CREAT|O_TRUNC)|(mkdir|unlink|rename|symlink|link)(at|at2)?\(`)

var callLine = regexp.MustCompile(`^(\d+) +([a-z_0-9]+)\(`)

// trace lists the system calls of the scene without a fault, and how many of
// each a thread makes: strace counts per thread. Go's threads differ from run
// to run, so the union of several runs is taken.
func trace(t *testing.T, s scene) map[string]int {
	t.Helper()
	node, ns := plugintest.NewNode(t), nstest.New(t).Path
	counts := map[string]int{}
	for i := range 3 {
		if err := s.prepare(ns); err != nil {
			t.Fatal(err)
		}
		log := filepath.Join(t.TempDir(), fmt.Sprint("log", i))
		o := node.Run(t, plugintest.Call{Plugin: harness.Plugin(), Command: s.command, Netns: ns,
			Wrap: []string{"strace", "-f", "-qq", "-o", log}})
		if got := code(o); got != s.wantCode {
			t.Fatalf("without a fault: want code %d, got %d: %s", s.wantCode, got, o)
		}
		f, err := os.Open(log)
		if err != nil {
			t.Fatal(err)
		}
		perThread := map[string]int{}
		for sc := bufio.NewScanner(f); sc.Scan(); {
			if m := callLine.FindStringSubmatch(sc.Text()); m != nil {
				perThread[m[1]+" "+m[2]]++
			}
			if writes.MatchString(sc.Text()) {
				t.Errorf("opens a file to write: %s", sc.Text())
			}
		}
		f.Close()
		for k, n := range perThread {
			call := strings.Fields(k)[1]
			counts[call] = max(counts[call], n)
		}
	}
	if len(counts) < 5 {
		t.Fatalf("strace saw only %v", counts)
	}
	return counts
}

// code is the error code of an outcome, 0 for a success, and no real code for
// what is neither.
func code(o plugintest.Outcome) uint {
	e, err := o.Contract()
	if err != nil {
		return 9999
	}
	if e == nil {
		return 0
	}
	return e.Code
}

// worker tries faults one after the other on a host and a namespace of its own.
type worker struct {
	t       *testing.T
	s       scene
	c       *tally
	node    *plugintest.Node
	ns, dir string
	host    []string // how the host looked before anything
}

func (w *worker) try(f fault) {
	t := w.t
	bad := func(format string, args ...any) {
		t.Errorf("%s: %s: %s", w.s.name, f, fmt.Sprintf(format, args...))
	}
	if err := w.s.prepare(w.ns); err != nil {
		bad("prepare: %v", err)
		return
	}
	before, err := plugintest.Look(w.ns)
	if err != nil {
		bad("look: %v", err)
		return
	}
	log := filepath.Join(w.dir, "log")
	call := plugintest.Call{Plugin: harness.Plugin(), Command: w.s.command, Netns: w.ns, Timeout: 20 * time.Second}
	faulty := call
	faulty.Wrap = []string{"strace", "--seccomp-bpf", "-f", "-qq", "-o", log, "-e", "trace=" + f.call, "-e", "inject=" + f.String()}
	o := w.node.Run(t, faulty)
	raw, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(raw), "(INJECTED)") {
		w.c.mu.Lock()
		w.c.missed++ // this run did not come to that call
		w.c.mu.Unlock()
		return
	}
	truth := plugintest.Isolated(w.ns)
	e, broken := o.Contract()
	switch {
	case broken == nil && e == nil:
		w.c.add(f, "success")
		if w.s.wantCode != 0 {
			bad("success, where the namespace is not isolated: %v", truth)
		}
		if w.s.command == "ADD" && truth != nil {
			bad("ADD succeeded and left the namespace %v", truth)
		}
	case broken == nil:
		w.c.add(f, fmt.Sprint("code ", e.Code))
		if !slices.Contains(sensible, e.Code) {
			bad("code %d is not sensible: %s", e.Code, o)
		}
		if strings.Contains(e.Msg+e.Details, "panic") {
			bad("a panic: %s", o)
		}
	case f.call == "write" && strings.Count(string(raw), "(INJECTED)") > 1 && o.Exit == 1 && o.Stdout == "" && o.Stderr != "":
		// Go moved the goroutine to another thread, for which strace counts anew:
		// the error document met the fault, too, and stdout cannot tell.
		w.c.add(f, "code 5, on stderr")
	case threw(o) && runtimeCalls[f.call]:
		// The exit status tells the runtime, even where a result was out already.
		if now, err := plugintest.Look(w.ns); err == nil && slices.Equal(now, before) && o.Stdout == "" {
			w.c.add(f, "runtime threw")
		} else {
			w.c.add(f, "runtime threw after the work")
		}
	default:
		w.c.add(f, "BROKEN")
		bad("%v: %s", broken, o)
	}

	if host, err := plugintest.Look(w.node.Path); err != nil || !slices.Equal(host, w.host) {
		bad("the host was touched (%v):\nbefore %v\nafter  %v", err, w.host, host)
	}
	after, err := plugintest.Look(w.ns)
	if err != nil {
		bad("look: %v", err)
	}
	if (w.s.command != "ADD" || w.s.wantCode != 0) && !slices.Equal(before, after) {
		bad("changed the namespace:\nbefore %v\nafter  %v", before, after)
	}
	if w.s.command == "ADD" {
		check := call
		check.Command = "CHECK"
		if got := w.node.Run(t, check); code(got) == 0 && truth != nil {
			bad("CHECK calls it good: %v", truth)
		} else if code(got) != 0 && truth == nil {
			bad("CHECK calls an isolated namespace bad: %s", got)
		}
	}
	if got := w.node.Run(t, call); code(got) != w.s.wantCode {
		bad("the next call gives %s, want code %d", got, w.s.wantCode)
	}
	if w.s.command == "ADD" && w.s.wantCode == 0 {
		if err := plugintest.Isolated(w.ns); err != nil {
			bad("the next ADD did not heal: %v", err)
		}
	}
}

// threw tells whether the Go runtime gave up: a throw or a crash, and not a
// panic of the program, which says so.
func threw(o plugintest.Outcome) bool {
	if o.Hung || strings.Contains(o.Stderr, "panic:") {
		return false
	}
	return strings.Contains(o.Stderr, "fatal error: ") || strings.Contains(o.Stderr, "runtime") || o.Exit == -1
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// report prints what was tried and how it ended.
func report(t *testing.T, results map[string]*tally) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-26s %6s %6s %8s %9s %14s %7s\n", "scene", "calls", "tried", "success", "CNI error", "runtime threw", "broken")
	var tried, survived, threw, threwLate, calls, missed int
	for _, s := range scenes {
		c := results[s.name]
		if c == nil {
			continue
		}
		n := map[string]int{}
		for _, whats := range c.byCall {
			for what, k := range whats {
				if strings.HasPrefix(what, "code ") {
					what = "error"
				}
				n[what] += k
				c.tried += k
			}
		}
		late := n["runtime threw after the work"]
		fmt.Fprintf(&b, "%-26s %6d %6d %8d %9d %14d %7d\n", s.name, c.calls, c.tried, n["success"], n["error"], n["runtime threw"]+late, n["BROKEN"])
		calls = max(calls, c.calls)
		missed += c.missed
		tried += c.tried
		survived += n["success"] + n["error"]
		threw += n["runtime threw"] + late
		threwLate += late
	}
	fmt.Fprintf(&b, "\nfaults: tried %d in up to %d calls, survived %d. In the other %d the Go runtime threw: it cannot do without what failed,\n"+
		"and no program can catch that. %d times that was before the plugin had changed or said anything; the host was never touched and the next call healed.\n"+
		"%d more were not tried: that run made the call less often than the first.\n",
		tried, calls, survived, threw, threw-threwLate, missed)
	fmt.Fprintf(&b, "\nHow the faults of each call ended:\n")
	for _, s := range scenes {
		c := results[s.name]
		if c == nil {
			continue
		}
		for _, call := range sorted(c.byCall) {
			var parts []string
			for _, what := range sorted(c.byCall[call]) {
				parts = append(parts, fmt.Sprintf("%s x%d", what, c.byCall[call][what]))
			}
			fmt.Fprintf(&b, "  %-26s %-20s %s\n", s.name, call, strings.Join(parts, ", "))
		}
	}
	fmt.Print(b.String())
	if tried == 0 {
		t.Error("no fault was tried")
	}
}
