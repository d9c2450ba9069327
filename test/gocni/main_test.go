// Package gocni drives the none plugin through github.com/containerd/go-cni,
// the layer between nerdctl or containerd and CNI plugins, with the conflist
// and the commands that the project ships.
//
// nerdctl itself is in neither Debian 12 nor the Go module proxy, so it is not
// run here. What is tested is every call that it makes of its library.
//
// go-cni keeps libcni's cache in /var/lib/cni and cannot be told otherwise. So
// the tests run on a machine of their own, in which writing to /etc, /opt and
// /var/lib does not reach the real ones.
package gocni

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cni-none/cni-none/internal/machine"
)

func TestMain(m *testing.M) {
	machine.Main(m, machine.Config{Lacking: lacking, Furnish: furnish})
}

// lacking names what the tests need and this machine does not have.
func lacking() string {
	for program, remedy := range map[string]string{
		"none":                  "make build",
		"cniplugins/bridge":     "tools/build.sh cniplugins",
		"cniplugins/host-local": "tools/build.sh cniplugins",
		"cniplugins/loopback":   "tools/build.sh cniplugins",
	} {
		if _, err := os.Stat(filepath.Join(machine.Repo(), "bin", program)); err != nil {
			return fmt.Sprintf("%v: run %s", err, remedy)
		}
	}
	return ""
}

// furnish lays a tmpfs over the directories that the tests write to.
func furnish() error {
	if err := machine.Tmpfs("/run"); err != nil {
		return err
	}
	if err := machine.Overlay("/etc", "/opt", "/var/lib"); err != nil {
		return err
	}
	for _, dir := range []string{"/etc/cni", "/opt/cni", "/var/lib/cni"} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return os.Setenv("TMPDIR", "/run")
}
