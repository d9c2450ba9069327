package containerd

import (
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

const airgap = "airgap" // the handler of conf/containerd/

// TestPods takes pods of the handler through their life on every kind of node,
// beside pods of the default handler, which have the cluster's network.
func TestPods(t *testing.T) {
	for _, k := range []kind{debian, v17, upgrade, v3, v4} {
		t.Run(k.name, func(t *testing.T) {
			n := k.start(t)
			listener := listen(t)

			ordinary := n.runPod("")
			first, second := n.runPod(airgap), n.runPod(airgap)

			hasClusterNetwork(t, ordinary, listener)
			hasLoopbackOnly(t, first, listener)
			hasLoopbackOnly(t, second, listener)
			if a, b := netns(first), netns(second); a == b {
				t.Errorf("two pods share one network namespace, %s", a)
			}
			isPerContainer(t, first, second)
			if veths := count(interfaces(t), "veth"); veths != 1 {
				t.Errorf("%d veth interfaces on the host, want that of the ordinary pod only", veths)
			}

			before := first.ips()
			n.restart()
			hasClusterNetwork(t, ordinary, listener)
			hasLoopbackOnly(t, first, listener)
			if after := first.ips(); !slices.Equal(before, after) {
				t.Errorf("containerd reports %v for the pod, and %v before its restart", after, before)
			}
			third := n.runPod(airgap)
			hasLoopbackOnly(t, third, listener)

			// Stopping one pod, even twice, touches no other.
			first.stop()
			first.stop()
			first.remove()
			hasLoopbackOnly(t, second, listener)
			hasClusterNetwork(t, ordinary, listener)

			// A pod whose containerd was away when it was removed.
			n.restart()
			second.stop()
			second.remove()
			hasLoopbackOnly(t, third, listener)
			third.stop()
			third.remove()
			for _, left := range n.leftovers() {
				if strings.Contains(left, airgap) {
					t.Errorf("left on the host: %s", left)
				}
			}
			hasClusterNetwork(t, ordinary, listener)
		})
	}
}

// listen answers on every address of the host, the cluster's gateway included.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello\n")
			c.Close()
		}
	}()
	return l
}

// reach tries the listener from inside a pod, at the gateway of the cluster's
// network.
func reach(p *pod, l net.Listener) (string, error) {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return p.inside("nc -w 20 198.18.0.1 " + port + " </dev/null 2>&1")
}

// hasClusterNetwork is the control: what the tests say of pods without a network
// would show if a pod had one.
func hasClusterNetwork(t *testing.T, p *pod, l net.Listener) {
	t.Helper()
	if got, want := links(p), []string{"lo", "eth0"}; !slices.Equal(got, want) {
		t.Errorf("ordinary pod: interfaces %v, want %v", got, want)
	}
	cluster := netip.MustParsePrefix("198.18.0.0/24")
	addrs := addresses(t, p)
	for _, ip := range p.ips() {
		addr, err := netip.ParseAddr(ip)
		if err != nil || !cluster.Contains(addr) || !slices.Contains(addrs, netip.PrefixFrom(addr, 24)) {
			t.Errorf("ordinary pod: containerd reports %s, the pod has %v", ip, addrs)
		}
	}
	if len(routes(p)) == 0 {
		t.Error("ordinary pod: no routes")
	}
	if out, err := reach(p, l); err != nil || out != "hello\n" {
		t.Errorf("ordinary pod cannot reach the host: %q, %v", out, err)
	}
}

// hasLoopbackOnly looks around in a pod of the handler.
func hasLoopbackOnly(t *testing.T, p *pod, l net.Listener) {
	t.Helper()
	if got := links(p); !slices.Equal(got, []string{"lo"}) {
		t.Errorf("interfaces %v, want lo only", got)
	}
	want := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil {
		want = append(want, netip.MustParsePrefix("::1/128"))
	}
	if got := addresses(t, p); !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
	if got := routes(p); len(got) != 0 {
		t.Errorf("routes %v, want none", got)
	}
	if out, err := reach(p, l); err == nil || !strings.Contains(err.Error(), "Network is unreachable") {
		t.Errorf("the host at the cluster's gateway: %q, %v, want that the network is unreachable", out, err)
	}
	for _, prefix := range want {
		addr := prefix.Addr().String()
		if out, err := p.inside("nc -w 20 " + addr + " 1024 </dev/null 2>&1"); err != nil || out != "hello\n" {
			t.Errorf("TCP to %s inside the pod: %q, %v", addr, out, err)
		}
	}
}

// isPerContainer checks the placeholders that the shipped config gives two pods:
// one address of the dummy prefix each, which is neither's.
func isPerContainer(t *testing.T, pods ...*pod) {
	t.Helper()
	dummy := netip.MustParsePrefix("100:0:0:1::/64")
	seen := make(map[netip.Addr]bool)
	for _, p := range pods {
		ips := p.ips()
		addr, err := netip.ParseAddr(ips[0])
		if err != nil || len(ips) != 1 || !dummy.Contains(addr) || seen[addr] {
			t.Errorf("containerd reports %v, want one address of %v that no other pod has", ips, dummy)
		}
		seen[addr] = true
	}
}

// sameAddresses compares addresses, which have more than one spelling.
func sameAddresses(a, b []string) bool {
	return slices.EqualFunc(a, b, func(a, b string) bool {
		x, err := netip.ParseAddr(a)
		y, err2 := netip.ParseAddr(b)
		return err == nil && err2 == nil && x == y
	})
}

// links lists the interfaces that the pod sees.
func links(p *pod) []string {
	p.n.t.Helper()
	var names []string
	for line := range strings.Lines(p.mustInside("ip -o link")) {
		name := strings.TrimSuffix(strings.Fields(line)[1], ":")
		name, _, _ = strings.Cut(name, "@")
		names = append(names, name)
	}
	return names
}

// addresses lists the addresses that the pod has, without link-local ones.
func addresses(t *testing.T, p *pod) []netip.Prefix {
	t.Helper()
	var list []netip.Prefix
	for line := range strings.Lines(p.mustInside("ip -o addr")) {
		fields := strings.Fields(line)
		if !strings.HasPrefix(fields[2], "inet") {
			continue
		}
		prefix, err := netip.ParsePrefix(fields[3])
		if err != nil {
			t.Fatalf("ip -o addr: %q: %v", line, err)
		}
		if !prefix.Addr().IsLinkLocalUnicast() {
			list = append(list, prefix)
		}
	}
	return list
}

// routes lists the pod's routes other than those over lo, as the kernel shows
// them in /proc/net.
func routes(p *pod) []string {
	p.n.t.Helper()
	var list []string
	for line := range strings.Lines(p.mustInside("cat /proc/net/route /proc/net/ipv6_route")) {
		fields := strings.Fields(line)
		if fields[0] != "Iface" && fields[0] != "lo" && fields[len(fields)-1] != "lo" {
			list = append(list, strings.Join(fields, " "))
		}
	}
	return list
}

func netns(p *pod) string {
	p.n.t.Helper()
	return p.mustInside("busybox readlink /proc/self/ns/net")
}

func count(names []string, prefix string) int {
	n := 0
	for _, name := range names {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}
