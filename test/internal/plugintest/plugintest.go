// Package plugintest gives a hostile test a stand-in for the node.
//
// A [Node] is a network namespace with a loopback interface that is up, like
// that of a machine, and a plugin that is started on it has it as its own.
// Whatever a test lets a plugin do to "the host" happens there, and [Look]
// tells afterwards whether it did. The namespace that the test runs in is
// never touched.
//
// Look does not use the project's own library: what the plugin says about a
// namespace is compared with what another library sees there.
package plugintest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// Conf is the network that shipped configs describe, as a plugin gets it.
const Conf = `{"cniVersion":"1.1.0","name":"airgap","type":"none"}`

// Node is a network namespace that stands for the machine.
type Node struct{ *nstest.NS }

// NewNode makes a node whose loopback interface is up.
func NewNode(tb testing.TB) *Node {
	tb.Helper()
	n := &Node{nstest.New(tb)}
	if err := SetLo(n.Path, true); err != nil {
		tb.Fatal(err)
	}
	return n
}

// Call is one exec of a plugin.
type Call struct {
	Plugin  string   // path of the binary
	Command string   // CNI_COMMAND
	Netns   string   // CNI_NETNS
	Conf    string   // stdin; Conf when empty
	Wrap    []string // a program and its arguments that starts the plugin: strace, prlimit
	Timeout time.Duration
	Attr    *syscall.SysProcAttr
}

// Outcome is what a runtime sees of one exec.
type Outcome struct {
	Exit           int // -1 when a signal ended it
	Stdout, Stderr string
	Hung           bool // had to be killed
	Took           time.Duration
	Usage          *syscall.Rusage
}

// Cmd prepares the exec. Its environment is the call's and nothing else.
func (c Call) Cmd(ctx context.Context) *exec.Cmd {
	argv := append(slices.Clone(c.Wrap), c.Plugin)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	conf := c.Conf
	if conf == "" {
		conf = Conf
	}
	cmd.Stdin = strings.NewReader(conf)
	cmd.Env = []string{
		"CNI_COMMAND=" + c.Command,
		"CNI_CONTAINERID=scratch",
		"CNI_NETNS=" + c.Netns,
		"CNI_IFNAME=eth0",
		"CNI_PATH=/nonexistent",
	}
	cmd.SysProcAttr = c.Attr
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Run does the call on the node and fails the test when the exec itself is
// not possible.
func (n *Node) Run(tb testing.TB, c Call) Outcome {
	tb.Helper()
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := c.Cmd(ctx)
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	// The child inherits the namespace of the thread that forks it.
	if err := n.Try(cmd.Start); err != nil {
		tb.Fatalf("start %v: %v", cmd.Args, err)
	}
	_ = cmd.Wait() // the exit status is in ProcessState
	o := Outcome{
		Exit:   cmd.ProcessState.ExitCode(),
		Stdout: out.String(), Stderr: errs.String(),
		Hung: ctx.Err() != nil,
		Took: time.Since(start),
	}
	o.Usage, _ = cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return o
}

// Error is the error document of the CNI specification.
type Error struct {
	CNIVersion string `json:"cniVersion"`
	Code       uint   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details"`
}

// Contract says what is wrong with an outcome as an exec of a CNI plugin, if
// anything: a success with one JSON document or none, or exit status 1 with
// exactly one error document. It returns that error, nil for a success.
func (o Outcome) Contract() (*Error, error) {
	switch {
	case o.Hung:
		return nil, fmt.Errorf("hung, killed after %s", o.Took)
	case o.Exit == 0:
		if strings.TrimSpace(o.Stdout) == "" {
			return nil, nil
		}
		var doc map[string]any
		if err := one(o.Stdout, &doc); err != nil {
			return nil, fmt.Errorf("exit status 0 and %w", err)
		}
		if doc["code"] != nil {
			return nil, fmt.Errorf("exit status 0 with an error document: %s", o.Stdout)
		}
		return nil, nil
	case o.Exit == 1:
		var e Error
		if err := one(o.Stdout, &e); err != nil {
			return nil, fmt.Errorf("exit status 1 and %w", err)
		}
		if e.Code == 0 || e.Msg == "" || e.CNIVersion == "" {
			return nil, fmt.Errorf("not a full error document: %s", o.Stdout)
		}
		return &e, nil
	}
	return nil, fmt.Errorf("exit status %d", o.Exit)
}

// one decodes a single JSON document and nothing after it.
func one(s string, into any) error {
	d := json.NewDecoder(strings.NewReader(s))
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("no JSON document on stdout (%w): %q", err, s)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("more than one JSON document on stdout: %q", s)
	}
	return nil
}

