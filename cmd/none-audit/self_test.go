package main

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/cni-none/cni-none/internal/nstest"
	"github.com/cni-none/cni-none/pkg/loopback"
)

// A container from scratch: nothing but the program, no /proc, a user that
// the machine does not know, no capability.
func TestSelf(t *testing.T) {
	lacks := "lo is down; lo lacks 127.0.0.1/8"
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil {
		lacks += ", ::1/128"
	}
	tests := []struct {
		name   string
		change func(t *testing.T, ns *nstest.NS)
		want   string
		status int
	}{
		{"as the plugin leaves it", up, "isolated", exitOK},
		{"lo is down", func(*testing.T, *nstest.NS) {}, "isolated: " + lacks, exitOK},
		{"a veth", func(t *testing.T, ns *nstest.NS) {
			up(t, ns)
			moveVeth(t, nstest.New(t), ns, "eth0")
		}, "not isolated: interfaces beside lo: eth0 (veth)", exitViolated},
		{"a name that is no name", func(t *testing.T, ns *nstest.NS) {
			up(t, ns)
			moveVeth(t, nstest.New(t), ns, "\x1b[2J\u202e\\")
		}, `not isolated: interfaces beside lo: "\x1b[2J\u202e\\" (veth)`, exitViolated},
		{"an address on lo", func(t *testing.T, ns *nstest.NS) {
			up(t, ns)
			giveLo(t, ns, "10.1.2.3/32")
		}, "not isolated: lo has addresses that are not loopback addresses: 10.1.2.3/32", exitViolated},
		{"lo under another name", func(t *testing.T, ns *nstest.NS) {
			inNS(t, ns, func(h *netlink.Handle) error {
				lo, err := h.LinkByName("lo")
				if err != nil {
					return err
				}
				return h.LinkSetName(lo, "eth0")
			})
		}, "not isolated: the loopback interface is called eth0, not lo; " + lacks, exitViolated},
	}
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "none-audit"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns := nstest.New(t)
			tt.change(t, ns)
			cmd := exec.Command("/none-audit", "self")
			cmd.Dir = "/"
			cmd.Env = []string{}
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
			out, errs, status := outputIn(t, func(func() error) error { return startPowerless(ns, cmd) }, cmd)
			if out != tt.want+"\n" || errs != "" || status != tt.status {
				t.Errorf("stdout %q, stderr %q, status %d; want %q, %d", out, errs, status, tt.want, tt.status)
			}
		})
	}
}

// A call that asks for what there is not says so, and not that all is well.
func TestUsage(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"self x", "self takes no arguments"},
		{"--nonsense", "flag provided but not defined: -nonsense"},
		{"watch x", "watch takes no arguments"},
		{"watch --interval 1ms", "too short"},
		{"watch --cni-cache /nowhere", "/nowhere"},
		{"--cni-cache /proc/self", "/proc/self is no CNI cache: there is no directory results in it"},
		{"selff", "selff: no running container has this id or name (did you mean self?)"},
		{"completion fish", "bash or zsh"},
	} {
		out, errs, status := output(t, exec.Command(audit, strings.Fields(tt.args)...))
		if status != exitUnknown || out != "" || !strings.Contains(errs, tt.want) {
			t.Errorf("%v: stdout %q, stderr %q, status %d", tt.args, out, errs, status)
		}
	}
	for args, want := range map[string]string{
		"--help": "usage: none-audit [flags]", "-h": "usage: none-audit", "help": "usage: none-audit", "1 -h": "usage: none-audit",
		"self --help": "usage: none-audit self", "help watch": "usage: none-audit watch", "watch -h": "--settle time",
		"version": "none-audit ", "--version": "none-audit ", "man": ".TH NONE", "completion bash": "complete ", "completion zsh": "#compdef none-audit",
	} {
		if out, errs, status := output(t, exec.Command(audit, strings.Fields(args)...)); status != exitOK || !strings.Contains(out, want) || errs != "" {
			t.Errorf("%s: status %d, stdout %q, stderr %q", args, status, out, errs)
		}
	}
}

// What could not be written is no success.
func TestLostOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	ns := nstest.New(t)
	up(t, ns)
	for _, args := range []string{ns.Path, "--json " + ns.Path, "self", "self --json", "version", "help"} {
		cmd := exec.Command(audit, strings.Fields(args)...)
		control, _, status := outputIn(t, ns.Try, exec.Command(audit, strings.Fields(args)...))
		if args == "self" && (status != exitOK || control == "") {
			t.Errorf("control: %s: %q, status %d", args, control, status)
		}
		var errs strings.Builder
		cmd.Stdout, cmd.Stderr = full, &errs
		ns.Do(cmd.Start)
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() == exitOK || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("%s > /dev/full: status %d, %q", args, cmd.ProcessState.ExitCode(), errs.String())
		}
	}
}

func TestSelfJSON(t *testing.T) {
	ns := nstest.New(t)
	up(t, ns)
	out, _, status := outputIn(t, ns.Try, exec.Command(audit, "self", "--json"))
	if out != `{"verdict":"isolated"}`+"\n" || status != exitOK {
		t.Errorf("%q, status %d", out, status)
	}
	moveVeth(t, nstest.New(t), ns, "eth0")
	out, _, status = outputIn(t, ns.Try, exec.Command(audit, "--json", "self"))
	if status != exitUnknown {
		t.Errorf("a flag of another command: %q, status %d", out, status)
	}
	out, _, status = outputIn(t, ns.Try, exec.Command(audit, "self", "--json"))
	if out != `{"verdict":"not isolated","why":["interfaces beside lo: eth0 (veth)"]}`+"\n" || status != exitViolated {
		t.Errorf("%q, status %d", out, status)
	}
}

// On a kernel without namespace ids what was found counts; with an error that
// came late too.
func TestJudgeWhat(t *testing.T) {
	lo := loopback.Link{Name: "lo", Kind: "loopback", Loopback: true, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}}
	eth0 := loopback.Link{Name: "eth0", Kind: "veth"}
	late := errors.New("list addresses: no")
	for _, tt := range []struct {
		name   string
		survey *loopback.Survey
		err    error
		want   verdict
		failed bool
	}{
		{"lo", &loopback.Survey{Links: []loopback.Link{lo}}, nil, isolated, false},
		{"lo, no ids", &loopback.Survey{Links: []loopback.Link{lo}, NoNSIDs: true}, nil, isolated, false},
		{"eth0, no ids", &loopback.Survey{Links: []loopback.Link{lo, eth0}, NoNSIDs: true}, nil, notIsolated, false},
		{"eth0, then an error", &loopback.Survey{Links: []loopback.Link{lo, eth0}}, late, notIsolated, false},
		{"lo, then an error", &loopback.Survey{Links: []loopback.Link{lo}}, late, unknown, true},
		{"an error", &loopback.Survey{}, late, unknown, true},
		{"nothing", nil, late, unknown, true},
	} {
		if v, _, _, err := judgeWhat(tt.survey, tt.err); v != tt.want || (err != nil) != tt.failed {
			t.Errorf("%s: %s, %v", tt.name, v, err)
		}
	}
}
