// Package daemonset runs the DaemonSet of deploy/install as a real pod on a real
// node: kubelet, containerd 2.4, and the project's image from the programs in bin/.
package daemonset

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/containerd"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

func TestMain(m *testing.M) { machine.Main(m, machine.Config{Furnish: cluster.Furnish}) }

// node is a cluster of one node.
type node struct {
	*cluster.Cluster
	containerd *containerd.Containerd
}

func start(t *testing.T) *node {
	t.Helper()
	harness.Sh(t, "mount --make-rshared /") // as systemd has it on a node
	for _, plugin := range []string{"bridge", "host-local", "loopback"} {
		harness.Copy(t, harness.Bin("cniplugins", plugin), "/opt/cni/bin/"+plugin, 0o755)
	}
	harness.Copy(t, harness.Repo("test/kubernetes/testdata/10-bridge.conflist"), "/etc/cni/net.d/10-bridge.conflist", 0o644)
	harness.Write(t, containerd.ConfigFile, containerd.Config(4), 0o644)
	if err := os.Mkdir(containerd.DropIns, 0o755); err != nil {
		t.Fatal(err)
	}
	n := &node{Cluster: cluster.Start(t, cluster.Config{Version: "134", Address: cluster.NodeAddress, Controllers: "*", Scheduler: true})}
	n.containerd = containerd.Start(t, machine.Here(), "2.4", "")
	busybox := image.Busybox(t, "docker.io/library/busybox:1.35.0")
	busybox.Cmd = nil
	n.containerd.Import(t, image.Archive(t, busybox, image.Busybox(t, image.Pauses...), image.Own()), image.Pauses...)
	n.Kubelet(t)
	serviceAddress(t, cluster.NodeAddress+":6443")
	return n
}

// serviceAddress does for one Service what kube-proxy does: pods reach the API
// server at the first address of the Services' range.
func serviceAddress(t *testing.T, to string) {
	t.Helper()
	harness.Sh(t, "ip address add 10.96.0.1/32 dev lo")
	l, err := net.Listen("tcp", "10.96.0.1:443")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				from.Close()
				continue
			}
			go func() { io.Copy(server, from); server.Close() }()
			go func() { io.Copy(from, server); from.Close() }()
		}
	}()
}

// apply gives the cluster one of deploy/install, which looks again after seconds
// instead of a minute.
func (n *node) apply(t *testing.T, overlay string) {
	t.Helper()
	n.Apply(t, strings.Replace(n.MustKubectl(t, "kustomize", harness.Repo("deploy/install", overlay)), "- --root=/host\n", "- --root=/host\n        - --interval=5s\n", 1))
}

// condition is what the node says of itself.
func (n *node) condition(t *testing.T) string {
	t.Helper()
	return n.MustKubectl(t, "get", "node", "node", "-o", `jsonpath={range .status.conditions[?(@.type=="CNINoneReady")]}{.status} {.reason}: {.message}{end}`)
}

func (n *node) waitCondition(t *testing.T, want string) {
	t.Helper()
	harness.Poll(t, "the node says "+want, func() (bool, string) {
		c := n.condition(t)
		return strings.HasPrefix(c, want), c + "\n" + n.logs()
	})
}

// logs is what a failed wait shows.
func (n *node) logs() string {
	pods, _ := n.Kubectl("-n", "cni-none", "get", "pods,events")
	install, _ := n.Kubectl("-n", "cni-none", "logs", "daemonset/cni-none", "-c", "install", "--tail=10")
	watch, _ := n.Kubectl("-n", "cni-none", "logs", "daemonset/cni-none", "-c", "watch", "--tail=10")
	return pods + "\ninstall: " + install + "\nwatch: " + watch
}

