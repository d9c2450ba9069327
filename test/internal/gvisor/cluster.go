package gvisor

import (
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// Cluster makes the machine, which cluster.Furnish has furnished, a cluster of one
// such node, with our classes and policies as they are shipped.
func Cluster(tb testing.TB, m *machine.Machine, images ...image.Image) *cluster.Cluster {
	tb.Helper()
	c := cluster.Start(tb, cluster.Config{
		Version: "134", Machine: m, Address: cluster.NodeAddress, Controllers: "*", Scheduler: true,
		// On by default from 1.36 on.
		Args: []string{"--feature-gates=MutatingAdmissionPolicy=true", "--runtime-config=admissionregistration.k8s.io/v1beta1=true"},
	})
	Node(tb, m, "2.4", 4, append(images, image.Own())...)
	c.Kubelet(tb)
	for line := range strings.Lines(harness.Block(tb, Page, "class")) {
		c.MustKubectl(tb, strings.Fields(strings.TrimPrefix(line, "kubectl "))...)
	}
	c.MustKubectl(tb, "apply", "-k", harness.Repo("deploy/kubernetes/policy"))
	c.MustKubectl(tb, "apply", "-k", harness.Repo("deploy/kubernetes/policy/defaults-v1beta1"))
	return c
}
