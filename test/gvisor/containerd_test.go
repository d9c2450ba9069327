package gvisor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// TestContainerd takes pods of gVisor through their life, with and without a
// network, on every containerd that its shim is for.
func TestContainerd(t *testing.T) {
	for version, config := range map[string]int{"1.7": 2, "2.4": 4} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t, version, config)
			bridged, first, second, runc := n.run("gvisor"), n.run(airgap), n.run(airgap), n.run("airgap")
			for _, p := range []*pod{bridged, first, second} {
				if got := p.inside("dmesg"); !strings.Contains(got, "Starting gVisor") {
					t.Errorf("this is not gVisor's kernel: %s", got)
				}
			}
			bridged.isConnected()
			for _, p := range []*pod{first, second, runc} {
				p.isIsolated()
			}
			apart(t, first, second)
			sidecar(t, first)
			late(t, second)

			n.Restart(t)
			first.isIsolated()
			bridged.isConnected()
			n.run(airgap).isIsolated()

			n.removePods()
			nothingLeft(t, n)
		})
	}
}

// isConnected is the control: a pod of gVisor on a bridge.
func (p *pod) isConnected() {
	t := p.n.t
	t.Helper()
	if got := p.inside("ip -o link"); !strings.Contains(got, "eth0") {
		t.Errorf("a pod on a bridge has no eth0: %s", got)
	}
	if got := p.inside("ip route"); !strings.Contains(got, "default via 10.244.0.1") {
		t.Errorf("a pod on a bridge has no default route: %s", got)
	}
	if got, err := p.try("nc -w 30 10.244.0.1 1026 </dev/null"); got != "the node\n" || err != nil {
		t.Errorf("a pod on a bridge does not reach the node: %q, %v", got, err)
	}
	got, err := p.try("none-audit self")
	if err == nil || !strings.Contains(err.Error(), "exit status 1: not isolated") || !strings.Contains(got, "eth0") {
		t.Errorf("none-audit self in a pod on a bridge: %v", err)
	}
}

// isIsolated looks around in a pod of the none network.
func (p *pod) isIsolated() {
	t := p.n.t
	t.Helper()
	if got := p.inside("ip -o link"); strings.Count(got, "\n") != 1 || !strings.Contains(got, ": lo: <LOOPBACK,UP,LOWER_UP>") {
		t.Errorf("interfaces other than lo: %s", got)
	}
	var addresses []string
	for line := range strings.Lines(p.inside("ip -o address")) {
		if f := strings.Fields(line); strings.HasPrefix(f[2], "inet") {
			addresses = append(addresses, f[3])
		}
	}
	if got := strings.Join(addresses, " "); got != "127.0.0.1/8 ::1/128" {
		t.Errorf("addresses: %s", got)
	}
	for line := range strings.Lines(p.inside("ip route; ip -6 route")) {
		if !strings.Contains(line, "dev lo") {
			t.Errorf("a route: %s", line)
		}
	}
	for _, to := range []string{"127.0.0.1", "127.5.5.5", "::1"} {
		if got, err := p.try("nc -w 30 " + to + " 1024 </dev/null"); got != "hello\n" || err != nil {
			t.Errorf("the pod does not reach itself at %s: %q, %v", to, got, err)
		}
	}
	for _, to := range []string{"10.244.0.1", "10.0.0.2", "8.8.8.8", "2001:db8::1"} {
		if got, err := p.try("nc -w 30 " + to + " 1026 </dev/null"); err == nil || !strings.Contains(got, "Network is unreachable") {
			t.Errorf("connect to %s: %v, %s; want: Network is unreachable", to, err, got)
		}
	}
	want := "isolated\n"
	if p.handler == airgap {
		want = selfSays + "\n"
	}
	if got, err := p.try("none-audit self"); err != nil || got != want {
		t.Errorf("none-audit self: %v, %q, want %q", err, got, want)
	}
	if got := p.n.m.Run(t, harness.Bin("none-audit"), p.netns()); !strings.Contains(got, "isolated") || strings.Contains(got, "not isolated") {
		t.Errorf("none-audit on the node: %s", got)
	}
}

