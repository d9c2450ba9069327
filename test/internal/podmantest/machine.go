// Package podmantest sets up the machine that tests of podman and Docker run on, and
// looks at it and into its containers. A test uses the runtimes with the paths that
// they have by default and the commands of docs/podman.md word for word.
package podmantest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/cni-none/cni-none/test/internal/machine"
)

// Main is TestMain for a package whose tests use podman or Docker.
func Main(m *testing.M) {
	machine.Main(m, machine.Config{Furnish: furnish, Cgroups: []string{"libpod_parent", "docker", "default"}})
}

func furnish() error {
	// The machine's own names would show in every container.
	files := map[string]string{
		"/etc/hosts":       "127.0.0.1 localhost\n",
		"/etc/resolv.conf": "nameserver 192.0.2.53\n",
	}
	for path, text := range files {
		os.Remove(path) // may be a link into the machine's /run
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	// 192.0.2.1 is reachable from here, and from every container that has a
	// way out: the positive control for the ones that have none.
	if out, err := exec.Command("/bin/busybox", "ip", "address", "add", "192.0.2.1/32", "dev", "lo").CombinedOutput(); err != nil {
		return fmt.Errorf("ip address add: %s: %w", out, err)
	}
	return nil
}
