package install

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/harness"
)

// TestRestarts: the daemon restarts containerd when no other node does, takes back
// what fails and waits, and gives up after three times within an hour.
func TestRestarts(t *testing.T) {
	t.Parallel()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.loadImage()
	before := n.files()
	c := apiServer{cluster.Start(t, cluster.Config{Version: "134", Machine: n.Machine})}
	c.Apply(t, "{apiVersion: v1, kind: Node, metadata: {name: here}}")
	c.MustKubectl(t, "apply", "-k", harness.Repo("deploy/install/base"))
	_, command := c.account(t, n)
	// Counted, and it fails where it is told to.
	n.write("/opt/test/counted", "#!/bin/sh\necho >>/run/counted\n[ ! -e /run/fail ] || { rm /run/fail; kill $(cat /run/containerd.pid); exit 1; }\nexec "+restart+"\n", 0o755)
	run := func() (stop func()) {
		d := n.Daemon(n, "", append(command, "--handler=airgap", "--interval=1s", "--restart", "--restart-command=/opt/test/counted", "--timeout=30s")...)
		return d.Stop
	}
	wait := func(want ...string) {
		t.Helper()
		harness.Eventually(t, "the node says "+strings.Join(want, " ... "), func() error {
			out := c.MustKubectl(t, "get", "node", "here", "-o", `jsonpath={range .status.conditions[?(@.type=="CNINoneReady")]}{.status} {.reason}: {.message}{end}`)
			for _, w := range want {
				if !strings.Contains(out, w) {
					return fmt.Errorf("it says %q", out)
				}
			}
			return nil
		})
	}
	restarts := func() int {
		data, _ := os.ReadFile(n.path("/run/counted"))
		return strings.Count(string(data), "\n")
	}

	lease := func(holder string, age time.Duration) {
		c.Apply(t, fmt.Sprintf(`{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: cni-none-restart, namespace: cni-none},
  spec: {holderIdentity: %q, leaseDurationSeconds: 300, renewTime: %q}}`, holder, time.Now().Add(-age).UTC().Format("2006-01-02T15:04:05.000000Z")))
	}
	lease("there", 0)
	stop := run()
	wait("False PendingRestart", "node there restarts its runtime")
	if restarts() != 0 {
		t.Error("it restarted containerd beside another node")
	}
	stop()
	n.must(0, "uninstall")

	// What fails is taken back, and not tried again at once.
	n.write("/run/fail", "", 0o644)
	lease("there", time.Hour) // it has run out
	stop = run()
	wait("False Degraded", "the last restart failed", "not again before")
	n.waitReady()
	n.sameFiles(before, "after a restart that failed")
	if got := restarts(); got != 2 { // one that failed, and one for the recovery
		t.Errorf("containerd was restarted %d times", got)
	}
	stop()

	// Two minutes later, imitated.
	n.write("/run/cni-none.restarts", fmt.Sprintf(`{"times":[%q],"failed":true}`, time.Now().Add(-3*time.Minute).Format(time.RFC3339)), 0o600)
	stop = run()
	wait("True Ready")
	stop()
	if got := restarts(); got != 3 {
		t.Errorf("containerd was restarted %d times", got)
	}
	if holder := c.MustKubectl(t, "-n", "cni-none", "get", "lease", "cni-none-restart", "-o", "jsonpath={.spec.holderIdentity}"); holder != "" {
		t.Errorf("the lease is held by %q", holder)
	}

	// Three within an hour: it gives up.
	n.must(3, "uninstall")
	n.start()
	n.must(0, "uninstall")
	at := func(minutes int) string {
		return time.Now().Add(-time.Duration(minutes) * time.Minute).Format(time.RFC3339)
	}
	n.write("/run/cni-none.restarts", fmt.Sprintf(`{"times":[%q,%q,%q],"failed":false}`, at(50), at(40), at(30)), 0o600)
	stop = run()
	defer stop()
	wait("False Degraded", "3 times within an hour")
	if got := restarts(); got != 3 {
		t.Errorf("containerd was restarted %d times", got)
	}
}

// TestWithoutUnit: without systemd, and with Docker's containerd, it says so and
// changes nothing.
func TestWithoutUnit(t *testing.T) {
	t.Parallel()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	before := n.files()
	if group := n.run("cat", "/proc/self/cgroup"); strings.Contains(group, ".service\n") {
		t.Logf("this test runs in a unit itself:\n%s", group)
	} else if out := n.must(1, "install", "--restart"); !strings.Contains(out, "--restart-command") {
		t.Errorf("install says\n%s", out)
	}
	n.sameFiles(before, "without a unit")

	n.write(mainFile, "disabled_plugins = [\"cri\"]\n", 0o644)
	n.run(restart)
	docker := n.files()
	harness.Eventually(t, "install says what is switched off", func() error {
		if out := n.must(1, "install"); !strings.Contains(out, "switched off") || !strings.Contains(out, "Docker") {
			return fmt.Errorf("install says\n%s", out)
		}
		return nil
	})
	n.sameFiles(docker, "with Docker's containerd")
}
