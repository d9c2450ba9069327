//go:build bench

package containerd

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// TestSandboxTimes measures, and fails for no figure: RunPodSandbox and
// StopPodSandbox of sandboxes without a network beside ordinary ones, in random
// order within each round. The table also goes to the file in $TIMES.
//
//	go test -tags bench -run TestSandboxTimes -v .
func TestSandboxTimes(t *testing.T) {
	const rounds = 30
	random := harness.Random(t)
	n := v4.start(t)
	handlers := []string{airgap, ""}
	run, stop := map[string][]time.Duration{}, map[string][]time.Duration{}
	for round := range rounds + 1 {
		random.Shuffle(len(handlers), func(i, j int) { handlers[i], handlers[j] = handlers[j], handlers[i] })
		for _, handler := range handlers {
			config := n.podConfig()
			start := time.Now()
			p, err := n.try(handler, config)
			ran := time.Since(start)
			if err != nil {
				t.Fatalf("handler %q: %v", handler, err)
			}
			// The positive control: each has the network that its name says.
			if ips := p.ips(); (ips[0] == "192.0.0.8" || strings.HasPrefix(ips[0], "100:0:0:1:") || strings.HasPrefix(ips[0], "100::1:")) != (handler == airgap) {
				t.Fatalf("handler %q: containerd reports %v", handler, ips)
			}
			start = time.Now()
			p.stop()
			stopped := time.Since(start)
			p.remove()
			if round > 0 { // the first one warms up
				run[handler], stop[handler] = append(run[handler], ran), append(stop[handler], stopped)
			}
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\ncontainerd 2.4: %d sandboxes of each, median (p90) in ms.\n\n| sandbox | RunPodSandbox | StopPodSandbox |\n|---|--:|--:|\n", rounds)
	for _, handler := range []string{airgap, ""} {
		name := handler
		if name == "" {
			name = "bridge + host-local"
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", name, times(run[handler]), times(stop[handler]))
	}
	t.Log(table.String())
	if file := os.Getenv("TIMES"); file != "" {
		if err := os.WriteFile(file, []byte(table.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

func times(d []time.Duration) string {
	slices.Sort(d)
	ms := func(q int) float64 { return float64(d[len(d)*q/10]) / float64(time.Millisecond) }
	return fmt.Sprintf("%.1f (%.1f)", ms(5), ms(9))
}
