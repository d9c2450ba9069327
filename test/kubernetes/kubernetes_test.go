package kubernetes

import (
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/harness"
)

// placeholders is where the shipped config takes the addresses from that it reports.
var placeholders = netip.MustParsePrefix("100:0:0:1::/64")

// TestKubernetes follows one cluster from the first command of the
// documentation to its last pod. What does not disturb the rest runs together.
func TestKubernetes(t *testing.T) {
	c := start(t)
	var before map[string]cluster.Pod
	step := func(name string, f func(*testing.T)) {
		if !t.Run(name, f) && name == "documented commands" {
			t.FailNow() // nothing else can work
		}
	}
	step("documented commands", c.documented)
	step("side by side", func(t *testing.T) { before = c.sideBySide(t) })
	step("together", func(t *testing.T) {
		for name, f := range map[string]func(*testing.T){
			"inside":                c.inside,
			"like docker":           c.likeDocker,
			"works":                 c.works,
			"exec probe":            c.execProbe,
			"network probe":         c.networkProbe,
			"no node":               c.noNode,
			"user namespace":        c.userNamespace,
			"services":              c.services,
			"workloads":             c.workloads,
			"failures":              c.failures,
			"wrong handler refused": c.wrongHandler,
			"second runtime":        c.secondRuntime,
			"multus":                c.multus,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f(t)
			})
		}
	})
	step("plugin gone", c.pluginGone)
	step("class made again with handler runc", c.classMadeAgain)
	step("fifty", c.fifty)
	step("killed", c.killed)
	step("asked", c.asked)
	step("two minutes and two restarts", func(t *testing.T) { c.restarts(t, before) })
	step("nothing left", c.nothingLeft)
}

// documented runs the commands of docs/kubernetes.md: from a cluster that knows
// nothing of us to a pod without a network.
func (c *node) documented(t *testing.T) {
	// What the test needs for itself goes along with the restart of containerd.
	harness.Copy(t, "testdata/handlers.toml", "/etc/containerd/conf.d/test.toml", 0o644)
	for dir, conf := range map[string]string{
		"empty.d": "10-airgap.conflist",
		"gone.d":  "containerd/10-airgap-cri.conflist",
		"v4.d":    "containerd/10-airgap-cri.conflist",
	} {
		text := harness.Read(t, harness.Repo("conf", conf))
		if dir == "v4.d" {
			text = strings.ReplaceAll(text, `"100:0:0:1::/64"`, `"192.0.0.8"`)
		}
		harness.Write(t, "/etc/cni/"+dir+"/10-airgap.conflist", text, 0o644)
	}
	// There is no systemd on this node; the one command that needs it gets its effect.
	harness.Write(t, "/run/bin/systemctl", "#!/bin/sh\n[ \"$*\" = 'restart containerd' ] && touch /run/restart\n", 0o755)
	harness.Write(t, "/run/bin/other", "#!/bin/sh\necho \"$@\" >>/run/other.log\nexec runc \"$@\"\n", 0o755)

	commands := strings.Split(strings.TrimSpace(harness.Block(t, "docs/kubernetes.md", "commands")), "\n")
	if len(commands) != 5 {
		t.Errorf("docs/kubernetes.md promises five commands and has %d", len(commands))
	}
	for _, command := range commands {
		t.Logf("%s\n%s", command, c.run(t, "sh", "-ec", command))
		if os.Remove("/run/restart") == nil {
			c.containerd.Stop()
			c.containerd.Daemon.Start(t)
		}
	}
	harness.ReplacePlugin(t, cniBin+"/none")
	c.Ready(t, "hermetic")
}

// sideBySide puts a pod on the cluster's network beside the one of the documentation.
func (c *node) sideBySide(t *testing.T) map[string]cluster.Pod {
	c.Apply(t, plain("plain", "app: plain"))
	return map[string]cluster.Pod{"plain": c.Ready(t, "plain"), "hermetic": c.Ready(t, "hermetic")}
}

// view is what `docker run --network none` shows of the network, and ::1, which
// docker switches off together with the rest of IPv6.
const view = `1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00
    inet 127.0.0.1/8 scope host lo
       valid_lft forever preferred_lft forever
    inet6 ::1/128 scope host 
       valid_lft forever preferred_lft forever`

