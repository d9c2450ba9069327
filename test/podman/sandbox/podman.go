package sandbox

import (
	"os"
	"testing"
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

// Podman sets podman up as docs/runtimes.md says, word for word, image included.
func Podman(t testing.TB) {
	t.Helper()
	Write(t, "/etc/containers/containers.conf.d/90-machine.conf", settings)
	doc := ReadDoc(t, "docs/runtimes.md", "podman").Under(t, "From nothing")
	install, image := doc.Commands()[0], doc.Commands()[1]
	Run(t, "sh", "-euc", install)
	if _, err := Try(t, "podman", "image", "exists", "busybox"); err != nil {
		Run(t, "sh", "-euc", image)
	}
	Plugin(t, "/opt/cni/bin/none")
}

// Plugin puts the program named in NONE_PLUGIN in the place of the plugin.
// That is how to see what the tests are worth: with another program, upstream's
// loopback for one, they must fail.
func Plugin(t testing.TB, path string) {
	t.Helper()
	if p := os.Getenv("NONE_PLUGIN"); p != "" {
		Run(t, "install", "-m", "755", p, path)
	}
}
