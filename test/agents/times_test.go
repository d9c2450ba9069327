package agents

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/harness"
)

var rounds = flag.Int("rounds", 1, "how often each way is timed, in random order")

// times measures from a claim to the end of its first exec, as run.sh does both,
// with and without a pool. It compares nothing with a limit.
func times(t *testing.T, s suite) {
	s.Apply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: times}}")
	defer s.Remove(t, "namespace", "times")
	type way struct {
		class string
		pool  bool
	}
	var ways []way
	for _, class := range append([]string{""}, classes...) {
		var pairs []string
		if class == "" {
			pairs = unproven
		}
		for _, pool := range []bool{false, true} {
			ways = append(ways, way{class, pool})
			name := fmt.Sprintf("t%s-%v", class, pool)
			s.Apply(t, fmt.Sprintf("apiVersion: extensions.agents.x-k8s.io/v1alpha1\nkind: SandboxTemplate\nmetadata: {name: %s, namespace: times}\nspec:\n%s", name, podSpec(t, class, pairs...)))
		}
	}
	took := map[way][]time.Duration{}
	for range *rounds {
		rand.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
		for _, w := range ways {
			took[w] = append(took[w], s.timeClaim(t, fmt.Sprintf("t%s-%v", w.class, w.pool), w.pool))
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "| from claim to first exec | no pool | a pool |\n|---|--:|--:|\n")
	base := median(took[way{"", false}])
	for _, class := range append([]string{""}, classes...) {
		fmt.Fprintf(&table, "| %s |", map[string]string{"": "a bridge, runc", "airgap": "`airgap`, runc", "airgap-gvisor": "`airgap-gvisor`"}[class])
		for _, pool := range []bool{false, true} {
			m := median(took[way{class, pool}])
			fmt.Fprintf(&table, " %.2f s (%.2f) |", m.Seconds(), m.Seconds()/base.Seconds())
		}
		fmt.Fprintln(&table)
	}
	t.Logf("medians of %d, and their ratio to the first:\n%s", *rounds, table.String())
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// timeClaim times one claim; its pool is made first, and is gone afterwards.
func (s suite) timeClaim(t *testing.T, template string, pool bool) time.Duration {
	t.Helper()
	if pool {
		s.Apply(t, fmt.Sprintf("{apiVersion: extensions.agents.x-k8s.io/v1alpha1, kind: SandboxWarmPool, metadata: {name: %s, namespace: times}, spec: {replicas: 1, sandboxTemplateRef: {name: %[1]s}}}", template))
		harness.Poll(t, "the pool is filled", func() (bool, string) {
			got, err := s.Kubectl("get", "sandboxwarmpool", "-n", "times", template, "-o", "jsonpath={.status.readyReplicas}")
			return err == nil && got == "1", got
		})
	}
	out := s.sh(t, fmt.Sprintf(`
start=$(date +%%s%%N)
kubectl create -f - >/dev/null <<YAML
{apiVersion: extensions.agents.x-k8s.io/v1alpha1, kind: SandboxClaim, metadata: {name: %[1]s, namespace: times}, spec: {sandboxTemplateRef: {name: %[1]s}}}
YAML
kubectl wait -n times --for=condition=Ready --timeout=200s sandboxclaim/%[1]s >/dev/null
pod=$(kubectl get -n times sandbox %[1]s -o 'jsonpath={.metadata.annotations.agents\.x-k8s\.io/pod-name}')
kubectl exec -n times ${pod:-%[1]s} -c python -- true
echo $(($(date +%%s%%N) - start)) ${pod:+adopted}`, template))
	s.Remove(t, "sandboxwarmpool,sandboxclaim", "-n", "times", template)
	harness.Poll(t, "its pods are gone", func() (bool, string) {
		got, err := s.Kubectl("get", "pods,sandboxes", "-n", "times", "-o", "name")
		return err == nil && got == "", got
	})
	var ns int64
	var adopted string
	if _, err := fmt.Sscan(out, &ns, &adopted); err != nil && (pool || ns == 0) {
		t.Fatalf("claim of %s, pool %v: %q", template, pool, out)
	}
	if (adopted == "adopted") != pool {
		t.Errorf("claim of %s, pool %v: %q", template, pool, out)
	}
	return time.Duration(ns)
}
