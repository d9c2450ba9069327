package node

import (
	"strings"
	"testing"
)

// TestNode takes one machine through everything, so that what one part leaves
// behind is seen at the end.
func TestNode(t *testing.T) {
	n := start(t)
	n.pod("bridged", "-") // makes the default network's bridge, which stays
	before := n.snapshot()
	n.pod("bridged", "-")
	n.about += "; from the package " + n.Must("dpkg -i /payload/cni-none.deb >/dev/null; dpkg-query -W -f '${Package} ${Version}' cni-none")
	t.Cleanup(func() { t.Log(n.table()) })
	n.step(t, "life", (*node).life)
	n.restartsFail(t, failures)
	if *full {
		n.step(t, "a unit of another name", (*node).otherName)
		n.step(t, "reboot", (*node).reboot)
		n.step(t, "seccomp", (*node).seccomp)
		n.step(t, "watch", (*node).watch)
		n.step(t, "podman", (*node).podman)
		n.step(t, "containerd 2.4", (*node).containerd24)
	}
	n.Must("dpkg -P cni-none")
	n.same("the machine", before, n.snapshot())
}

// life is none-install's, with the control groups and profiles of a real node.
func (n *node) life(*testing.T) {
	files := n.files()
	n.install(4, "status")
	n.install(0, "install --dry-run")
	pid := n.mainPID()
	if out := n.install(3, "install"); !strings.Contains(out, "pending-restart") {
		n.Errorf("install does not say that a restart is missing:\n%s", out)
	}
	n.install(3, "status")
	if got := n.mainPID(); got != pid {
		n.Errorf("install restarted containerd: process %s became %s", pid, got)
	}
	n.install(0, "install --restart")
	n.install(0, "status")
	if out := n.install(0, "verify"); !strings.HasPrefix(out, "ready") {
		n.Errorf("verify said %s", out)
	}
	n.hermetic()
	n.survivesRestart()
	if out := n.install(1, "uninstall --restart"); !strings.Contains(out, "hermetic pods exist") {
		n.Errorf("uninstall with pods said %s", out)
	}
	n.Must("/payload/pod remove")
	n.install(0, "uninstall --restart")
	n.install(4, "status")
	n.same("the node's files", files, n.files())
	n.serves()
}

// otherName: it is the unit that containerd runs in that is restarted.
func (n *node) otherName(t *testing.T) {
	other := *n
	other.unit = "node-runtime.service"
	other.Must("/payload/pod remove; systemctl stop containerd; grep -v Alias= /lib/systemd/system/containerd.service >/run/systemd/system/node-runtime.service; systemctl daemon-reload; systemctl start node-runtime")
	other.restartsFail(t, failures[1:2])
	other.Must("systemctl stop node-runtime; rm /run/systemd/system/node-runtime.service; systemctl daemon-reload; systemctl start containerd\n" + answers)
	n.pod("bridged", "-")
}

func (n *node) mainPID() string {
	n.Helper()
	return strings.TrimSpace(n.Must("systemctl show -p MainPID --value " + n.unit))
}

// hermetic runs a pod and looks at it: lo alone, its limits and AppArmor's
// profile in force.
func (n *node) hermetic() {
	n.Helper()
	_, container := n.pod("hermetic", "airgap")
	if out, status := n.Run("/payload/pod exec " + container + " /host/none-audit self"); status != 0 || !strings.Contains(out, "isolated") {
		n.Errorf("none-audit self: exit status %d: %s", status, out)
	}
	if out := n.Must("/payload/pod exec " + container + " ip -o link"); strings.Count(out, "\n") != 1 {
		n.Errorf("the pod has more than lo:\n%s", out)
	}
	if out := n.Must("/payload/pod exec " + container + " cat /proc/self/attr/current"); !strings.Contains(out, "cri-containerd.apparmor.d (enforce)") {
		n.Errorf("AppArmor's profile is %s", out)
	}
	scope := strings.TrimSpace(n.Must("find /sys/fs/cgroup -type d -name 'cri-containerd-" + container + ".scope'"))
	if !strings.Contains(scope, "/kubepods-burstable-test.slice/") {
		n.Errorf("the container's control group is %q", scope)
	}
	if out := strings.Fields(n.Must("cat '" + scope + "/memory.max' '" + scope + "/cpu.max'")); strings.Join(out, " ") != "67108864 50000 100000" {
		n.Errorf("the container's limits are %v", out)
	}
	if out, status := n.Run("/payload/pod exec " + container + " sh -c 'dd if=/dev/zero of=/dev/null bs=128M count=1'"); status == 0 {
		n.Errorf("the container used twice the memory that it may: %s", out)
	}
}

// survivesRestart: pods of both kinds run on when containerd restarts.
func (n *node) survivesRestart() {
	n.Helper()
	// A container's process 1 keeps its number and its network namespace.
	look := `for p in $(pgrep -f '^sleep 2147483647'); do echo $p $(readlink /proc/$p/ns/net) $(cut -d' ' -f22 /proc/$p/stat); done | sort`
	before := n.Must(look)
	if strings.Count(before, "\n") < 4 {
		n.Fatalf("too few processes of two pods:\n%s", before)
	}
	n.Must("systemctl restart " + n.unit + "\n" + answers)
	n.same("the pods' processes", before, n.Must(look))
	if out := n.Must("/payload/pod list"); strings.Contains(out, "SANDBOX_NOTREADY") {
		n.Errorf("a pod is not ready:\n%s", out)
	}
}

// snapshot is what the whole machine is, without pods: a line for each thing. The
// lock is there from the first run to the next boot, as docs/install.md says.
func (n *node) snapshot() string {
	n.Helper()
	out := n.Must("/payload/pod remove; sh /payload/snapshot.sh | grep -v /run/cni-none.lock")
	if lines := strings.Count(out, "\n"); lines < 5000 {
		n.Fatalf("a snapshot of %d lines is not of a whole machine", lines)
	}
	return out
}

// same fails the test if two lists of lines differ.
func (n *node) same(what, before, after string) {
	n.Helper()
	minus := func(a, b string) string {
		have := map[string]bool{}
		for l := range strings.Lines(b) {
			have[l] = true
		}
		var only strings.Builder
		for l := range strings.Lines(a) {
			if !have[l] {
				only.WriteString(l)
			}
		}
		return only.String()
	}
	if came, went := minus(after, before), minus(before, after); came+went != "" {
		n.Errorf("%s: new is\n%sand gone is\n%s", what, came, went)
	}
}
