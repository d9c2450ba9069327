package install

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/harness"
)

// TestViolation runs both containers of the DaemonSet: an interface that is moved
// into a hermetic pod becomes an Event at the pod, and with --on-violation=delete
// the pod is deleted. The pod beside it is left alone.
func TestViolation(t *testing.T) {
	t.Parallel()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.loadImage()
	n.must(0, "install", "--restart", "--restart-command", restart)
	n.waitReady()
	c := apiServer{cluster.Start(t, cluster.Config{Version: "134", Machine: n.Machine})}
	c.Apply(t, "{apiVersion: v1, kind: Node, metadata: {name: here}}")
	c.Apply(t, "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: airgap}, handler: airgap}")
	c.MustKubectl(t, "create", "serviceaccount", "default", "-n", "default")
	c.MustKubectl(t, "apply", "-k", harness.Repo("deploy/install/base"))
	c.MustKubectl(t, "apply", "-f", harness.Repo("deploy/install/delete-violators/rbac.yaml"))
	_, run := c.account(t, n)

	hermetic := func(name string) pod {
		t.Helper()
		c.Apply(t, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: default}, spec: {nodeName: here, runtimeClassName: airgap, terminationGracePeriodSeconds: 0, automountServiceAccountToken: false, containers: [{name: c, image: none}]}}`, name))
		uid := c.MustKubectl(t, "get", "pod", name, "-o", "jsonpath={.metadata.uid}")
		run, err := n.client.RunPodSandbox(context.Background(), &cri.RunPodSandboxRequest{RuntimeHandler: "airgap", Config: &cri.PodSandboxConfig{
			Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: uid}, Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "system.slice"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		n.pods, n.all = append(n.pods, run.PodSandboxId), append(n.all, run.PodSandboxId)
		return n.lookAt(run.PodSandboxId)
	}
	events := func(name string) string {
		return c.MustKubectl(t, "get", "events", "--field-selector", "reason=NotIsolated,involvedObject.name="+name, "-o", `jsonpath={range .items[*]}{.type} {.involvedObject.kind} {.source.host} {.message}{"\n"}{end}`)
	}
	leak := func(p pod, name string) time.Time {
		n.run("ip", "link", "add", name, "type", "veth", "peer", "name", name+"p")
		start := time.Now()
		n.run("ip", "link", "set", name, "netns", fmt.Sprint(p.pid))
		return start
	}
	good, one, two := hermetic("good"), hermetic("one"), hermetic("two")
	daemons := func(args ...string) (stop func()) {
		install := n.Daemon(n, "", append(append(run, "--violations", "/run/violations.sock"), args...)...)
		watch := n.Daemon(n, "", program, "relay", "/run/violations.sock", "--", harness.Bin("none-audit"), "watch", "--json", "--claimed-only", "--interval", "2s", "--listen", "127.0.0.1:9469")
		harness.Eventually(t, "none-audit watches the pods", func() error {
			out, err := n.command("curl", "--silent", "http://127.0.0.1:9469/metrics").CombinedOutput()
			if err != nil || strings.Contains(string(out), `none_audit_namespaces{state="isolated"} 0`) || !strings.Contains(string(out), `none_audit_namespaces{state="isolated"}`) {
				return fmt.Errorf("its metrics are %q", out)
			}
			return nil
		})
		return func() { watch.Stop(); install.Stop() }
	}

	stop := daemons()
	start := leak(one, "leak0")
	harness.Eventually(t, "an Event at the pod", func() error {
		if e := events("one"); !strings.Contains(e, "Warning Pod here its network namespace is not isolated: ") || !strings.Contains(e, "leak0") {
			return fmt.Errorf("the events are %q", e)
		}
		return nil
	})
	t.Logf("the Event came within %s", time.Since(start))
	if phase, err := c.Kubectl("get", "pod", "one", "-o", "name"); err != nil {
		t.Errorf("reporting deleted the pod: %s", phase)
	}
	stop()

	stop = daemons("--on-violation", "delete")
	defer stop()
	leak(two, "leak1")
	harness.Eventually(t, "the pod is deleted", func() error {
		if out, err := c.Kubectl("get", "pod", "two", "-o", "jsonpath={.metadata.deletionTimestamp}"); out == "" && err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	if e := events("good"); e != "" || n.lookAt(good.id) != good {
		t.Errorf("the pod beside it: %q", e)
	}
	if out, err := c.Kubectl("get", "pod", "good", "-o", "jsonpath={.metadata.deletionTimestamp}"); out != "" || err != nil {
		t.Errorf("the pod beside it is deleted: %s %v", out, err)
	}
}
