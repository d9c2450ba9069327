package kubernetes

import (
	"bufio"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/harness"
)

// ownName does what many programs do at their start: listen at the address of
// the machine's own name, the first of them, and connect to it.
const ownName = `
use POSIX;
use Socket qw(getaddrinfo getnameinfo SOCK_STREAM NI_NUMERICHOST);
my ($err, $to) = getaddrinfo((POSIX::uname)[1], 7002, {socktype => SOCK_STREAM});
die $err if $err;
socket(my $listen, $to->{family}, SOCK_STREAM, 0) or die $!;
bind($listen, $to->{addr}) or die "bind: $!";
listen($listen, 1) or die $!;
socket(my $connect, $to->{family}, SOCK_STREAM, 0) or die $!;
connect($connect, $to->{addr}) or die "connect: $!";
print((getnameinfo($to->{addr}, NI_NUMERICHOST))[1]);
`

// works is what goes on as usual in a pod without a network.
func (c *node) works(t *testing.T) {
	const name = "works"
	c.Apply(t, c.sample(t, "pod.yaml", name, "airgap"))
	c.Ready(t, name) // its readiness probe is an exec probe
	defer c.Remove(t, "pod", name, "--grace-period=1")

	if got := c.MustKubectl(t, "logs", name); got != "started" {
		t.Errorf("kubectl logs: %q", got)
	}
	if got := c.MustKubectl(t, "logs", name, "-c", "none-audit"); !strings.Contains(got, "isolated") {
		t.Errorf("what none-audit says: %q", got)
	}

	// The pod's own name means something that can be used.
	if got := c.Exec(t, name, "hostname"); got != "hermetic" {
		t.Errorf("hostname: %q", got)
	}
	hosts := c.Exec(t, name, "cat", "/etc/hosts")
	if !strings.Contains(hosts, c.Pod(t, name).Status.PodIP+"\thermetic") || !strings.Contains(hosts, "127.0.0.1\thermetic") {
		t.Errorf("/etc/hosts has not both the placeholder and the alias:\n%s", hosts)
	}
	if got := c.Exec(t, name, "perl", "-we", ownName); got != "127.0.0.1" {
		t.Errorf("the pod's own name led to %q", got)
	}
	if got := c.Exec(t, name, "cat", "/etc/resolv.conf"); got != "nameserver 127.0.0.1" {
		t.Errorf("/etc/resolv.conf: %q", got)
	}

	if got := c.Exec(t, name, "sh", "-c", "env | cut -d= -f1 | grep SERVICE_HOST"); got != "KUBERNETES_SERVICE_HOST" {
		t.Errorf("variables that name Services: %q", got)
	}

	// port-forward goes through the runtime, not through the network.
	c.Exec(t, name, "httpd", "-p", "127.0.0.1:7003", "-h", "/etc")
	forward := exec.Command("kubectl", "port-forward", "pod/"+name, ":7003")
	out, err := forward.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	defer forward.Wait()
	defer forward.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	port := regexp.MustCompile(`127\.0\.0\.1:(\d+) -> 7003`).FindStringSubmatch(line)
	if port == nil {
		t.Fatalf("kubectl port-forward: %q, %v", line, err)
	}
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Get("http://127.0.0.1:" + port[1] + "/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "hermetic\n" {
		t.Errorf("through port-forward comes %q, %v", got, err)
	}
}

