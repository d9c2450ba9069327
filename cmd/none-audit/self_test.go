package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/cni-none/cni-none/internal/nstest"
)

// A container from scratch: nothing but the program, no /proc, a user that
// nobody knows, no capability.
func TestSelf(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, ns *nstest.NS)
		want   string
		status int
	}{
		{"as the plugin leaves it", up, "isolated", exitOK},
		{"lo is down", func(*testing.T, *nstest.NS) {}, "isolated: lo is down", exitOK},
		{"a veth", func(t *testing.T, ns *nstest.NS) {
			up(t, ns)
			moveVeth(t, nstest.New(t), ns, "eth0")
		}, "not isolated: eth0 (veth, down)", exitViolated},
		{"a name that is no name", func(t *testing.T, ns *nstest.NS) {
			up(t, ns)
			moveVeth(t, nstest.New(t), ns, "\x1b[2J\u202e\\")
		}, `not isolated: \x1b[2J\u202e\\ (veth, down)`, exitViolated},
		{"an address on lo", func(t *testing.T, ns *nstest.NS) {
			up(t, ns)
			giveLo(t, ns, "10.1.2.3/32")
		}, "not isolated: lo has 10.1.2.3/32", exitViolated},
		{"lo under another name", func(t *testing.T, ns *nstest.NS) {
			inNS(t, ns, func(h *netlink.Handle) error {
				lo, err := h.LinkByName("lo")
				if err != nil {
					return err
				}
				return h.LinkSetName(lo, "eth0")
			})
		}, "not isolated: the loopback interface is called eth0, lo is down", exitViolated},
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
			// Root's capabilities go with its uid (capabilities(7)).
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
			out, errs, status := outputIn(t, ns.Try, cmd)
			if out != tt.want+"\n" || errs != "" || status != tt.status {
				t.Errorf("stdout %q, stderr %q, status %d; want %q, %d", out, errs, status, tt.want, tt.status)
			}
		})
	}
}

// Whoever asks for more than there is learns it, and not that all is well.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"self", "x"}, {"self", "--json"}, {"--nonsense"}, {"watch", "x"}, {"watch", "--interval", "1ms"}} {
		out, errs, status := output(t, exec.Command(audit, args...))
		if status != exitUnknown || out != "" || errs == "" {
			t.Errorf("%v: stdout %q, stderr %q, status %d", args, out, errs, status)
		}
	}
	if _, errs, status := output(t, exec.Command(audit, "--help")); status != exitOK || !strings.Contains(errs, "usage: none-audit") {
		t.Errorf("--help: status %d, %q", status, errs)
	}
}
