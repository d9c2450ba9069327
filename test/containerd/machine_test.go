// Package containerd drives the none plugin through the CRI of real containerd
// daemons: Debian's 1.6, and 1.7 and 2.4 built from their Go modules. It runs
// the commands and the configs of docs/runtimes.md and conf/ as they are, and
// looks from inside the containers and at the host.
//
// The tests run on a machine of their own, in which /etc, /opt, /usr/lib,
// /var/lib and /run can be written to at the paths that the documentation names.
//
// It does not drive a kubelet: test/kubernetes does.
package containerd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cni-none/cni-none/internal/machine"
)

func TestMain(m *testing.M) {
	machine.Main(m, machine.Config{Lacking: lacking, Furnish: furnish})
}

// lacking names what the tests need and this machine does not have.
func lacking() string {
	for _, program := range []string{"/usr/bin/containerd", "/usr/bin/ctr", "runc", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Sprintf("%v: run tools/debian.sh containerd runc busybox-static", err)
		}
	}
	for _, program := range []string{"containerd17/containerd", "containerd17/containerd-shim-runc-v2", "containerd17/ctr", "containerd24/containerd", "containerd24/containerd-shim-runc-v2", "containerd24/ctr", "cniplugins/bridge", "cniplugins/loopback", "cniplugins/host-local"} {
		if _, err := os.Stat(filepath.Join(machine.Repo(), "bin", program)); err != nil {
			return fmt.Sprintf("%v: run tools/build.sh containerd17 containerd24 cniplugins", err)
		}
	}
	if _, err := os.Stat(filepath.Join(machine.Repo(), "bin", "none")); err != nil {
		return fmt.Sprintf("%v: run make build", err)
	}
	return ""
}

// furnish makes the directories that the documentation writes to writable
// without touching the real ones.
func furnish() error {
	err := machine.Tmpfs("/run")
	if err == nil {
		err = machine.Overlay("/etc", "/opt", "/usr/lib", "/var/lib")
	}
	if err == nil {
		// A tmpfs, since containerd's own overlays cannot stand on an overlay.
		err = machine.Tmpfs("/var/lib/containerd")
	}
	if err == nil {
		err = os.Setenv("TMPDIR", "/run")
	}
	return err
}

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