// inside looks at the network from inside the pod, and at the pod next to it.
func (c *node) inside(t *testing.T) {
	if got := c.Exec(t, "hermetic", "ip", "address"); strings.TrimSpace(got) != view {
		t.Errorf("the pod sees\n%s\nwant\n%s", got, view)
	}
	if got := c.Exec(t, "plain", "ip", "address"); !strings.Contains(got, "eth0") {
		t.Errorf("the pod on the cluster's network has no eth0:\n%s", got)
	}
	if got := c.Exec(t, "hermetic", "ip", "route"); got != "" {
		t.Errorf("the pod has routes:\n%s", got)
	}
	if got := c.Exec(t, "plain", "ip", "route"); !strings.Contains(got, "default via 10.244.0.1") {
		t.Errorf("the pod on the cluster's network has no default route:\n%s", got)
	}
	// The API server stands for everything outside: one pod reaches it, the other has no way to.
	if got, err := c.TryExec("plain", "sh", "-c", "nc -w 10 10.0.0.2 6443 </dev/null"); err != nil {
		t.Errorf("the pod on the cluster's network does not reach the API server: %s", got)
	}
	for _, to := range []string{"10.0.0.2", "8.8.8.8", "2001:db8::1", c.Pod(t, "plain").Status.PodIP} {
		if got, err := c.TryExec("hermetic", "nc", "-w", "10", to, "6443"); err == nil || !strings.Contains(got, "Network is unreachable") {
			t.Errorf("connect to %s from the pod: %v, %s; want: Network is unreachable", to, err, got)
		}
	}

	node, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{node: "the node"}
	for _, name := range []string{"hermetic", "plain"} {
		ns := c.Exec(t, name, "readlink", "/proc/self/ns/net")
		if who, taken := seen[ns]; taken {
			t.Errorf("%s has its network namespace with %s: %s", name, who, ns)
		}
		seen[ns] = name
	}

	p := c.Pod(t, "hermetic")
	ip, err := netip.ParseAddr(p.Status.PodIP)
	if err != nil || !placeholders.Contains(ip) || len(p.Status.PodIPs) != 1 {
		t.Errorf("podIP %q of %v: want one address of %s", p.Status.PodIP, p.Status.PodIPs, placeholders)
	}
	if got, err := c.TryExec("hermetic", "httpd", "-f", "-p", "["+p.Status.PodIP+"]:7001"); err == nil || !strings.Contains(got, "Cannot assign requested address") {
		t.Errorf("bind to the placeholder: %v, %s; want it refused", err, got)
	}

	// The container is accounted to its own pod and to no other.
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	pid := regexp.MustCompile(`(?m)^` + id + `\s+(\d+)`).FindStringSubmatch(c.run(t, "ctr", "--namespace=k8s.io", "tasks", "list"))
	if pid == nil {
		t.Fatalf("containerd has no task %s", id)
	}
	groups, err := os.ReadFile("/proc/" + pid[1] + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(groups)) {
		line = strings.TrimSpace(line)
		if !strings.HasSuffix(line, "/pod"+p.Metadata.UID+"/"+id) {
			t.Errorf("the container is in cgroup %s, which is not its pod's", line)
		}
	}
}

// restarts looks at the first two pods again when they have run for two minutes,
// and when containerd and kubelet have been restarted under them.
func (c *node) restarts(t *testing.T, before map[string]cluster.Pod) {
	check := func(when string) {
		t.Helper()
		for name, was := range before {
			p := c.Pod(t, name)
			if p.Metadata.UID != was.Metadata.UID || p.Status.Phase != "Running" || !p.Ready() || p.Status.PodIP != was.Status.PodIP {
				t.Errorf("%s: %s", when, p)
			}
			for i, ctr := range p.Status.ContainerStatuses {
				if ctr.RestartCount != 0 || ctr.ContainerID != was.Status.ContainerStatuses[i].ContainerID {
					t.Errorf("%s: %s was restarted", when, p)
				}
			}
			c.sandbox(t, p.Metadata.UID)
			if strings.Contains(c.Events(t, name), "SandboxChanged") {
				t.Errorf("%s: %s has had another sandbox:\n%s", when, name, c.Events(t, name))
			}
		}
		if got := c.Exec(t, "hermetic", "ip", "address"); strings.TrimSpace(got) != view {
			t.Errorf("%s the pod sees\n%s\nwant\n%s", when, got, view)
		}
	}
	for _, p := range before {
		time.Sleep(time.Until(p.Status.ContainerStatuses[0].State.Running.StartedAt.Add(2 * time.Minute)))
	}
	check("after two minutes")

	c.containerd.Stop()
	c.containerd.Daemon.Start(t)
	c.settle(t, "restarts of containerd")
	check("after a restart of containerd")

	c.kubelet.Stop()
	c.kubelet.Start(t)
	c.settle(t, "restarts of kubelet")
	check("after a restart of kubelet")
}

// settle shows that the node works: a new pod of each kind comes up. By then
// kubelet has been through all the others.
func (c *node) settle(t *testing.T, what string) {
	t.Helper()
	c.Apply(t, plain("settle-plain", "app: settle"))
	c.Apply(t, c.sample(t, "pod.yaml", "settle-hermetic", "airgap"))
	c.Ready(t, "settle-plain")
	c.Ready(t, "settle-hermetic")
	c.Remove(t, "pod", "settle-plain", "settle-hermetic", "--grace-period=1")
}
