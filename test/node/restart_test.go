package node

import (
	"fmt"
	"strings"
	"testing"
)

// failure is a way in which a restart fails on a node: a drop-in for the unit,
// what prepares it and what takes that back. A %s in it becomes the command that
// fails, and with it the start, when the config is the one that is refused.
type failure struct {
	name, dropIn, before, after string
	always                      string // the commands with which it is tested without -full, too
}

// refuses is a check of the config, as a node's bootstrap may have one.
const refuses = "ExecStartPre=/bin/sh -c '%s -rqs cni-none /etc/containerd*'"

var failures = []failure{
	{name: "start-limit-hit", dropIn: "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=1\n", before: "systemctl restart UNIT\n" + answers, always: "install"},
	{name: "ExecStartPre refuses the config, Restart=no", dropIn: "[Service]\n" + refuses + "\nRestart=no\n", always: "install run uninstall"},
	{name: "ExecStartPre refuses the config, Restart=always", dropIn: "[Service]\n" + refuses + "\nRestart=always\nRestartSec=1\n"},
	{name: "masked", before: "systemctl mask --runtime UNIT", after: "systemctl unmask --runtime UNIT"},
}

// dropInDir is below /run: gone with a reboot, and before /usr.
const dropInDir = "/run/systemd/system/UNIT.d"

// fail makes the next restart fail until the test ends. allows is the command
// that looks for our handler in the config, "grep" or "! grep": the unit starts
// when it succeeds.
func (n *node) fail(f failure, allows string) {
	n.Helper()
	unit := func(s string) string { return strings.ReplaceAll(s, "UNIT", n.unit) }
	undo := unit("rm -rf " + dropInDir + "; " + f.after + "\nsystemctl daemon-reload; systemctl reset-failed UNIT; systemctl start UNIT")
	n.Cleanup(func() { n.Run(undo) })
	if f.dropIn != "" {
		text := f.dropIn
		if strings.Contains(text, "%s") {
			text = fmt.Sprintf(text, allows)
		}
		n.Must(unit("mkdir -p " + dropInDir + "\ncat >" + dropInDir + "/test.conf <<'X'\n" + text + "X\nsystemctl daemon-reload"))
	}
	if f.before != "" {
		n.Must(unit(f.before))
	}
}

// restartsFail: after an install, an uninstall or a look of the DaemonSet's whose
// restart failed, containerd serves with the config that it had.
func (n *node) restartsFail(t *testing.T, failures []failure) {
	each := func(command string, test func(n *node, f failure)) {
		for _, f := range failures {
			if *full || strings.Contains(f.always, command) {
				n.step(t, command+", "+f.name, func(n *node, _ *testing.T) { test(n, f) })
			}
		}
	}
	each("install", (*node).installFails)
	each("run", (*node).runFails)
	n.install(0, "install --restart")
	each("uninstall", (*node).uninstallFails)
	n.install(0, "uninstall --restart")
	n.serves()
}

func (n *node) installFails(f failure) {
	before := n.files()
	n.fail(f, "! grep")
	out := n.install(1, "install --restart --timeout 60s")
	n.afterFailure(before, out)
	n.install(4, "status")
}

// runFails lets the DaemonSet's program look once. Told to stop, it leaves what it
// found.
func (n *node) runFails(f failure) {
	before := n.files()
	n.fail(f, "! grep")
	n.Must("rm -f /run/cni-none.restarts") // it would wait after the failure before
	n.Must("systemd-run --quiet --unit none-run /usr/sbin/none-install run --restart --timeout 60s --interval 1h")
	out := n.Must("said=\"journalctl -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -p InvocationID --value none-run)\"\nfor i in $(seq 300); do $said | grep -qE '^[0-9TZ:-]+ [a-z]' && break; sleep 1; done; $said; systemctl stop none-run; systemctl reset-failed none-run 2>/dev/null || true")
	if !strings.Contains(out, "degraded") {
		n.Errorf("run does not say that the node is degraded:\n%s", out)
	}
	n.afterFailure(before, out)
	n.install(4, "status")
}

func (n *node) uninstallFails(f failure) {
	before := n.files()
	n.fail(f, "grep")
	out := n.install(1, "uninstall --restart --timeout 60s")
	n.afterFailure(before, out)
	n.install(0, "status")
	n.pod("after", "airgap")
	n.Must("/payload/pod remove")
}

// files lists what none-install could have left or changed.
func (n *node) files() string {
	n.Helper()
	return n.Must("find /etc/containerd* /etc/cni /usr/lib/cni /var/lib/cni-none ! -type d -exec sha256sum {} + 2>/dev/null | grep -v state.json || true")
}

// afterFailure looks at a node where a restart failed.
func (n *node) afterFailure(before, said string) {
	n.Helper()
	n.serves()
	if !strings.Contains(said, "is as it was") {
		n.Errorf("it does not say that the config is as it was:\n%s", said)
	}
	n.same("the node's files", before, n.files())
	if state := strings.TrimSpace(n.Must("systemctl show -p ActiveState --value " + n.unit)); state != "active" {
		n.Errorf("%s is %s\n%s", n.unit, state, n.log())
	}
}
