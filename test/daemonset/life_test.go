package daemonset

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/harness"
)

// violate moves a veth into the hermetic pod and waits for the Event.
func (n *node) violate(t *testing.T) {
	t.Helper()
	pod := n.Pod(t, "hermetic")
	id := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
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
	events := n.Clientset(t).CoreV1().Events("default")
	start := time.Now()
	harness.Sh(t, "ip link set leak0 netns "+pid)
	harness.Poll(t, "an Event at the pod", func() (bool, string) {
		list, err := events.List(t.Context(), metav1.ListOptions{FieldSelector: "reason=NotIsolated,involvedObject.name=hermetic"})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Type == "Warning" && strings.Contains(e.Message, "its network namespace is not isolated") && strings.Contains(e.Message, "leak0") {
				return true, ""
			}
		}
		return false, n.logs()
	})
	t.Logf("the Event was seen %s after the interface moved", time.Since(start).Round(time.Millisecond))
	if metrics := n.metrics(t, "9469"); !regexp.MustCompile(`(?m)^none_audit_alarms [1-9]`).MatchString(metrics) {
		t.Errorf("the metrics tell of no alarm:\n%s", metrics)
	}
	harness.Sh(t, "ip link del leak0p")
}

// metrics are what a container of the DaemonSet serves Prometheus.
func (n *node) metrics(t *testing.T, port string) string {
	t.Helper()
	r, err := http.Get("http://" + cluster.NodeAddress + ":" + port + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", r.Status, err)
	}
	return string(text)
}

// alertable: all that the optional alerts look at is served.
func (n *node) alertable(t *testing.T) {
	t.Helper()
	served := n.metrics(t, "9468") + n.metrics(t, "9469")
	names := regexp.MustCompile(`none_(audit|install)_\w+`).FindAllString(harness.Read(t, harness.Repo("deploy/install/monitoring/monitoring.yaml")), -1)
	for _, name := range names {
		if !regexp.MustCompile(`(?m)^` + name + `[ {]`).MatchString(served) {
			t.Errorf("no container serves %s, which an alert names:\n%s", name, served)
		}
	}
	if len(names) < 3 {
		t.Errorf("the alerts name only %v", names)
	}
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

// upgrade brings another version onto the node while a pod of the first one runs.
func (n *node) upgrade(t *testing.T) {
	t.Helper()
	before := n.Pod(t, "hermetic")
	next := release(t.TempDir())
	version := "DIST=" + string(next) + " VERSION=v99.0.0 IMAGE_TAG=v99.0.0"
	harness.Sh(t, "make -s image "+version+" >&2; "+version+" release/build.sh v99.0.0 manifests")
	n.release = next
	n.importImage(t)
	n.mustGuide(t, "kubectl apply -f cni-none.yaml")
	n.mustGuide(t, "kubectl rollout status -n cni-none daemonset/cni-none --timeout=5m")
	sum := func(path string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(harness.Read(t, path)))) }
	if got, want := sum("/opt/cni/bin/none"), sum(next.file(t, "none-linux-amd64")); got != want {
		t.Errorf("the plugin on the node is not that of %s", next.image(t))
	}
	if old := sum(released().file(t, "none-linux-amd64")); old == sum("/opt/cni/bin/none") {
		t.Error("the two versions have the same plugin: nothing was upgraded")
	}
	after := n.Pod(t, "hermetic")
	if after.Metadata.UID != before.Metadata.UID || after.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("the pod did not run on: %s, was %s", after, before)
	}
	n.loAlone(t)
}

// reboot ends everything on the node at once. Afterwards it is ready, and the pod is
// hermetic again, by itself.
func (n *node) reboot(t *testing.T) {
	t.Helper()
	before := n.Pod(t, "hermetic").Status.ContainerStatuses[0].ContainerID
	n.powerOff(t)
	n.powerOn(t)
	harness.Poll(t, "the pod runs again", func() (bool, string) {
		p := n.Pod(t, "hermetic")
		return p.Ready() && p.Status.ContainerStatuses[0].ContainerID != before, p.String() + "\n" + n.Events(t, "hermetic") + n.logs()
	})
	n.proven(t)
	n.mustGuide(t, "kubectl rollout status -n cni-none daemonset/cni-none --timeout=5m")
	n.waitCondition(t, "True Ready")
}

// proven reads what the pod's first container found.
func (n *node) proven(t *testing.T) {
	t.Helper()
	if out := n.MustKubectl(t, "logs", "hermetic", "-c", "none-audit"); !strings.HasPrefix(out, "isolated") {
		t.Errorf("the pod's own proof is %q", out)
	}
	n.loAlone(t)
}

// loAlone looks from inside the pod.
func (n *node) loAlone(t *testing.T) {
	t.Helper()
	if out := n.Exec(t, "hermetic", "ip", "-o", "link"); strings.Count(out, "\n") != 0 || !strings.Contains(out, ": lo: ") {
		t.Errorf("the pod has %s", out)
	}
}
