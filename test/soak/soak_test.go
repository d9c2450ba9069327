// Package soak does to the plugin what a busy or dying machine does: kills it,
// takes its namespace away, starts it two hundred times at once with no room,
// changes the namespace while it looks, and calls it ten thousand times.
//
// -full is the size that a release is held to; without it, a sample.
package soak

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/plugintest"
)

var (
	full = flag.Bool("full", false, "full size instead of a sample")
)

func TestMain(m *testing.M) { harness.Main(m) }

// size is how often something is done.
func size(sample, whole int) int {
	if *full {
		return whole
	}
	return sample
}

// hostUntouched compares the stand-in for the host with how it was.
func hostUntouched(t *testing.T, node *plugintest.Node) (check func()) {
	t.Helper()
	before, err := plugintest.Look(node.Path)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		after, err := plugintest.Look(node.Path)
		if err != nil || !slices.Equal(before, after) {
			t.Errorf("the host was touched (%v):\nbefore %v\nafter  %v", err, before, after)
		}
	}
}

// must is a call that has to succeed.
func must(t *testing.T, node *plugintest.Node, command, ns string) plugintest.Outcome {
	t.Helper()
	o := node.Run(t, plugintest.Call{Plugin: harness.Plugin(), Command: command, Netns: ns})
	if e, err := o.Contract(); err != nil || e != nil {
		t.Errorf("%s: %s", command, o)
	}
	return o
}

// tally counts outcomes by what they were.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *tally) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[what]++
}

