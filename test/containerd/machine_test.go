// Package containerd drives the none plugin through the CRI of real containerd
// daemons: Debian's 1.6, and 1.7 and 2.4 built from their Go modules. It runs
// the commands and the configs of docs/containerd.md and conf/ as they are, and
// looks from inside the containers and at the host.
//
// The tests run on a machine of their own, which can be written to at the paths
// that the documentation names.
//
// It does not drive a kubelet: test/kubernetes does.
package containerd

import (
	"net"
	"testing"

	"github.com/cni-none/cni-none/test/internal/machine"
)

func TestMain(m *testing.M) { machine.Main(m, machine.Config{}) }

// interfaces lists what the machine's network namespace holds.
func interfaces(t *testing.T) []string {
	t.Helper()
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}
