package podmantest

import (
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// settings is what podman needs on a machine without systemd and without
// CAP_SYS_RESOURCE. It says nothing about networks.
const settings = `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
`

// Podman sets podman up as docs/podman.md says, word for word, image included.
func Podman(t testing.TB) {
	t.Helper()
	harness.Write(t, "/etc/containers/containers.conf.d/90-machine.conf", settings, 0o644)
	doc := ReadDoc(t, "docs/podman.md").Under(t, "Install")
	install, image := doc.Commands()[0], doc.Commands()[1]
	Run(t, "sh", "-euc", install)
	if _, err := Try(t, "podman", "image", "exists", "busybox"); err != nil {
		Run(t, "sh", "-euc", image)
	}
	harness.ReplacePlugin(t, "/opt/cni/bin/none")
}
