// Package gvisor makes a machine a node with the real gVisor and with the handlers
// airgap and airgap-gvisor, in the way that docs/gvisor.md tells an operator.
package gvisor

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/containerd"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

const (
	// Page is the documentation that is followed.
	Page = "docs/gvisor.md"

	dir = "/opt/gvisor" // of runsc and the shim, in containerd's PATH
)

const bridge = `{"cniVersion": "1.0.0", "name": "cluster", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`

// runtimes, by the version of containerd's config. With version 2 a config that
// names a handler loses the runc that is built in.
var runtimes = map[int]string{
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

// Node gives the machine a containerd of that version and version of config, which
// knows the images; other pods get a bridge and an address of 10.244.0.0/16.
func Node(tb testing.TB, m *machine.Machine, version string, config int, images ...image.Image) *containerd.Containerd {
	tb.Helper()
	plugins := "/opt/cni/bin"
	if config == 2 {
		plugins = "/usr/lib/cni"
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback"} {
		harness.Copy(tb, harness.Bin("cniplugins", plugin), m.Path(plugins+"/"+plugin), 0o755)
	}
	m.Write(tb, "/etc/cni/net.d/10-bridge.conflist", bridge, 0o644)
	m.Write(tb, containerd.ConfigFile, containerd.Config(config), 0o644)
	install(tb, m, config)
	c := containerd.Start(tb, m, version, dir)
	images = append(images, image.Busybox(tb, image.Pauses...))
	var names []string
	for _, i := range images {
		names = append(names, i.Names...)
	}
	c.Import(tb, image.Archive(tb, images...), names...)
	handlers(tb, m, c)
	harness.ReplacePlugin(tb, m.Path(plugins+"/none"))
	return c
}

// install puts gVisor where containerd finds it, and its handler into the config of
// that version.
func install(tb testing.TB, m *machine.Machine, config int) {
	tb.Helper()
	tb.Logf("gVisor: %s", strings.TrimSpace(harness.Read(tb, harness.Bin("gvisor/built"))))
	if err := os.MkdirAll(m.Path(dir), 0o755); err != nil {
		tb.Fatal(err)
	}
	// containerd makes the shim's name of the runtime type, io.containerd.runsc.v1.
	for name, program := range map[string]string{"runsc": "runsc", "containerd-shim-runsc-v1": "shim"} {
		if err := os.Symlink(harness.Bin("gvisor", program), m.Path(dir+"/"+name)); err != nil {
			tb.Fatal(err)
		}
	}
	m.Write(tb, "/etc/containerd/runsc.toml", "[runsc_config]\n  platform = \"systrap\"\n", 0o644)
	if config == 2 {
		m.Write(tb, containerd.ConfigFile, m.Read(tb, containerd.ConfigFile)+runtimes[2], 0o644)
		return
	}
	m.Write(tb, containerd.DropIns+"/gvisor.toml", runtimes[3], 0o644)
}

// handlers runs the documented commands, which say that a restart is missing, and
// restarts.
func handlers(tb testing.TB, m *machine.Machine, c *containerd.Containerd) {
	tb.Helper()
	for line := range strings.Lines(harness.Block(tb, Page, "install")) {
		cmd := m.Command("sh", "-ec", line)
		cmd.Env = append(cmd.Env, "PATH="+harness.Bin()+":"+c.Dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() == 3 {
			err = nil
		}
		if err != nil {
			tb.Fatalf("%s: %v\n%s", line, err, out)
		}
		tb.Logf("%s%s", line, out)
	}
	c.Restart(tb)
}
