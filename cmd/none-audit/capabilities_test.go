package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// What watch needs, as docs/audit.md has it: with these and a read-only root it
// reports what happens to a process of another user; without any one of them it
// does not, and says so.
func TestWatchNeedsTheseCapabilities(t *testing.T) {
	needed := map[string]int{
		"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_NET_BROADCAST": unix.CAP_NET_BROADCAST,
		"CAP_SYS_PTRACE": unix.CAP_SYS_PTRACE, "CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	}
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	unit, err := os.ReadFile("../../deploy/systemd/none-audit.service")
	if err != nil {
		t.Fatal(err)
	}
	for name := range needed {
		if !strings.Contains(string(page), name) || !strings.Contains(string(unit), name) {
			t.Errorf("docs/audit.md or the systemd unit does not name %s", name)
		}
	}
	ns := nstest.New(t)
	up(t, ns)
	box := exec.Command("sleep", "600")
	powerless(box)
	another := box.SysProcAttr.Credential != nil
	startIn(t, ns, box)
	unmount(t, ns) // so that the process is the only way there
	n := inode(t, fmt.Sprintf("/proc/%d/ns/net", box.Process.Pid))

	var all []int
	for _, c := range needed {
		all = append(all, c)
	}
	if !watchSees(t, n, another, all) {
		t.Error("with all of them: it does not see")
	}
	for name, c := range needed {
		if (c == unix.CAP_SYS_PTRACE || c == unix.CAP_DAC_READ_SEARCH) && !another {
			t.Logf("without %s: needs a second user, and this user namespace has one", name)
			continue
		}
		if watchSees(t, n, another, slices.DeleteFunc(slices.Clone(all), func(other int) bool { return other == c })) {
			t.Errorf("without %s: it sees all the same", name)
		}
	}
}

// watchSees runs watch with some capabilities and a read-only root, and says
// whether it reports the namespace as isolated, and nothing that it lacks. Where the
// tests have one user, other users' processes are always out of sight.
func watchSees(t *testing.T, n uint64, another bool, caps []int) bool {
	t.Helper()
	script := `mount -o remount,bind,ro / && ! touch /none-audit-test 2>/dev/null && exec setpriv --bounding-set "$1" --inh-caps -all "$0" watch --json --interval 10h --settle 100ms`
	var names []string
	for _, c := range caps {
		names = append(names, fmt.Sprintf("+cap_%d", c))
	}
	cmd := exec.Command("sh", "-euc", script, audit, "-all,"+strings.Join(names, ","))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "none-audit: ") || another && strings.Contains(lines.Text(), `"why":["processes that may not be looked at"]`) {
			t.Log(lines.Text())
			return false
		}
		if strings.Contains(lines.Text(), fmt.Sprintf(`"inode":%d,`, n)) && strings.Contains(lines.Text(), `"state":"isolated"`) {
			return true
		}
	}
	return false
}
