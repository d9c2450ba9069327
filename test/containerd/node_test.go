package containerd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cni-none/cni-none/test/internal/containerd"
	"github.com/cni-none/cni-none/test/internal/harness"
	imagepkg "github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// kind is a sort of node: which containerd, with which config, and which
// commands of docs/containerd.md give it the handler.
type kind struct {
	name     string
	version  string // of containerd
	config   int    // version of its config
	plugins  string // the config's bin_dir
	commands string // block of docs/containerd.md
	// noLoopback leaves upstream's loopback plugin out.
	noLoopback bool
}

var (
	debian  = kind{"1.6 version 2", "1.6", 2, "/usr/lib/cni", "containerd 1.x install", false}
	v17     = kind{"1.7 version 2", "1.7", 2, "/usr/lib/cni", "containerd 1.x install", false}
	upgrade = kind{"2.4 version 2", "2.4", 2, "/usr/lib/cni", "containerd 1.x install", false}
	v3      = kind{"2.4 version 3", "2.4", 3, "/opt/cni/bin", "containerd 2.x install", false}
	v4      = kind{"2.4 version 4", "2.4", 4, "/opt/cni/bin", "containerd 2.x install", true}
)

// The test image also bears the names of the pause images that the containerds
// want, so that no config has to say where their sandbox image is.
const image = "docker.io/library/busybox:test"

var imageNames = append([]string{image}, imagepkg.Pauses...)

// The directories that a node's configs and state are in.
const (
	clusterDir = "/etc/cni/net.d"
	airgapDir  = "/etc/cni/airgap.d"
	configFile = containerd.ConfigFile
	conflist   = airgapDir + "/10-airgap-cri.conflist"
)

// page is where the commands, files and errors are that the tests look up.
const page = "docs/containerd.md"

// node is a running containerd.
type node struct {
	t *testing.T
	kind
	*containerd.Containerd
	pods int
}

// install makes the machine a node of that kind: an ordinary one, and then the
// commands of docs/containerd.md.
func (k kind) install(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"/etc/cni", "/etc/containerd", "/opt/cni", "/usr/lib/cni"} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	harness.Write(t, configFile, containerd.Config(k.config), 0o644)
	harness.Sh(t, `install -D -m 755 -t "$PLUGINS" bin/cniplugins/*
	       install -D -m 644 -t /etc/cni/net.d test/containerd/testdata/50-cluster.conflist`, "PLUGINS="+k.plugins)
	if k.noLoopback {
		remove(t, k.plugins+"/loopback")
	}
	harness.Sh(t, harness.Block(t, page, k.commands))
	harness.ReplacePlugin(t, k.plugins+"/none")
}

// start installs a node and starts it. When the test ends its pods and its
// daemon are gone, and the test fails if anything else stays.
func (k kind) start(t *testing.T) *node {
	t.Helper()
	k.install(t)
	n := &node{t: t, kind: k}
	t.Cleanup(func() {
		// The next node is another containerd: nothing of this one's state.
		for _, dir := range []string{"/var/lib/containerd", "/run/containerd", "/var/lib/cni"} {
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				os.RemoveAll(filepath.Join(dir, e.Name()))
			}
		}
	})
	n.Containerd = containerd.Start(t, machine.Here(), k.version, "")
	n.Import(t, imagepkg.Archive(t, imagepkg.Busybox(t, imageNames...)), imageNames...)
	t.Cleanup(n.removeAll)
	return n
}

// in makes the node report to a subtest while that runs.
func (n *node) in(t *testing.T) {
	outer := n.t
	n.t = t
	t.Cleanup(func() { n.t = outer })
}

func (n *node) restart() {
	n.t.Helper()
	n.Restart(n.t)
}

// pod is a sandbox with one container, which runs until it is stopped.
type pod struct {
	n         *node
	id        string
	container string
	config    *cri.PodSandboxConfig
}

// podConfig is the pod of docs/containerd.md under a name of its own.
func (n *node) podConfig() *cri.PodSandboxConfig {
	n.t.Helper()
	config := new(cri.PodSandboxConfig)
	if err := json.Unmarshal([]byte(harness.Block(n.t, page, "containerd pod.json")), config); err != nil {
		n.t.Fatalf("docs/containerd.md: pod.json: %v", err)
	}
	n.pods++
	config.Metadata.Uid = fmt.Sprintf("%s-%d", config.Metadata.Name, n.pods)
	config.Metadata.Attempt = uint32(n.pods)
	// Below a control group that the test can find again.
	config.Linux = &cri.LinuxPodSandboxConfig{CgroupParent: "/" + machine.Cgroup()}
	return config
}

// try asks for a sandbox and returns containerd's answer.
func (n *node) try(handler string, config *cri.PodSandboxConfig) (*pod, error) {
	r, err := n.RunPodSandbox(harness.Context(n.t), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		return nil, err
	}
	return &pod{n: n, id: r.PodSandboxId, config: config}, nil
}