// files are the node's, path and content, below where none-install could write.
func files(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, top := range []string{"/etc/containerd", "/etc/cni", "/opt/cni", "/var/lib/cni-none"} {
		err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil || d.IsDir() {
				all[path] = "directory"
				return err
			}
			data, err := os.ReadFile(path)
			all[path] = string(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestDaemonSet: pending-restart, restart, ready, a hermetic pod that proves itself,
// an interface moved into it seen as an Event, a second handler added and taken
// away, and removal until the node is what it was.
func TestDaemonSet(t *testing.T) {
	n := start(t)
	before := files(t)
	n.apply(t, "base")
	n.MustKubectl(t, "apply", "-f", harness.Repo("deploy/kubernetes/runtimeclass.yaml"))
	n.waitCondition(t, "False PendingRestart")
	if out, err := n.Kubectl("-n", "cni-none", "rollout", "status", "daemonset/cni-none", "--timeout=2s"); err == nil {
		t.Errorf("the DaemonSet has rolled out while a restart is missing: %s", out)
	}
	n.containerd.Restart(t)
	n.waitCondition(t, "True Ready")
	n.MustKubectl(t, "-n", "cni-none", "rollout", "status", "daemonset/cni-none", "--timeout=4m")

	n.MustKubectl(t, "apply", "-f", harness.Repo("deploy/kubernetes/pod.yaml"))
	n.MustKubectl(t, "wait", "--for=condition=Ready", "pod/hermetic", "--timeout=4m")
	if out := n.MustKubectl(t, "logs", "hermetic", "-c", "none-audit"); !strings.HasPrefix(out, "isolated") {
		t.Errorf("the pod's own proof is %q", out)
	}
	n.violate(t)
	n.secondHandler(t)

	n.MustKubectl(t, "delete", "pod", "hermetic", "--now")
	n.apply(t, "remove")
	harness.Poll(t, "the handler is out of the config", func() (bool, string) {
		_, err := os.Stat(containerd.DropIns + "/airgap.toml")
		return os.IsNotExist(err), n.condition(t) + "\n" + n.logs()
	})
	n.containerd.Restart(t)
	n.MustKubectl(t, "-n", "cni-none", "rollout", "status", "daemonset/cni-none", "--timeout=4m")
	if c := n.condition(t); c != "" {
		t.Errorf("the condition is still there: %s", c)
	}
	if labels := n.MustKubectl(t, "get", "node", "node", "-o", "jsonpath={.metadata.labels}"); strings.Contains(labels, "cni-none") {
		t.Errorf("a label is still there: %s", labels)
	}
	after := files(t)
	for path, text := range before {
		if after[path] != text {
			t.Errorf("%s is not what it was", path)
		}
	}
	for path := range after {
		if _, was := before[path]; !was {
			t.Errorf("%s is left", path)
		}
	}
}

// violate moves a veth into the hermetic pod and waits for the Event.
func (n *node) violate(t *testing.T) {
	t.Helper()
	var info struct {
		Status struct {
			ContainerStatuses []struct{ ContainerID string }
		}
	}
	if err := json.Unmarshal([]byte(n.MustKubectl(t, "get", "pod", "hermetic", "-o", "json")), &info); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimPrefix(info.Status.ContainerStatuses[0].ContainerID, "containerd://")
	out, err := exec.Command(harness.Bin("containerd24/ctr"), "-n", "k8s.io", "tasks", "ls").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid := ""
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == id {
			pid = fields[1]
		}
	}
	if pid == "" {
		t.Fatalf("no process of container %s in\n%s", id, out)
	}
	harness.Sh(t, "ip link add leak0 type veth peer name leak0p")
	start := time.Now()
	harness.Sh(t, "ip link set leak0 netns "+pid)
	harness.Poll(t, "an Event at the pod", func() (bool, string) {
		e := n.MustKubectl(t, "get", "events", "--field-selector=reason=NotIsolated,involvedObject.name=hermetic", "-o", `jsonpath={range .items[*]}{.type} {.message}{"\n"}{end}`)
		return strings.Contains(e, "Warning its network namespace is not isolated") && strings.Contains(e, "leak0"), e + n.logs()
	})
	t.Logf("the Event was seen %s after the interface moved", time.Since(start).Round(time.Millisecond))
	harness.Sh(t, "ip link del leak0p")
}

// secondHandler adds one and takes it away, while a pod of the first one runs.
func (n *node) secondHandler(t *testing.T) {
	t.Helper()
	args := func() []string {
		var list []string
		if err := json.Unmarshal([]byte(n.MustKubectl(t, "-n", "cni-none", "get", "daemonset", "cni-none", "-o", "jsonpath={.spec.template.spec.containers[0].args}")), &list); err != nil {
			t.Fatal(err)
		}
		return list
	}()
	set := func(more ...string) {
		t.Helper()
		text, err := json.Marshal(append(args[:len(args):len(args)], more...))
		if err != nil {
			t.Fatal(err)
		}
		n.MustKubectl(t, "-n", "cni-none", "patch", "daemonset", "cni-none", "--type=json", "-p",
			fmt.Sprintf(`[{"op":"replace","path":"/spec/template/spec/containers/0/args","value":%s}]`, text))
	}
	labels := func(want string) {
		t.Helper()
		harness.Poll(t, "the node's labels are "+want, func() (bool, string) {
			l := n.MustKubectl(t, "get", "node", "node", "-o", `jsonpath=all={.metadata.labels.cni-none\.dev/ready} airgap={.metadata.labels.cni-none\.dev/handler-airgap} airgap-runc={.metadata.labels.cni-none\.dev/handler-airgap-runc}`)
			return l == want, fmt.Sprintf("%q %s\n%s", l, n.condition(t), n.logs())
		})
	}
	labels("all=true airgap=true airgap-runc=")
	set("--handler=airgap-runc=runc")
	n.waitCondition(t, "False PendingRestart")
	labels("all= airgap=true airgap-runc=") // the first one is as good as before
	n.containerd.Restart(t)
	labels("all=true airgap=true airgap-runc=true")
	set()
	n.waitCondition(t, "False PendingRestart")
	labels("all= airgap=true airgap-runc=")
	n.containerd.Restart(t)
	labels("all=true airgap=true airgap-runc=")
	n.MustKubectl(t, "wait", "--for=condition=Ready", "pod/hermetic", "--timeout=1m")
}
