// Package gvisor gives a machine the real gVisor, as an operator does: runsc and
// its shim in a folder, and a handler gvisor in containerd's config.
package gvisor

import (
	"os"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/containerd"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// Dir is the folder with runsc and the shim, for the PATH of a containerd.
const Dir = "/opt/gvisor"

// handlers, by the version of containerd's config. With version 2 a config that
// names a handler loses the runc that is built in.
var handlers = map[int]string{
	2: `
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gvisor]
  runtime_type = "io.containerd.runsc.v1"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gvisor.options]
    TypeUrl = "io.containerd.runsc.v1.options"
    ConfigPath = "/etc/containerd/runsc.toml"
`,
	3: `version = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.gvisor]
  runtime_type = 'io.containerd.runsc.v1'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.gvisor.options]
    TypeUrl = 'io.containerd.runsc.v1.options'
    ConfigPath = '/etc/containerd/runsc.toml'
`,
}

// Install gives the machine gVisor; its containerd has a config of that version, in
// its place, and is started afterwards.
func Install(tb testing.TB, m *machine.Machine, config int) {
	tb.Helper()
	tb.Logf("gVisor: %s", strings.TrimSpace(harness.Read(tb, harness.Bin("gvisor/built"))))
	if err := os.MkdirAll(m.Path(Dir), 0o755); err != nil {
		tb.Fatal(err)
	}
	// containerd makes the shim's name of the runtime type, io.containerd.runsc.v1.
	for name, program := range map[string]string{"runsc": "runsc", "containerd-shim-runsc-v1": "shim"} {
		if err := os.Symlink(harness.Bin("gvisor", program), m.Path(Dir+"/"+name)); err != nil {
			tb.Fatal(err)
		}
	}
	m.Write(tb, "/etc/containerd/runsc.toml", "[runsc_config]\n  platform = \"systrap\"\n", 0o644)
	if config == 2 {
		m.Write(tb, containerd.ConfigFile, m.Read(tb, containerd.ConfigFile)+handlers[2], 0o644)
		return
	}
	m.Write(tb, containerd.DropIns+"/gvisor.toml", handlers[3], 0o644)
}
