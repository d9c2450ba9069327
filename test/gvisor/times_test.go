//go:build bench

package gvisor

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cni-none/cni-none/test/internal/harness"
)

var rounds = flag.Int("rounds", 30, "how many sandboxes of each sort")

// sorts of sandboxes, in the order of the table. The first is the floor: no CNI at all.
var sorts = []struct {
	name, handler string
	network       cri.NamespaceMode
	prefix        string // of the addresses that containerd reports
}{
	{"hostNetwork, no CNI at all", "", cri.NamespaceMode_NODE, ""},
	{"`airgap`", "airgap", cri.NamespaceMode_POD, "100:"},
	{"bridge + host-local", "", cri.NamespaceMode_POD, "10.244."},
	{"`airgap-gvisor`", airgap, cri.NamespaceMode_POD, "100:"},
	{"gVisor, bridge + host-local", "gvisor", cri.NamespaceMode_POD, "10.244."},
}

// TestSandboxTimes measures, and fails for no figure: RunPodSandbox and
// StopPodSandbox of each sort, in random order within each round, on a containerd
// that brings lo up by itself and on one that asks upstream's loopback plugin. The
// table also goes to the file in $TIMES.
func TestSandboxTimes(t *testing.T) {
	var table strings.Builder
	for _, way := range []struct {
		name   string
		config int
	}{{"use_internal_loopback = true", 4}, {"use_internal_loopback = false", 3}} {
		n := newNode(t, "2.4", way.config)
		run, stop := n.timeAll()
		fmt.Fprintf(&table, "\n| containerd 2.4.2, `%s` | RunPodSandbox | × | StopPodSandbox | × |\n|---|--:|--:|--:|--:|\n", way.name)
		for i, sort := range sorts {
			fmt.Fprintf(&table, "| %s | %s | %.2f | %s | %.2f |\n", sort.name, times(run[i]), ratio(run[i], run[0]), times(stop[i]), ratio(stop[i], stop[0]))
		}
	}
	t.Logf("%d of each, median (p90) in ms, and the ratio to hostNetwork\n%s", *rounds, table.String())
	if file := os.Getenv("TIMES"); file != "" {
		if err := os.WriteFile(file, []byte(table.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// timeAll returns the times of each sort.
func (n *node) timeAll() (run, stop [][]time.Duration) {
	random := harness.Random(n.t)
	run, stop = make([][]time.Duration, len(sorts)), make([][]time.Duration, len(sorts))
	for round := range *rounds + 1 {
		for _, i := range random.Perm(len(sorts)) {
			start := time.Now()
			p := n.sandbox(sorts[i].handler, sorts[i].network)
			ran := time.Since(start)
			// The positive control: each has the network that its name says.
			if ip := p.ip(); !strings.HasPrefix(ip, sorts[i].prefix) || sorts[i].prefix == "" && ip != "" {
				n.t.Fatalf("%s: containerd reports %q", sorts[i].name, ip)
			}
			start = time.Now()
			if _, err := n.StopPodSandbox(harness.Context(n.t), &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
				n.t.Fatal(err)
			}
			stopped := time.Since(start)
			n.Remove(n.t, p.id)
			if round > 0 { // the first one warms up
				run[i], stop[i] = append(run[i], ran), append(stop[i], stopped)
			}
		}
	}
	return run, stop
}

// ip is the address that containerd reports.
func (p *pod) ip() string {
	p.n.t.Helper()
	r, err := p.n.PodSandboxStatus(harness.Context(p.n.t), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		p.n.t.Fatal(err)
	}
	return r.Status.Network.Ip
}

func times(d []time.Duration) string {
	slices.Sort(d)
	ms := func(q int) float64 { return float64(d[len(d)*q/10]) / float64(time.Millisecond) }
	return fmt.Sprintf("%.1f (%.1f)", ms(5), ms(9))
}

func ratio(d, floor []time.Duration) float64 {
	slices.Sort(d)
	slices.Sort(floor)
	return float64(d[len(d)/2]) / float64(floor[len(floor)/2])
}