func (o Outcome) String() string {
	return fmt.Sprintf("exit %d, stdout %q, stderr %q", o.Exit, o.Stdout, tail(o.Stderr))
}

func tail(s string) string {
	if len(s) > 600 {
		return s[:600] + "..."
	}
	return s
}

// handle opens the namespace at path for netlink without entering it.
func handle(path string) (*netlink.Handle, func(), error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, nil, err
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		_ = ns.Close()
		return nil, nil, err
	}
	return h, func() { h.Close(); _ = ns.Close() }, nil
}

// With runs fn with a netlink handle in the namespace at path.
func With(path string, fn func(*netlink.Handle) error) error {
	h, done, err := handle(path)
	if err != nil {
		return err
	}
	defer done()
	return fn(h)
}

// SetLo sets lo up or down. Down also takes its addresses away, as in a new
// namespace: the kernel keeps 127.0.0.1/8 when an interface goes down.
func SetLo(path string, up bool) error {
	return With(path, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		if up {
			return h.LinkSetUp(lo)
		}
		if err := h.LinkSetDown(lo); err != nil {
			return err
		}
		addrs, err := h.AddrList(lo, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if err := h.AddrDel(lo, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
		return nil
	})
}

// Look describes a namespace: one line per link, address and route, in an
// order that compares.
func Look(path string) ([]string, error) {
	var lines []string
	err := With(path, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			a := l.Attrs()
			lines = append(lines, fmt.Sprintf("link %s %s up=%v mtu=%d mac=%s", a.Name, l.Type(), a.RawFlags&unix.IFF_UP != 0, a.MTU, a.HardwareAddr))
			addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, addr := range addrs {
				lines = append(lines, fmt.Sprintf("addr %s %s", a.Name, addr.IPNet))
			}
		}
		routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			lines = append(lines, fmt.Sprintf("route %v dev %d table %d", r.Dst, r.LinkIndex, r.Table))
		}
		return nil
	})
	slices.Sort(lines)
	return lines, err
}

// Isolated returns nil when the namespace is what the none network promises: lo,
// up, with 127.0.0.1/8 and ::1/128, and nothing else.
func Isolated(path string) error {
	lines, err := Look(path)
	if err != nil {
		return err
	}
	want := []string{"addr lo 127.0.0.1/8", "link lo device up=true"}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		want = append(want, "addr lo ::1/128")
	}
	var wrong []string
	for _, w := range want {
		if !slices.ContainsFunc(lines, func(l string) bool { return l == w || strings.HasPrefix(l, w+" ") }) {
			wrong = append(wrong, "missing: "+w)
		}
	}
	for _, l := range lines {
		switch {
		case strings.HasPrefix(l, "link ") && !strings.HasPrefix(l, "link lo device "),
			strings.HasPrefix(l, "addr ") && !strings.HasPrefix(l, "addr lo 127.") && l != "addr lo ::1/128":
			wrong = append(wrong, "extra: "+l)
		}
	}
	if wrong != nil {
		return fmt.Errorf("not isolated: %s", strings.Join(wrong, "; "))
	}
	return nil
}