func (c *tally) String() string {
	var parts []string
	for what, n := range c.n {
		parts = append(parts, fmt.Sprintf("%s x%d", what, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// what names an outcome, or fails the test when it breaks the contract or has
// none of the given codes.
func what(t *testing.T, o plugintest.Outcome, codes ...uint) string {
	t.Helper()
	e, err := o.Contract()
	switch {
	case err != nil:
		t.Errorf("%v: %s", err, o)
		return "broken"
	case e == nil:
		return "success"
	case !slices.Contains(codes, e.Code):
		t.Errorf("code %d, want success or one of %v: %s", e.Code, codes, o)
	}
	return fmt.Sprint("code ", e.Code)
}

// TestKilled kills ADD at random moments. Whatever it left, CHECK must not call
// it good when it is not, and the next ADD finishes the job.
func TestKilled(t *testing.T) {
	node, ns := plugintest.NewNode(t), nstest.New(t).Path
	untouched := hostUntouched(t, node)
	// The shortest of a few: a longer guess would let most of them end before.
	typical := must(t, node, "ADD", ns).Took
	for range 9 {
		typical = min(typical, must(t, node, "ADD", ns).Took)
	}
	var c tally
	random := harness.Random(t)
	kills, calls := size(60, 1000), 0
	for killed := 0; killed < kills; calls++ {
		if calls == 20*kills {
			t.Fatalf("%d of %d ADDs were killed in time", killed, calls)
		}
		if err := plugintest.SetLo(ns, false); err != nil {
			t.Fatal(err)
		}
		cmd := plugintest.Call{Plugin: harness.Plugin(), Command: "ADD", Netns: ns}.Cmd(context.Background())
		if err := node.Try(cmd.Start); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.Int64N(int64(typical))))
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		truth := plugintest.Isolated(ns)
		if cmd.ProcessState.Success() {
			if truth != nil {
				t.Errorf("ADD succeeded: %v", truth)
			}
			continue
		}
		killed++
		if truth == nil {
			c.add("after its work")
		} else {
			c.add("before or in its work")
		}
		check := node.Run(t, plugintest.Call{Plugin: harness.Plugin(), Command: "CHECK", Netns: ns})
		if what(t, check, 101) == "success" && truth != nil {
			t.Errorf("CHECK calls it good: %v", truth)
		}
		must(t, node, "ADD", ns)
		if err := plugintest.Isolated(ns); err != nil {
			t.Errorf("the next ADD did not finish the job: %v", err)
		}
		untouched()
	}
	fmt.Printf("SIGKILL at %d random moments of ADD (of %d calls, %s long): %s; every next ADD finished the job\n", kills, calls, typical.Round(100*time.Microsecond), &c)
}

// TestCycles calls ADD, CHECK and DEL over and over on namespaces that live on.
func TestCycles(t *testing.T) {
	namespaces, cycles := size(50, 1000), size(300, 10000)
	node := plugintest.NewNode(t)
	untouched := hostUntouched(t, node)
	inodes := map[uint64]bool{}
	var took []time.Duration
	var rss []int64
	t.Run("cycles", func(t *testing.T) {
		var paths []string
		for range namespaces {
			ns := nstest.New(t).Path
			var st unix.Stat_t
			if err := unix.Stat(ns, &st); err != nil {
				t.Fatal(err)
			}
			inodes[st.Ino] = true
			paths = append(paths, ns)
		}
		files, processes := openFiles(t), running(t)
		for i := range cycles {
			ns := paths[i%len(paths)]
			add := must(t, node, "ADD", ns)
			check := must(t, node, "CHECK", ns)
			del := must(t, node, "DEL", ns)
			took = append(took, add.Took+check.Took+del.Took)
			rss = append(rss, max(add.Usage.Maxrss, check.Usage.Maxrss, del.Usage.Maxrss))
		}
		for _, ns := range paths {
			if err := plugintest.Isolated(ns); err != nil {
				t.Error(err)
			}
		}
		if now := openFiles(t); now > files {
			t.Errorf("open files: %d before, %d after", files, now)
		}
		if now := running(t); now > processes {
			t.Errorf("plugin processes: %d before, %d after", processes, now)
		}
	})
	untouched()
	// Their mounts are gone now; nothing else may hold them.
	harness.Eventually(t, "no namespace is held any more", func() error {
		if h := held(t, inodes); len(h) > 0 {
			return fmt.Errorf("held: %v", h)
		}
		return nil
	})
	tenth := len(took) / 10
	first, last := median(took[:tenth]), median(took[len(took)-tenth:])
	firstRSS, lastRSS := median(rss[:tenth]), median(rss[len(rss)-tenth:])
	fmt.Printf("%d cycles of ADD, CHECK, DEL over %d namespaces: first tenth %s and %d KiB a cycle, last tenth %s and %d KiB (medians)\n",
		cycles, namespaces, first.Round(10*time.Microsecond), firstRSS, last.Round(10*time.Microsecond), lastRSS)
	// Twice is far beyond what a busy machine does to a median, and far below
	// what anything that grows with the calls does over thousands.
	if last > 2*first {
		t.Errorf("the last cycles cost %s, the first %s", last, first)
	}
	if lastRSS > firstRSS+firstRSS/4 {
		t.Errorf("the last cycles take %d KiB, the first %d", lastRSS, firstRSS)
	}
}

func median[T time.Duration | int64](v []T) T {
	s := slices.Clone(v)
	slices.Sort(s)
	return s[len(s)/2]
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// running counts the plugin's processes.
func running(t *testing.T) (n int) {
	t.Helper()
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		if to, _ := os.Readlink(exe); to == harness.Plugin() {
			n++
		}
	}
	return n
}

// held lists who has one of the namespaces: by being in it, or by an open file.
func held(t *testing.T, inodes map[uint64]bool) (who []string) {
	t.Helper()
	for _, pattern := range []string{"/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		paths, _ := filepath.Glob(pattern)
		for _, p := range paths {
			to, _ := os.Readlink(p)
			ino, ok := strings.CutPrefix(to, "net:[")
			if n, err := strconv.ParseUint(strings.TrimSuffix(ino, "]"), 10, 64); ok && err == nil && inodes[n] {
				who = append(who, p)
			}
		}
	}
	return who
}

// TestNamespaceDies ends the only process in the namespace while ADD works on
// it. Either ADD had it in time, or it says that there is none.
func TestNamespaceDies(t *testing.T) {
	node := plugintest.NewNode(t)
	untouched := hostUntouched(t, node)
	typical := must(t, node, "ADD", nstest.New(t).Path).Took
	var c tally
	random := harness.Random(t)
	n := size(30, 500)
	for range n {
		holder := exec.Command("unshare", "--net", "sleep", "60")
		holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		path, stop := start(t, node, holder)
		time.AfterFunc(time.Duration(random.Int64N(int64(typical))), stop)
		o := node.Run(t, plugintest.Call{Plugin: harness.Plugin(), Command: "ADD", Netns: path})
		// 3: no such file any more; 8: the PID is a zombie's or another process's;
		c.add(what(t, o, 3, 8))
		stop()
		untouched()
	}
	fmt.Printf("the namespace ended during %d ADDs: %s\n", n, &c)
}

// start starts a process that makes a network namespace, and returns the path
// to that once it is there.
func start(t *testing.T, node *plugintest.Node, cmd *exec.Cmd) (path string, stop func()) {
	t.Helper()
	if err := node.Try(cmd.Start); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	path = fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	var host, own unix.Stat_t
	if err := unix.Stat(node.Path, &host); err != nil {
		t.Fatal(err)
	}
	harness.Until(t, fmt.Sprintf("%v makes a namespace", cmd.Args), func() bool {
		return unix.Stat(path, &own) == nil && own.Ino != host.Ino
	})
	return path, stop
}

// TestNoRoom starts 200 at once where hardly any can open or start anything.
func TestNoRoom(t *testing.T) {
	const atOnce = 200
	t.Run("files", func(t *testing.T) {
		node := plugintest.NewNode(t)
		untouched := hostUntouched(t, node)
		ns := nstest.New(t).Path
		for _, limit := range []int{3, 4, 5, 6, 8, 64} {
			if err := plugintest.SetLo(ns, false); err != nil {
				t.Fatal(err)
			}
			var c tally
			together(atOnce, func(int) {
				c.add(what(t, node.Run(t, plugintest.Call{Plugin: harness.Plugin(), Command: "ADD", Netns: ns,
					Wrap: []string{"prlimit", fmt.Sprintf("--nofile=%d:%d", limit, limit), "--"}}), 102))
			})
			fmt.Printf("%d ADDs at once, ulimit -n %d: %s\n", atOnce, limit, &c)
			untouched()
			must(t, node, "ADD", ns)
			if err := plugintest.Isolated(ns); err != nil {
				t.Error(err)
			}
		}
	})
	// The limit on processes does not bind root, nor a process with CAP_SYS_ADMIN on
	// the machine (fork.c). It binds root of a user namespace: rootless podman.
	t.Run("processes", func(t *testing.T) {
		node := plugintest.NewNode(t)
		anchor := exec.Command("sh", "-c", "unshare --net sleep 300 & echo $!; wait")
		const uid = 61234
		anchor.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
			UidMappings: []syscall.SysProcIDMap{{HostID: uid, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: uid, Size: 1}},
			Credential:  &syscall.Credential{},
			Pdeathsig:   unix.SIGKILL,
		}
		hostPath, _ := start(t, node, anchor)
		pid := anchor.Process.Pid
		target := ""
		harness.Until(t, "the child has a namespace", func() bool {
			raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
			f := strings.Fields(string(raw))
			if len(f) == 0 {
				return false
			}
			target = "/proc/" + f[0] + "/ns/net"
			var own, host unix.Stat_t
			return unix.Stat(target, &own) == nil && unix.Stat(hostPath, &host) == nil && own.Ino != host.Ino
		})
		for _, limit := range []int{20, 100, 2000} {
			if err := plugintest.SetLo(target, false); err != nil {
				t.Fatal(err)
			}
			inside := func(limit int) plugintest.Outcome {
				return node.Run(t, plugintest.Call{Plugin: harness.Plugin(), Command: "ADD", Netns: target, Wrap: []string{
					"nsenter", "--target", fmt.Sprint(pid), "--user", "--net", "--preserve-credentials", "--setuid", "0", "--setgid", "0",
					"prlimit", fmt.Sprintf("--nproc=%d:%d", limit, limit), "--"}})
			}
			var c tally
			together(atOnce, func(int) {
				o := inside(limit)
				switch {
				case strings.Contains(o.Stderr, "failed to create new OS thread") && o.Stdout == "":
					// The Go runtime asks for threads before main and throws without.
					c.add("the Go runtime got no thread")
				case strings.HasPrefix(o.Stderr, "prlimit:") || strings.HasPrefix(o.Stderr, "nsenter:"):
					c.add("was not even started")
				default:
					c.add(what(t, o, 102))
				}
			})
			fmt.Printf("%d ADDs at once, ulimit -u %d: %s\n", atOnce, limit, &c)
			if o := inside(2000); what(t, o) != "success" {
				t.Errorf("the next ADD: %s", o)
			}
			if err := plugintest.Isolated(target); err != nil {
				t.Error(err)
			}
		}
	})
}

// together runs fn n times at once.
func together(n int, fn func(i int)) {
	var wg sync.WaitGroup
	gate := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-gate
			fn(i)
		})
	}
	close(gate)
	wg.Wait()
}