// apart: what listens in one pod is not there in the other.
func apart(t *testing.T, a, b *pod) {
	t.Helper()
	if a.netns() == b.netns() {
		t.Errorf("two pods share %s", a.netns())
	}
	a.add("only-here", "exec nc -ll -p 1025 -e echo hello")
	harness.Eventually(t, "the second container listens", func() error {
		_, err := a.try("nc -w 5 127.0.0.1 1025 </dev/null")
		return err
	})
	if got, err := b.try("nc -w 30 127.0.0.1 1025 </dev/null"); err == nil || !strings.Contains(got, "refused") {
		t.Errorf("a pod reaches another one's loopback: %v, %s", err, got)
	}
}

// sidecar: containers of one pod share its loopback, and have a log each.
func sidecar(t *testing.T, p *pod) {
	t.Helper()
	id := p.add("sidecar", "echo this is the sidecar; exec sleep 100000")
	if got, err := p.n.exec(id, "nc -w 30 127.0.0.1 1024 </dev/null; none-audit self"); err != nil || got != "hello\n"+selfSays+"\n" {
		t.Errorf("a second container of the pod: %v, %s", err, got)
	}
	if _, err := p.n.exec(id, "exit 7"); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("the exit status of an exec: %v", err)
	}
	log := filepath.Join(p.config.LogDirectory, p.config.Metadata.Name+"-sidecar")
	harness.Eventually(t, "the container's log", func() error {
		if !strings.Contains(p.n.m.Read(t, log), "stdout F this is the sidecar") {
			return harness.ErrNotYet
		}
		return nil
	})
}

// late puts an interface into the namespace of a running pod. gVisor has looked
// once, at the start: the pod does not get it. The node's audit sees it.
func late(t *testing.T, p *pod) {
	t.Helper()
	script := `ip link add late0 type veth peer name late1
		touch /run/netns/late && mount --bind "$0" /run/netns/late
		ip link set late1 netns late
		ip -n late address add 10.9.9.2/24 dev late1 && ip -n late link set late1 up
		ip address add 10.9.9.1/24 dev late0 && ip link set late0 up`
	p.n.m.Run(t, "sh", "-ec", script, p.netns())
	defer p.n.m.Run(t, "sh", "-ec", "ip link del late0; umount /run/netns/late; rm /run/netns/late")
	if got := p.n.m.Run(t, "ip", "-n", "late", "link"); !strings.Contains(got, "late1") {
		t.Fatalf("the namespace did not get the interface: %s", got)
	}
	if got := p.inside("ip -o link"); strings.Contains(got, "late1") {
		t.Errorf("gVisor took an interface that came late: %s", got)
	}
	if got, err := p.try("nc -w 30 10.9.9.1 80 </dev/null"); err == nil || !strings.Contains(got, "Network is unreachable") {
		t.Errorf("a way out by an interface that came late: %v, %s", err, got)
	}
	out, err := p.n.m.Command(harness.Bin("none-audit"), p.netns()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "late1") {
		t.Errorf("none-audit on the node does not see it: %v, %s", err, out)
	}
}

// nothingLeft looks for what pods leave on a node.
func nothingLeft(t *testing.T, n *node) {
	t.Helper()
	for _, pattern := range []string{
		"/var/lib/cni/results/*", "/var/lib/cni/networks/*/[0-9]*", "/run/netns/*",
		"/run/containerd/io.containerd.runtime.v2.task/k8s.io/*", "/run/containerd/runsc/k8s.io/*",
	} {
		left, err := filepath.Glob(n.m.Path(pattern))
		// One empty namespace, which runsc shares among its helpers (runsc/sandbox).
		left = slices.DeleteFunc(left, func(path string) bool { return strings.HasSuffix(path, "/null-netns") })
		if err != nil || len(left) > 0 {
			t.Errorf("left on the node: %q, %v", left, err)
		}
	}
	if out := n.m.Run(t, "ps", "-eo", "args"); strings.Contains(out, "runsc") {
		t.Errorf("processes of gVisor are left:\n%s", out)
	}
	if _, err := os.Stat(n.m.Path("/run/netns")); err != nil {
		t.Errorf("there are no namespaces to look for: %v", err)
	}
}