// execProbe shows that the readiness of a pod is what its exec probe says, both ways.
func (c *node) execProbe(t *testing.T) {
	const name = "exec-probe"
	c.Apply(t, c.sample(t, "pod.yaml", name, "airgap", `command: ["true"]`, "command: [test, -e, /dev/shm/ready]\n        periodSeconds: 1"))
	defer c.Remove(t, "pod", name, "--grace-period=1")
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

// networkProbe shows why the samples have exec probes.
func (c *node) networkProbe(t *testing.T) {
	const name = "network-probe"
	c.Apply(t, c.sample(t, "pod.yaml", name, "airgap",
		"exec:\n          command: [\"true\"]", "httpGet: {port: 7004, path: /}"))
	defer c.Remove(t, "pod", name, "--grace-period=1")
	p := func() cluster.Pod { return c.Pod(t, name) }
	harness.Poll(t, "kubelet sends the probe to the placeholder", func() (bool, string) {
		events := c.Events(t, name)
		ip := p().Status.PodIP
		return ip != "" && strings.Contains(events, "Unhealthy Readiness probe failed: Get \"http://["+ip+"]:7004/\""), events
	})
	if p().Ready() {
		t.Errorf("Ready with a probe that goes nowhere: %s", p())
	}
}

// userNamespace asks for hostUsers: false. A runtime either has it, and then the
// pod is as any other, or kubelet refuses the pod before any plugin is asked.
func (c *node) userNamespace(t *testing.T) {
	const name = "user-namespace"
	supported := c.MustKubectl(t, "get", "node", "node", "-o", `jsonpath={.status.runtimeHandlers[?(@.name=="airgap")].features.userNamespaces}`)
	c.Apply(t, c.sample(t, "pod.yaml", name, "airgap", "  hostname: hermetic\n", "  hostname: hermetic\n  hostUsers: false\n"))
	defer c.Remove(t, "pod", name, "--grace-period=1")
	if supported != "true" {
		c.refused(t, name, "can't set `spec.hostUsers: false`, RuntimeClass handler \"airgap\" does not support user namespaces")
		return
	}
	c.Ready(t, name)
	if got := c.Exec(t, name, "ip", "address"); strings.TrimSpace(got) != view {
		t.Errorf("the pod sees\n%s\nwant\n%s", got, view)
	}
}

// services asks which pods the Services of the cluster would send traffic to.
func (c *node) services(t *testing.T) {
	c.Apply(t, class("airgap-v4", "airgap-v4"))
	defer c.Remove(t, "runtimeclass", "airgap-v4")
	c.Apply(t, plain("service-plain", "app: mixed"))
	c.Apply(t, c.sample(t, "pod.yaml", "service-hermetic", "airgap", "app: hermetic\n", "app: mixed\n"))
	c.Apply(t, c.sample(t, "pod.yaml", "service-v4", "airgap-v4", "app: hermetic\n", "app: mixed-v4\n"))
	defer c.Remove(t, "pod", "service-plain", "service-hermetic", "service-v4", "--grace-period=1")
	pod := c.Ready(t, "service-plain").Status.PodIP
	placeholder := c.Ready(t, "service-hermetic").Status.PodIP
	if got := c.Ready(t, "service-v4").Status.PodIP; got != "192.0.0.8" {
		t.Errorf("podIP with the placeholder for IPv6-only clusters: %s", got)
	}

	for _, tt := range []struct{ name, spec, want, why string }{
		{"cluster-ip", "selector: {app: mixed}", pod, ""},
		{"headless", "selector: {app: mixed}, clusterIP: None", pod, ""},
		{"not-ready", "selector: {app: mixed}, publishNotReadyAddresses: true", pod, ""},
		{"headless-not-ready", "selector: {app: mixed}, clusterIP: None, publishNotReadyAddresses: true", pod, ""},
		// What does not work, as the documentation says. It also shows that the
		// Services above left the pod out for its address and nothing else.
		{"ipv6", "selector: {app: mixed}, ipFamilies: [IPv6]", placeholder, "IPv6 Services list the pod"},
		{"v4-ipv6", "selector: {app: mixed-v4}, ipFamilies: [IPv6]", "", ""},
		{"v4-ipv4", "selector: {app: mixed-v4}", "192.0.0.8", "IPv4 Services list a pod with an IPv4 placeholder"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.Apply(t, "{apiVersion: v1, kind: Service, metadata: {name: "+tt.name+"}, spec: {ports: [{port: 80}], "+tt.spec+"}}")
			defer c.Remove(t, "service", tt.name)
			// The controller makes the slice in one go, also an empty one: when it is there, it is complete.
			harness.Poll(t, "there is an EndpointSlice", func() (bool, string) {
				got, err := c.Kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name="+tt.name, "-o", "name")
				return err == nil && got != "", got
			})
			got := c.MustKubectl(t, "get", "endpointslices", "-l", "kubernetes.io/service-name="+tt.name,
				"-o", "jsonpath={.items[*].endpoints[*].addresses[*]}")
			if got != tt.want {
				t.Errorf("the Service sends traffic to %q, want %q", got, tt.want)
			}
		})
	}
}