// TestChanging calls ADD and CHECK while the namespace changes all the time, so
// that netlink dumps are interrupted. The answer may be that it is changing
// (11) or what there was to see at that moment; never something else.
func TestChanging(t *testing.T) {
	shared := strings.Replace(plugintest.Conf, "{", `{"exclusive":false,`, 1)
	veth := func(h *netlink.Handle, _ netlink.Link, i int) error {
		la := netlink.NewLinkAttrs()
		la.Name = fmt.Sprint("churn", i%3)
		v := &netlink.Veth{LinkAttrs: la, PeerName: fmt.Sprint("peer", i%3)}
		if err := h.LinkAdd(v); err != nil {
			return err
		}
		return h.LinkDel(v)
	}
	address := func(h *netlink.Handle, lo netlink.Link, i int) error {
		a, _ := netlink.ParseAddr(fmt.Sprintf("127.9.%d.%d/32", i/250%250, 1+i%250))
		if err := h.AddrAdd(lo, a); err != nil {
			return err
		}
		return h.AddrDel(lo, a)
	}
	down := func(h *netlink.Handle, lo netlink.Link, i int) error {
		if err := h.LinkSetDown(lo); err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	}
	rename := func(h *netlink.Handle, _ netlink.Link, i int) error {
		l, err := h.LinkByName(fmt.Sprint("stays", i%2))
		if err != nil {
			return err
		}
		return h.LinkSetName(l, fmt.Sprint("stays", (i+1)%2))
	}
	for _, s := range []struct {
		name, conf string
		change     func(*netlink.Handle, netlink.Link, int) error
		codes      []uint
		stays      bool // a veth pair is there all the time: success would be a lie
	}{
		{"interfaces, exclusive", plugintest.Conf, veth, []uint{11, 100}, false},
		{"interfaces beside one that stays, exclusive", plugintest.Conf, veth, []uint{11, 100}, true},
		{"the name of one that stays, exclusive", plugintest.Conf, rename, []uint{11, 100}, true},
		{"interfaces, not exclusive", shared, veth, []uint{11}, false},
		{"addresses of lo", plugintest.Conf, address, []uint{11}, false},
		{"lo goes down and up", plugintest.Conf, down, []uint{11, 101}, false},
	} {
		t.Run(s.name, func(t *testing.T) {
			node, ns := plugintest.NewNode(t), nstest.New(t).Path
			untouched := hostUntouched(t, node)
			must(t, node, "ADD", ns)
			// Enough addresses that a dump takes several messages.
			err := plugintest.With(ns, func(h *netlink.Handle) error {
				lo, err := h.LinkByName("lo")
				for i := 0; i < 1000 && err == nil; i++ {
					a, _ := netlink.ParseAddr(fmt.Sprintf("127.8.%d.%d/32", i/250, 1+i%250))
					err = h.AddrAdd(lo, a)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if s.stays {
				la := netlink.NewLinkAttrs()
				la.Name = "stays0"
				err := plugintest.With(ns, func(h *netlink.Handle) error { return h.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: "stayspeer"}) })
				if err != nil {
					t.Fatal(err)
				}
			}
			stop, done := make(chan struct{}), make(chan error, 1)
			changes := 0
			go func() {
				done <- plugintest.With(ns, func(h *netlink.Handle) error {
					lo, err := h.LinkByName("lo")
					if err != nil {
						return err
					}
					for ; ; changes++ {
						select {
						case <-stop:
							return nil
						default:
						}
						if err := s.change(h, lo, changes); err != nil {
							return err
						}
					}
				})
			}()
			var c tally
			n := size(40, 1000)
			for i := range n {
				command := []string{"ADD", "CHECK"}[i%2]
				answer := what(t, node.Run(t, plugintest.Call{Plugin: harness.Plugin(), Command: command, Netns: ns, Conf: s.conf}), s.codes...)
				if s.stays && answer == "success" {
					t.Errorf("%s succeeded, and there was another interface all the time", command)
				}
				c.add(command + " " + answer)
			}
			close(stop)
			if err := <-done; err != nil {
				t.Errorf("the change itself failed: %v", err)
			}
			fmt.Printf("%d calls during %d changes (%s): %s\n", n, changes, s.name, &c)
			untouched()
			if s.stays {
				err := plugintest.With(ns, func(h *netlink.Handle) error {
					l, err := h.LinkByName("stayspeer")
					if err != nil {
						return err
					}
					return h.LinkDel(l)
				})
				if err != nil {
					t.Error(err)
				}
			}
			must(t, node, "ADD", ns)
			must(t, node, "CHECK", ns)
		})
	}
}
