package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/harness"
)

// TestDaemon runs what the DaemonSet runs, beside a real API server and with
// the DaemonSet's own permissions: the label and the condition follow the node's
// state. The node's root is elsewhere for it, as in its container.
func TestDaemon(t *testing.T) {
	t.Parallel()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.loadImage()
	before := n.files()

	// The API server is the node's own, on its loopback interface.
	c := apiServer{cluster.Start(t, cluster.Config{Version: "134", Machine: n.Machine})}
	n.write("/run/node.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: here}\n", 0o644)
	c.MustKubectl(t, "create", "-f", "/run/node.yaml")
	for _, dir := range []string{"base", "restart", "remove"} {
		c.MustKubectl(t, "apply", "-k", harness.Repo("deploy/install", dir))
	}
	if out := c.MustKubectl(t, "-n", "cni-none", "get", "daemonset", "cni-none", "-o", "jsonpath={.spec.template.spec.containers[0].args}"); !strings.Contains(out, "--remove") {
		t.Errorf("the overlay's argument is not there: %s", out)
	}
	token, command := c.account(t, n)
	if out, err := c.Kubectl("--token="+token, "get", "nodes"); err == nil {
		t.Errorf("the installer may read nodes:\n%s", out)
	}
	n.run("mkdir", "/run/host")
	n.run("mount", "--rbind", "/", "/run/host")
	n.run("mount", "--make-rprivate", "/run/host")

	state := func() (label, reason, message string) {
		var node struct {
			Metadata struct{ Labels map[string]string }
			Status   struct {
				Conditions []struct{ Type, Status, Reason, Message string }
			}
		}
		if err := json.Unmarshal([]byte(c.MustKubectl(t, "get", "node", "here", "-o", "json")), &node); err != nil {
			t.Fatal(err)
		}
		for _, c := range node.Status.Conditions {
			if c.Type == "CNINoneReady" {
				reason, message = c.Status+" "+c.Reason, c.Message
			}
		}
		label = node.Metadata.Labels["cni-none.dev/handler-airgap"]
		if all := node.Metadata.Labels["cni-none.dev/ready"]; all != label {
			t.Errorf("with one handler, its label is %q and that of all %q", label, all)
		}
		return label, reason, message
	}
	wait := func(label, reason string) {
		t.Helper()
		harness.Eventually(t, "the node says "+reason, func() error {
			if l, r, m := state(); l != label || r != reason {
				return fmt.Errorf("the label is %q, the condition %s: %s", l, r, m)
			}
			return nil
		})
	}
	run := func(args ...string) (stop func()) {
		cmd := n.command(append(append(command, "--root", "/run/host", "--interval", "1s"), args...)...)
		var log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &log, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stopped := false
		stop = func() {
			if !stopped {
				stopped = true
				cmd.Process.Kill()
				cmd.Wait()
				t.Logf("none-install run %s:\n%s", strings.Join(args, " "), log.String())
			}
		}
		t.Cleanup(stop)
		return stop
	}

	c.MustKubectl(t, "taint", "node", "here", "cni-none.dev/not-ready=:NoSchedule", "other=:NoSchedule")
	stop := run()
	wait("", "False PendingRestart")
	n.start() // containerd is restarted
	wait("true", "True Ready")
	harness.Eventually(t, "the startup taint goes, and no other", func() error {
		if taints := c.MustKubectl(t, "get", "node", "here", "-o", "jsonpath={.spec.taints[*].key}"); !strings.Contains(taints, "other") || strings.Contains(taints, "cni-none") {
			return fmt.Errorf("its taints are %q", taints)
		}
		return nil
	})
	p := n.mustPod("airgap", true)
	if got := n.links(p); !slices.Equal(got, []string{"lo"}) {
		t.Errorf("a pod has %v", got)
	}

	// The label's history: it goes off when the plugin is gone, and comes back.
	watch := c.Command(c.Program("kubectl"), "get", "node", "here", "--watch", "-o", `jsonpath={.metadata.labels.cni-none\.dev/handler-airgap}{"\n"}`)
	history, err := os.Create(n.path("/run/history"))
	if err != nil {
		t.Fatal(err)
	}
	defer history.Close()
	watch.Stdout = history
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { watch.Process.Kill(); watch.Wait() }()
	harness.Eventually(t, "the watch has begun", func() error {
		if !strings.Contains(n.read("/run/history"), "true") {
			return fmt.Errorf("it says nothing")
		}
		return nil
	})
	if err := os.Remove(n.path("/opt/cni/bin/none")); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the label goes off and comes back", func() error {
		if h := n.read("/run/history"); !strings.Contains(h, "true\n\n") || !strings.HasSuffix(h, "\ntrue\n") {
			return fmt.Errorf("its history is %q", h)
		}
		return nil
	})
	n.must(0, "verify")
	stop()
	if l, _, _ := state(); l != "true" {
		t.Errorf("stopping it took the label off: %q", l)
	}

	stop = run("--remove")
	wait("", "False Degraded") // a hermetic pod exists
	if _, _, m := state(); !strings.Contains(m, p.id[:13]) {
		t.Errorf("the condition does not name the pod: %s", m)
	}
	n.removePod(p.id)
	wait("", "False PendingRestart")
	n.start()
	wait("", "") // the node is as if we had never been there
	stop()
	n.sameFiles(before, "after --remove")
}

// apiServer is a control plane without a kubelet.
type apiServer struct{ *cluster.Cluster }

// account gives the node what a pod of the DaemonSet has: the files of a service
// account, and the command whose environment names them and the API server.
func (c apiServer) account(t *testing.T, n *node) (token string, run []string) {
	t.Helper()
	token = c.podToken(t, "here")
	n.write("/run/account/token", token, 0o600)
	n.write("/run/account/namespace", "cni-none", 0o644)
	n.write("/run/account/ca.crt", n.read(c.Dir+"/pki/apiserver.crt"), 0o644)
	return token, slices.Clip([]string{"env", "KUBERNETES_SERVICE_HOST=127.0.0.1", "KUBERNETES_SERVICE_PORT=6443", "NODE_NAME=here", "SERVICE_ACCOUNT_DIR=/run/account",
		program, "run"})
}

// podToken is what kubelet would give a pod of the DaemonSet on that node.
func (c apiServer) podToken(t *testing.T, node string) string {
	t.Helper()
	name := "token-" + node
	c.Apply(t, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: cni-none}, spec: {nodeName: %s, serviceAccountName: cni-none,
  automountServiceAccountToken: false, containers: [{name: c, image: none}]}}`, name, node))
	uid := c.MustKubectl(t, "-n", "cni-none", "get", "pod", name, "-o", "jsonpath={.metadata.uid}")
	return c.MustKubectl(t, "-n", "cni-none", "create", "token", "cni-none", "--bound-object-kind=Pod", "--bound-object-name="+name, "--bound-object-uid="+uid)
}
