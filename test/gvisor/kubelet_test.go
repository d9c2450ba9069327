package gvisor

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/gvisor"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// TestKubelet runs the shipped sample with gVisor below a kubelet.
func TestKubelet(t *testing.T) {
	c := gvisor.Cluster(t, machine.New(t), image.Busybox(t, busybox))
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cluster.Cluster)
	}{
		{"sample", sample},
		{"exec probe", execProbe},
		{"native sidecar", nativeSidecar},
		{"ephemeral container", ephemeral},
		{"wrong class", wrongClass},
		{"policies", policies},
		{"what gVisor does not have", missing},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c) })
	}
}

// manifest is the shipped sample under another name, in our class, with more replaced
// if asked: pairs of what is there and what shall be.
func manifest(t *testing.T, name string, pairs ...string) string {
	t.Helper()
	text := harness.Read(t, harness.Repo("deploy/kubernetes/pod.yaml"))
	pairs = append([]string{"metadata:\n  name: hermetic\n", "metadata:\n  name: " + name + "\n",
		"runtimeClassName: airgap\n", "runtimeClassName: " + airgap + "\n"}, pairs...)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("pod.yaml does not contain %q", pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

func start(t *testing.T, c *cluster.Cluster, name string, pairs ...string) {
	t.Helper()
	c.Apply(t, manifest(t, name, pairs...))
	t.Cleanup(func() { c.Remove(t, "pod", name, "--grace-period=1") })
}

const loOnly = "1: lo: <LOOPBACK,UP,LOWER_UP>"

func sample(t *testing.T, c *cluster.Cluster) {
	const name = "sample"
	start(t, c, name)
	c.Ready(t, name) // its readiness probe is an exec probe
	if got := c.Exec(t, name, "dmesg"); !strings.Contains(got, "Starting gVisor") {
		t.Errorf("this is not gVisor's kernel: %s", got)
	}
	if got := c.Exec(t, name, "ip", "-o", "link"); !strings.HasPrefix(got, loOnly) || strings.Contains(got, "\n") {
		t.Errorf("interfaces other than lo: %s", got)
	}
	if got := c.MustKubectl(t, "logs", name, "-c", "none-audit"); got != selfSays {
		t.Errorf("none-audit self: %s", got)
	}
	if got := c.MustKubectl(t, "logs", name); got != "started" {
		t.Errorf("kubectl logs: %q", got)
	}
	for _, to := range []string{"10.0.0.2", "10.244.0.1", "8.8.8.8"} {
		if got, err := c.TryExec(name, "nc", "-w", "30", to, "6443"); err == nil || !strings.Contains(got, "Network is unreachable") {
			t.Errorf("connect to %s: %v, %s; want: Network is unreachable", to, err, got)
		}
	}
}

// execProbe shows that the readiness of a pod is what its exec probe says, both ways.
func execProbe(t *testing.T, c *cluster.Cluster) {
	const name = "exec-probe"
	start(t, c, name, `command: ["true"]`, "command: [test, -e, /dev/shm/ready]\n        periodSeconds: 1")
	harness.Poll(t, "the probe fails", func() (bool, string) {
		events := c.Events(t, name)
		return strings.Contains(events, "Unhealthy Readiness probe failed"), events
	})
	if p := c.Pod(t, name); p.Ready() {
		t.Errorf("Ready with a probe that fails: %s", p)
	}
	c.Exec(t, name, "touch", "/dev/shm/ready")
	c.Ready(t, name)
}

// nativeSidecar is an init container that keeps running and serves the main container.
func nativeSidecar(t *testing.T, c *cluster.Cluster) {
	const name = "sidecar"
	start(t, c, name, "  containers:\n", fmt.Sprintf(`    - name: proxy
      image: %s
      restartPolicy: Always
      command: [nc, -ll, -p, "1024", -e, echo, hello]
      securityContext: *locked
  containers:
`, busybox))
	c.Ready(t, name)
	harness.Poll(t, "the sidecar answers on 127.0.0.1", func() (bool, string) {
		got, err := c.Kubectl("exec", name, "-c", "main", "--", "sh", "-c", "nc -w 30 127.0.0.1 1024 </dev/null")
		return err == nil && got == "hello", got
	})
}

// ephemeral adds a container to a running pod, as kubectl debug does.
func ephemeral(t *testing.T, c *cluster.Cluster) {
	const name = "ephemeral"
	start(t, c, name)
	c.Ready(t, name)
	c.MustKubectl(t, "debug", name, "--image="+busybox, "--container=debug", "--profile=restricted",
		"--custom="+custom(t), "--", "sh", "-c", "ip -o link; dmesg | grep -c gVisor")
	harness.Poll(t, "the ephemeral container has looked", func() (bool, string) {
		got, err := c.Kubectl("logs", name, "-c", "debug")
		return err == nil && strings.HasPrefix(got, loOnly) && strings.HasSuffix(got, "\n1") && strings.Count(got, "\n") == 1, got
	})
}

// custom names a user, which the sample's pod demands.
func custom(t *testing.T) string {
	t.Helper()
	path := t.TempDir() + "/custom.json"
	harness.Write(t, path, `{"imagePullPolicy": "IfNotPresent", "securityContext": {"runAsUser": 65534}}`, 0o644)
	return path
}

// wrongClass runs the sample with gVisor on a bridge: it does not start.
func wrongClass(t *testing.T, c *cluster.Cluster) {
	const name = "wrong-class"
	c.Apply(t, "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: gvisor}, handler: gvisor}")
	start(t, c, name, "runtimeClassName: "+airgap+"\n", "runtimeClassName: gvisor\n")
	harness.Poll(t, "none-audit names what is wrong", func() (bool, string) {
		got, err := c.Kubectl("logs", name, "-c", "none-audit")
		return err == nil && strings.HasPrefix(got, "not isolated") && strings.Contains(got, "eth0"), got
	})
	p := c.Pod(t, name)
	init := p.Status.InitContainerStatuses[0]
	if end := init.State.Terminated; end != nil && end.ExitCode != 1 || init.Ready {
		t.Errorf("none-audit ended well: %s", p)
	}
	if main := p.Status.ContainerStatuses[0].State; main.Waiting == nil || main.Waiting.Reason != "PodInitializing" {
		t.Errorf("the container proper is not held back: %s", p)
	}
}

// policies are in force for this class as for airgap.
func policies(t *testing.T, c *cluster.Cluster) {
	for what, pairs := range map[string][]string{
		"hostNetwork":  {"  hostname: hermetic\n", "  hostNetwork: true\n"},
		"hostPID":      {"  hostname: hermetic\n", "  hostPID: true\n"},
		"httpGet":      {"exec:\n          command: [\"true\"]", "httpGet: {port: 80, path: /}"},
		"capabilities": {"    - name: main\n", "    - name: other\n      image: x\n      securityContext: {capabilities: {add: [NET_ADMIN]}}\n    - name: main\n"},
	} {
		const path = "/run/refused.yaml"
		c.Machine.Write(t, path, manifest(t, "refused", pairs...), 0o644)
		got, err := c.Kubectl("apply", "-f", path)
		if err == nil || !strings.Contains(got, "ValidatingAdmissionPolicy 'cni-none-hermetic-pods'") || !strings.Contains(got, what) {
			t.Errorf("%s: %v, %s; want it refused by our policy", what, err, got)
		}
	}
}

// missing is what docs/gvisor.md says that gVisor does not have.
func missing(t *testing.T, c *cluster.Cluster) {
	start(t, c, "users", "  hostname: hermetic\n", "  hostname: hermetic\n  hostUsers: false\n")
	harness.Poll(t, "hostUsers: false is refused", func() (bool, string) {
		events := c.Events(t, "users")
		return strings.Contains(events, "error setting namespace of type user"), events
	})
	// port-forward goes to the namespace on the node: there runc's pod listens, which is
	// the control, and gVisor's does not.
	for class, want := range map[string]bool{"airgap": true, airgap: false} {
		name := "forward-" + class
		start(t, c, name, "runtimeClassName: "+airgap+"\n", "runtimeClassName: "+class+"\n",
			"command: [sh, -c, \"trap exit TERM; echo started; sleep infinity & wait\"]", "command: [nc, -ll, -p, \"1024\", -e, echo, hello]")
		c.Ready(t, name)
		cmd := c.Command("sh", "-c", `"$KUBECTL" port-forward "pod/$0" 7003:1024 >/run/forward.log 2>&1 & pid=$!
			until grep -q Forwarding /run/forward.log; do sleep 0.2; kill -0 $pid || exit; done
			busybox nc -w 20 127.0.0.1 7003 </dev/null; sleep 1; kill $pid; cat /run/forward.log`, name)
		got, err := cmd.CombinedOutput()
		if strings.Contains(string(got), "hello") != want {
			t.Errorf("port-forward to a pod of %s: %s, %v; docs/gvisor.md says %v", class, got, err, want)
		}
	}
}
