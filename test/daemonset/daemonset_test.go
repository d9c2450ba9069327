// Package daemonset runs what a release publishes on real clusters of one node:
// cni-none.yaml, and the chart by helm, with the release's image as the DaemonSet's pod.
package daemonset

import (
	"os"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/containerd"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/machine"
)

func TestMain(m *testing.M) { machine.Main(m, machine.Config{Furnish: cluster.Furnish}) }

// TestManifest takes a node through its life with the commands of the guide:
// pending-restart, restart, ready, a hermetic pod that proves itself, an interface moved
// into it seen as an Event, a second handler added and taken away, an upgrade, a
// reboot, and removal until the node is what it was.
func TestManifest(t *testing.T) {
	n := start(t, "136", 6443)
	before := files(t)
	commands := strings.SplitN(harness.Block(t, "docs/kubernetes.md", "three commands"), "\n", 3)
	apply, rollout, pod := commands[0], commands[1], commands[2]

	n.mustGuide(t, apply)
	n.waitCondition(t, "False PendingRestart")
	if out, err := n.guide(t, rollout+" --timeout=2s"); err == nil {
		t.Errorf("the DaemonSet has rolled out while a restart is missing: %s", out)
	}
	n.containerd.Restart(t)
	n.mustGuide(t, rollout)
	n.waitCondition(t, "True Ready")
	harness.Poll(t, "the pod is isolated", func() (bool, string) { // the logs are there once it has started
		out, err := n.guide(t, pod)
		return err == nil && strings.Contains(out, "\nisolated"), out
	})
	n.MustKubectl(t, "wait", "--for=condition=Ready", "pod/hermetic", "--timeout=4m")
	n.proven(t)

	n.alertable(t)
	n.violate(t)
	n.secondHandler(t)
	n.upgrade(t)
	n.reboot(t)

	n.MustKubectl(t, "delete", "pod", "hermetic", "--now")
	remove := strings.SplitN(harness.Block(t, "docs/install.md", "remove"), "\n", 3)
	n.remove(t, remove[0], remove[1], remove[2])
	unchanged(t, before)
}

// TestChart has the chart put the handler on a node, and take it off again.
func TestChart(t *testing.T) {
	n := start(t, "134", 6543)
	before := files(t)
	n.mustGuide(t, harness.Block(t, "docs/install.md", "helm install"))
	n.waitCondition(t, "False PendingRestart")
	n.containerd.Restart(t)
	n.mustGuide(t, "kubectl rollout status -n cni-none daemonset/cni-none --timeout=5m\nkubectl apply -f pod.yaml\nkubectl wait --for=condition=Ready pod/hermetic --timeout=4m")
	n.proven(t)
	n.violate(t)

	n.MustKubectl(t, "delete", "pod", "hermetic", "--now")
	remove := strings.SplitN(harness.Block(t, "docs/install.md", "helm remove"), "\n", 3)
	n.remove(t, remove[0], remove[1], remove[2])
	unchanged(t, before)
}

// remove takes everything off with the commands of the guide: what starts it, what
// waits for it, and what comes afterwards.
func (n *node) remove(t *testing.T, begin, wait, end string) {
	t.Helper()
	n.mustGuide(t, begin)
	harness.Poll(t, "the handler is out of the config", func() (bool, string) {
		_, err := os.Stat(containerd.DropIns + "/airgap.toml")
		return os.IsNotExist(err), n.condition(t) + "\n" + n.logs()
	})
	n.containerd.Restart(t)
	n.mustGuide(t, wait)
	if c := n.condition(t); c != "" {
		t.Errorf("the condition is still there: %s", c)
	}
	if labels := n.MustKubectl(t, "get", "node", "node", "-o", "jsonpath={.metadata.labels}"); strings.Contains(labels, "cni-none") {
		t.Errorf("a label is still there: %s", labels)
	}
	n.mustGuide(t, end)
	if left := n.MustKubectl(t, "get", "runtimeclasses,clusterroles,validatingadmissionpolicies", "-o", "name"); strings.Contains(left, "cni-none") || strings.Contains(left, "airgap") {
		t.Errorf("objects are left: %s", left)
	}
}
