package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// audit is the program as it is released: static. The tests run it as a
// process of its own, because what it may do depends on who it is and where.
var audit string

func init() { runtime.LockOSThread() } // the main goroutine stays on the main thread

func TestMain(m *testing.M) {
	if name := os.Getenv(attackVar); name != "" {
		attackMain(name)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "audit")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if audit = os.Getenv("NONE_AUDIT"); audit != "" {
			return m.Run() // another one, to see the tests fail
		}
		audit = filepath.Join(dir, "none-audit")
		if err := build(audit, "."); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func build(out, pkg string) error {
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, msg)
	}
	return nil
}

// output runs a command and returns what it printed and its exit status.
func output(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, status int) {
	t.Helper()
	return outputIn(t, func(start func() error) error { return start() }, cmd)
}

// outputIn is output where do calls the function that starts the command, on a
// thread in the command's namespace.
func outputIn(t *testing.T, do func(start func() error) error, cmd *exec.Cmd) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := do(cmd.Start); err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	hung := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// auditJSON runs none-audit --json.
func auditJSON(t *testing.T, args ...string) (rows map[uint64]row, status int) {
	t.Helper()
	out, errs, status := output(t, exec.Command(audit, append([]string{"--json"}, args...)...))
	var doc struct{ Namespaces []row }
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("%v: %v\n%s%s", args, err, out, errs)
	}
	rows = map[uint64]row{}
	for _, r := range doc.Namespaces {
		rows[r.Inode] = r
	}
	return rows, status
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st.Ino
}

// sleeper starts a process in the namespace that does nothing, and returns its pid.
func sleeper(t *testing.T, ns *nstest.NS) int {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	startIn(t, ns, cmd)
	return cmd.Process.Pid
}

// startIn starts a command in the namespace and kills it when the test ends.
func startIn(t *testing.T, ns *nstest.NS, cmd *exec.Cmd) {
	t.Helper()
	// A process is born where the thread is that forks.
	ns.Do(cmd.Start)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// up brings lo up, as the plugin does.
func up(t *testing.T, ns *nstest.NS) {
	t.Helper()
	inNS(t, ns, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	})
}

func inNS(t *testing.T, ns *nstest.NS, fn func(h *netlink.Handle) error) {
	t.Helper()
	ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return fn(h)
	})
}

// moveVeth makes a veth pair in one namespace and moves an end called name into
// another, as when a running container is connected to a network.
func moveVeth(t *testing.T, from, to *nstest.NS, name string) {
	t.Helper()
	file, err := os.Open(to.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	inNS(t, from, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "p" + name[:min(len(name), 10)]}
		if err := h.LinkAdd(veth); err != nil {
			return err
		}
		return h.LinkSetNsFd(veth, int(file.Fd()))
	})
}

func dropLink(t *testing.T, ns *nstest.NS, name string) {
	t.Helper()
	inNS(t, ns, func(h *netlink.Handle) error {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return h.LinkDel(l)
	})
}

// giveLo gives lo an address that is none of its own.
func giveLo(t *testing.T, ns *nstest.NS, addr string) {
	t.Helper()
	changeLo(t, ns, addr, (*netlink.Handle).AddrAdd)
}

func takeFromLo(t *testing.T, ns *nstest.NS, addr string) {
	t.Helper()
	changeLo(t, ns, addr, (*netlink.Handle).AddrDel)
}

func changeLo(t *testing.T, ns *nstest.NS, addr string, change func(*netlink.Handle, netlink.Link, *netlink.Addr) error) {
	t.Helper()
	inNS(t, ns, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		return change(h, lo, a)
	})
}

// watching is a running none-audit watch.
type watching struct {
	t    *testing.T
	cmd  *exec.Cmd
	home *nstest.NS // where its metrics are served
	url  string

	mu    sync.Mutex
	lines []string
}

// patience is how long a test waits for what must come. It costs nothing where it comes.
const patience = 30 * time.Second

