package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDaemon runs what the DaemonSet runs, beside a real API server and with
// the DaemonSet's own permissions: the label and the condition follow the node's
// state. The node's root is elsewhere for it, as in its container.
func TestDaemon(t *testing.T) {
	t.Parallel()
	kube := filepath.Join(bin, "kubernetes134")
	for _, p := range []string{filepath.Join(kube, "kube-apiserver"), filepath.Join(kube, "kubectl"), "/usr/bin/etcd", "/usr/bin/openssl"} {
		if _, err := os.Stat(p); err != nil {
			need(t, "%v: test/run.sh install puts it there", err)
		}
	}
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.loadImage()
	before := n.files()

	// The API server: everything on the node's own loopback interface.
	n.write("/run/tokens.csv", "admin,admin,1,system:masters\ninstaller,system:serviceaccount:cni-none:none-install,2,\"system:serviceaccounts,system:authenticated\"\n", 0o600)
	n.run("openssl", "genrsa", "-out", "/run/sa.key", "2048")
	n.spawn("etcd", "--data-dir", "/run/etcd")
	n.spawn(filepath.Join(kube, "kube-apiserver"), "--etcd-servers", "http://127.0.0.1:2379", "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1",
		"--secure-port", "6443", "--cert-dir", "/run/certs", "--token-auth-file", "/run/tokens.csv", "--authorization-mode", "RBAC", "--allow-privileged",
		"--service-cluster-ip-range", "10.96.0.0/16", "--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", "/run/sa.key", "--service-account-signing-key-file", "/run/sa.key", "--endpoint-reconciler-type", "none")
	kubectl := func(args ...string) (string, error) {
		cmd := n.command(append([]string{filepath.Join(kube, "kubectl"), "--server", "https://127.0.0.1:6443", "--certificate-authority", "/run/certs/apiserver.crt", "--token", "admin"}, args...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := kubectl(args...)
		if err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	eventually(t, "the API server is ready", func() error {
		out, err := kubectl("get", "--raw", "/readyz")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	n.write("/run/node.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: here}\n", 0o644)
	must("create", "-f", "/run/node.yaml")
	for _, dir := range []string{"base", "restart", "remove"} {
		must("apply", "-k", mustAbs("../../deploy/install/"+dir))
	}
	if out := must("-n", "cni-none", "get", "daemonset", "none-install", "-o", "jsonpath={.spec.template.spec.containers[0].args}"); !strings.Contains(out, "--remove") {
		t.Errorf("the overlay's argument is not there: %s", out)
	}
	// What the program gets from its service account.
	n.write("/run/account/token", "installer", 0o600)
	n.write("/run/account/ca.crt", n.read("/run/certs/apiserver.crt"), 0o644)
	if out, err := n.command(filepath.Join(kube, "kubectl"), "--server", "https://127.0.0.1:6443", "--certificate-authority", "/run/certs/apiserver.crt", "--token", "installer", "get", "nodes").CombinedOutput(); err == nil {
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
		if err := json.Unmarshal([]byte(must("get", "node", "here", "-o", "json")), &node); err != nil {
			t.Fatal(err)
		}
		for _, c := range node.Status.Conditions {
			if c.Type == "CNINoneReady" {
				reason, message = c.Status+" "+c.Reason, c.Message
			}
		}
		return node.Metadata.Labels["cni-none.dev/ready"], reason, message
	}
	wait := func(label, reason string) {
		t.Helper()
		eventually(t, "the node says "+reason, func() error {
			if l, r, m := state(); l != label || r != reason {
				return fmt.Errorf("the label is %q, the condition %s: %s", l, r, m)
			}
			return nil
		})
	}
	run := func(args ...string) (stop func()) {
		env := []string{"env", "KUBERNETES_SERVICE_HOST=127.0.0.1", "KUBERNETES_SERVICE_PORT=6443", "NODE_NAME=here", "SERVICE_ACCOUNT_DIR=/run/account"}
		cmd := n.command(append(append(env, program, "run", "--root", "/run/host", "--interval", "1s"), args...)...)
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

	stop := run()
	wait("", "False PendingRestart")
	n.start() // somebody restarts containerd
	wait("true", "True Ready")
	p := n.mustPod("airgap", true)
	if got := n.links(p); !slices.Equal(got, []string{"lo"}) {
		t.Errorf("a pod has %v", got)
	}

	// The label's history: it goes off when the plugin is gone, and comes back.
	watch := n.command(filepath.Join(kube, "kubectl"), "--server", "https://127.0.0.1:6443", "--certificate-authority", "/run/certs/apiserver.crt", "--token", "admin",
		"get", "node", "here", "--watch", "-o", `jsonpath={.metadata.labels.cni-none\.dev/ready}{"\n"}`)
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
	eventually(t, "the watch has begun", func() error {
		if !strings.Contains(n.read("/run/history"), "true") {
			return fmt.Errorf("it says nothing")
		}
		return nil
	})
	if err := os.Remove(n.path("/opt/cni/bin/none")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the label goes off and comes back", func() error {
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
	wait("", "False NotInstalled")
	stop()
	n.sameFiles(before, "after --remove")
}

// spawn starts a program on the node that runs until the node ends.
func (n *node) spawn(args ...string) {
	n.Helper()
	name := filepath.Base(args[0])
	log, err := os.Create(n.path("/run/" + name + ".log"))
	if err != nil {
		n.Fatal(err)
	}
	defer log.Close()
	cmd := n.command(args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		n.Fatal(err)
	}
	go cmd.Wait()
	n.Cleanup(func() {
		if n.Failed() {
			out, _ := exec.Command("tail", "-n", "5", n.path("/run/"+name+".log")).Output()
			n.Logf("the end of %s's log:\n%s", name, out)
		}
	})
}
