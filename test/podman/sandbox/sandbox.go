// Package sandbox is the machine (internal/machine) that tests of podman and
// Docker run on: /etc, /opt and /var as they are but written to memory, and an
// empty /run. So a test uses the runtimes with the paths that they have by
// default and the commands of docs/runtimes.md word for word.
package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/cni-none/cni-none/internal/machine"
)

// Main is TestMain for a package whose tests run in a sandbox. needs lists the
// programs without which they cannot run.
func Main(m *testing.M, needs ...string) {
	before := cgroups()
	machine.Main(m, machine.Config{
		Lacking: func() string {
			for _, name := range needs {
				if _, err := exec.LookPath(name); err != nil {
					return fmt.Sprintf("needs %s: run this through test/run.sh, which installs it", name)
				}
			}
			return ""
		},
		Furnish: furnish,
		Cleanup: func() error {
			// Deepest first. One that is in use stays: rmdir refuses it.
			for _, dir := range slices.Backward(cgroups()) {
				if !slices.Contains(before, dir) {
					os.Remove(dir)
				}
			}
			return nil
		},
	})
}

func furnish() error {
	if err := machine.Tmpfs("/run", "/dev/shm"); err != nil { // podman keeps its locks in /dev/shm
		return err
	}
	if err := machine.Overlay("/etc", "/opt", "/var"); err != nil {
		return err
	}
	err := machine.Tmpfs(
		// An overlay cannot be the upper layer of another one, and this is
		// where the runtimes keep theirs.
		"/var/lib/containers", "/var/lib/containerd", "/var/lib/docker",
		// What the machine's own runtimes have there is none of the test's business.
		"/etc/cni", "/opt/cni", "/var/lib/cni")
	if err != nil {
		return err
	}
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
	if err := os.MkdirAll("/run/lock", 0o755); err != nil {
		return err
	}
	// 192.0.2.1 is reachable from here, and from every container that has a
	// way out: the positive control for the ones that have none.
	if out, err := exec.Command("/bin/busybox", "ip", "address", "add", "192.0.2.1/32", "dev", "lo").CombinedOutput(); err != nil {
		return fmt.Errorf("ip address add: %s: %w", out, err)
	}
	return nil
}

// cgroups lists the control groups that podman, Docker and ctr make by default.
func cgroups() []string {
	return slices.Concat(machine.Cgroups("libpod_parent"), machine.Cgroups("docker"), machine.Cgroups("default"))
}