func startWatch(t *testing.T, args ...string) *watching {
	t.Helper()
	w := &watching{t: t, home: nstest.New(t)} // lo may be down where the tests run
	up(t, w.home)
	w.cmd = exec.Command(audit, append([]string{"watch", "--json", "--listen", "127.0.0.1:0"}, args...)...)
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := w.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.home.Do(w.cmd.Start)
	t.Cleanup(func() {
		_ = w.cmd.Process.Signal(syscall.SIGTERM)
		if err := w.cmd.Wait(); err != nil {
			t.Errorf("watch does not end with status 0 on SIGTERM: %v", err)
		}
	})
	go w.collect(stdout)
	url := make(chan string, 1)
	go func() {
		var line string
		_, _ = fmt.Fscanf(stderr, "none-audit: metrics on %s\n", &line)
		url <- line
		_, _ = io.Copy(io.Discard, stderr)
	}()
	if w.url = <-url; w.url == "" {
		t.Fatal("watch did not say where its metrics are")
	}
	w.poll("a first look at everything", func() bool { return w.metric("none_audit_scans_total") > 0 })
	return w
}

func (w *watching) collect(r io.Reader) {
	dec := json.NewDecoder(r)
	for {
		var line json.RawMessage
		if dec.Decode(&line) != nil {
			return
		}
		w.mu.Lock()
		w.lines = append(w.lines, string(line))
		w.mu.Unlock()
	}
}

type change struct {
	Time  time.Time
	State string
	Was   string
	row
}

// changes returns what was reported about one namespace.
func (w *watching) changes(inode uint64) []change {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []change
	for _, line := range w.lines {
		var c change
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			w.t.Fatalf("%v: %s", err, line)
		}
		if c.Inode == inode {
			all = append(all, c)
		}
	}
	return all
}

// next waits until n changes were reported about a namespace and returns the
// last, which must have brought it to this state.
func (w *watching) next(inode uint64, n int, state string) change {
	w.t.Helper()
	w.poll(fmt.Sprintf("change %d of %d, to %s", n, inode, state), func() bool { return len(w.changes(inode)) >= n })
	c := w.changes(inode)
	if len(c) != n || c[n-1].State != state {
		w.t.Fatalf("%d changes reported, want %d, the last to %q: %+v", len(c), n, state, c)
	}
	return c[n-1]
}

func (w *watching) poll(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("no %s in %v; reported so far:\n%s\n%s", what, patience, strings.Join(w.lines, "\n"), w.scrape())
		}
	}
}

func (w *watching) scrape() string {
	out, _, err := w.get("/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// metric returns the value of a series, or -1.
func (w *watching) metric(series string) float64 {
	for line := range strings.Lines(w.scrape()) {
		var v float64
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			if _, err := fmt.Sscan(rest, &v); err == nil {
				return v
			}
		}
	}
	return -1
}

// get asks the running watch for a page, from where that is.
func (w *watching) get(path string) (body string, status int, err error) {
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (c net.Conn, err error) {
			tryErr := w.home.Try(func() error { c, err = net.Dial(network, addr); return err })
			return c, errors.Join(err, tryErr)
		},
	}}
	res, err := client.Get(strings.Replace(w.url, "/metrics", path, 1))
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), res.StatusCode, err
}

// powerless makes a command lose every capability when it starts, and its user
// where there is another one to become: a user namespace may have just one.
func powerless(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	mapped, _ := os.ReadFile("/proc/self/uid_map")
	var inside, outside, count int
	if n, _ := fmt.Sscan(string(mapped), &inside, &outside, &count); n == 3 && inside+count > 54321 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 54321, Gid: 54321}
	}
}

// startPowerless starts a command in a namespace, without capabilities even where
// it stays root: on a thread that has an empty bounding set and then ends.
func startPowerless(ns *nstest.NS, cmd *exec.Cmd) error {
	powerless(cmd)
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			if ns != nil {
				f, err := os.Open(ns.Path)
				if err != nil {
					return err
				}
				defer f.Close()
				if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
					return err
				}
			}
			for c := 0; c <= unix.CAP_LAST_CAP; c++ {
				if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL {
					return fmt.Errorf("drop capability %d: %w", c, err)
				}
			}
			return cmd.Start()
		}()
	}()
	return <-done
}