// runPod runs a sandbox and a container in it.
func (n *node) runPod(handler string) *pod {
	n.t.Helper()
	p, err := n.try(handler, n.podConfig())
	if err != nil {
		n.t.Fatalf("handler %q: %v", handler, err)
	}
	created, err := n.CreateContainer(harness.Context(n.t), &cri.CreateContainerRequest{
		PodSandboxId:  p.id,
		SandboxConfig: p.config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main"},
			Image:    &cri.ImageSpec{Image: image},
			Command:  []string{"nc", "-ll", "-p", "1024", "-e", "echo", "hello"},
			Linux:    &cri.LinuxContainerConfig{},
		},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	p.container = created.ContainerId
	if _, err := n.StartContainer(harness.Context(n.t), &cri.StartContainerRequest{ContainerId: p.container}); err != nil {
		n.t.Fatal(err)
	}
	harness.Until(n.t, "the container to listen on port 1024, 0x400", func() bool {
		return strings.Contains(p.mustInside("cat /proc/net/tcp /proc/net/tcp6"), ":0400 ")
	})
	return p
}

// inside runs a command in the pod's container.
func (p *pod) inside(script string) (string, error) {
	p.n.t.Helper()
	r, err := p.n.ExecSync(harness.Context(p.n.t), &cri.ExecSyncRequest{ContainerId: p.container, Cmd: []string{"sh", "-c", script}, Timeout: 60})
	if err != nil {
		p.n.t.Fatalf("exec %q: %v", script, err)
	}
	if r.ExitCode != 0 {
		return "", fmt.Errorf("exit %d: %s%s", r.ExitCode, r.Stdout, r.Stderr)
	}
	return string(r.Stdout), nil
}

func (p *pod) mustInside(script string) string {
	p.n.t.Helper()
	out, err := p.inside(script)
	if err != nil {
		p.n.t.Fatalf("%s: %v", script, err)
	}
	return out
}

// ips are the addresses that containerd reports for the pod, which a kubelet
// would pass on.
func (p *pod) ips() []string {
	p.n.t.Helper()
	r, err := p.n.PodSandboxStatus(harness.Context(p.n.t), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		p.n.t.Fatal(err)
	}
	if r.Status.State != cri.PodSandboxState_SANDBOX_READY {
		p.n.t.Errorf("sandbox %s is %v", p.id, r.Status.State)
	}
	ips := []string{r.Status.Network.Ip}
	for _, ip := range r.Status.Network.AdditionalIps {
		ips = append(ips, ip.Ip)
	}
	return ips
}

func (p *pod) stop() {
	p.n.t.Helper()
	if _, err := p.n.StopPodSandbox(harness.Context(p.n.t), &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.n.t.Errorf("stop sandbox %s: %v", p.id, err)
	}
}

func (p *pod) remove() {
	p.n.t.Helper()
	if _, err := p.n.RemovePodSandbox(harness.Context(p.n.t), &cri.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.n.t.Errorf("remove sandbox %s: %v", p.id, err)
	}
}

// removeAll stops and removes every sandbox and looks for what is left on the
// host.
func (n *node) removeAll() {
	n.t.Helper()
	r, err := n.ListPodSandbox(harness.Context(n.t), &cri.ListPodSandboxRequest{})
	if err != nil {
		n.t.Errorf("list sandboxes: %v", err)
		return
	}
	for _, item := range r.Items {
		p := &pod{n: n, id: item.Id}
		p.stop()
		p.remove()
	}
	for _, left := range n.leftovers() {
		n.t.Errorf("left on the host: %s", left)
	}
}

// leftovers lists what pods leave on a host: libcni's cache, host-local's
// leases, mounted namespaces and root filesystems, interfaces, control groups
// and shims. On a node without pods there is none of it.
func (n *node) leftovers() []string {
	n.t.Helper()
	var left []string
	for _, pattern := range []string{
		"/var/lib/cni/results/*", "/var/lib/cni/networks/*/[0-9]*", "/run/netns/*",
		"/sys/fs/cgroup/" + machine.Cgroup() + "/*/", "/sys/fs/cgroup/*/" + machine.Cgroup() + "/*/",
		"/run/containerd/io.containerd.runtime.v2.task/k8s.io/*",
	} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			n.t.Fatal(err)
		}
		left = append(left, matches...)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if point := strings.Fields(line)[1]; strings.HasPrefix(point, "/run/netns/") || strings.HasPrefix(point, "/run/containerd/") {
			left = append(left, "mount "+point)
		}
	}
	for _, name := range interfaces(n.t) {
		if strings.HasPrefix(name, "veth") {
			left = append(left, "interface "+name)
		}
	}
	return left
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
