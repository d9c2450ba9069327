package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cni-none/cni-none/internal/machine"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kind is a sort of node: which containerd, with which config, and which
// commands of docs/runtimes.md give it the handler.
type kind struct {
	name     string
	bin      string // directory of containerd and ctr
	config   string // in testdata
	plugins  string // the config's bin_dir
	commands string // block of docs/runtimes.md
	// noLoopback leaves upstream's loopback plugin out.
	noLoopback bool
}

var (
	containerd17 = filepath.Join(machine.Repo(), "bin/containerd17")
	containerd24 = filepath.Join(machine.Repo(), "bin/containerd24")

	debian  = kind{"1.6 version 2", "/usr/bin", "version2.toml", "/usr/lib/cni", "containerd 1.x install", false}
	v17     = kind{"1.7 version 2", containerd17, "version2.toml", "/usr/lib/cni", "containerd 1.x install", false}
	upgrade = kind{"2.4 version 2", containerd24, "version2.toml", "/usr/lib/cni", "containerd 1.x install", false}
	v3      = kind{"2.4 version 3", containerd24, "version3.toml", "/opt/cni/bin", "containerd 2.x install", false}
	v4      = kind{"2.4 version 4", containerd24, "version4.toml", "/opt/cni/bin", "containerd 2.x install", true}
)

// The test image also bears the names of the pause images that the containerds
// want, so that no config has to say where their sandbox image is.
const image = "docker.io/library/busybox:test"

var imageNames = []string{image, "registry.k8s.io/pause:3.6", "registry.k8s.io/pause:3.8", "registry.k8s.io/pause:3.10.2"}

// The directories that a node's configs and state are in.
const (
	clusterDir = "/etc/cni/net.d"
	airgapDir  = "/etc/cni/airgap.d"
	configFile = "/etc/containerd/config.toml"
	conflist   = airgapDir + "/10-airgap-cri.conflist"
)

// node is a running containerd.
type node struct {
	t *testing.T
	kind
	daemon *exec.Cmd
	log    string
	conn   *grpc.ClientConn
	cri.RuntimeServiceClient
	images cri.ImageServiceClient
	pods   int
}

// patience bounds every wait. It is generous: a slow machine is no failure.
const patience = 2 * time.Minute

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok says yes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited %v in vain for %s", patience, what)
}

// install makes the machine a node of that kind: an ordinary one, and then the
// commands of docs/runtimes.md.
func (k kind) install(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"/etc/cni", "/etc/containerd", "/opt/cni", "/usr/lib/cni"} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	config, _ := filepath.Abs(filepath.Join("testdata", k.config))
	machine.Sh(t, `install -D -m 644 "$CONFIG" /etc/containerd/config.toml
	       install -D -m 755 -t "$PLUGINS" bin/cniplugins/*
	       install -D -m 644 -t /etc/cni/net.d test/containerd/testdata/50-cluster.conflist`,
		"CONFIG="+config, "PLUGINS="+k.plugins)
	if k.noLoopback {
		remove(t, k.plugins+"/loopback")
	}
	machine.Sh(t, machine.Block(t, k.commands))
}

// start installs a node and starts it. When the test ends its pods and its
// daemon are gone, and the test fails if anything else stays.
func (k kind) start(t *testing.T) *node {
	t.Helper()
	k.install(t)
	n := &node{t: t, kind: k, log: filepath.Join(t.TempDir(), "containerd.log")}
	t.Cleanup(func() {
		n.stop()
		if t.Failed() {
			t.Logf("end of containerd's log:\n%s", tail(n.log))
		}
		// The next node is another containerd: nothing of this one's state.
		for _, dir := range []string{"/var/lib/containerd", "/run/containerd", "/var/lib/cni"} {
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				os.RemoveAll(filepath.Join(dir, e.Name()))
			}
		}
	})
	n.run()
	n.program("ctr", "-n", "k8s.io", "images", "import", machine.Image(t, imageNames...))
	eventually(t, "the CRI to see the images", func() bool {
		return !slices.ContainsFunc(imageNames, func(name string) bool {
			r, err := n.images.ImageStatus(deadline(t), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
			return err != nil || r.Image == nil
		})
	})
	t.Cleanup(n.removeAll)
	return n
}

// in makes the node report to a subtest while that runs.
func (n *node) in(t *testing.T) {
	outer := n.t
	n.t = t
	t.Cleanup(func() { n.t = outer })
}

// program runs one of containerd's programs.
func (n *node) program(name string, args ...string) string {
	n.t.Helper()
	out, err := exec.Command(filepath.Join(n.bin, name), args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// launch starts the daemon.
func (n *node) launch() {
	n.t.Helper()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.daemon = exec.Command(filepath.Join(n.bin, "containerd"), "--log-level", "warn")
	// Its own shim, and not that of the other containerd.
	n.daemon.Env = append(os.Environ(), "PATH="+n.bin+":"+os.Getenv("PATH"))
	n.daemon.Stdout, n.daemon.Stderr = log, log
	if err := n.daemon.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.conn, err = grpc.NewClient("unix:///run/containerd/containerd.sock",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// The socket is there in a moment, not in the second of the default.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second}}))
	if err != nil {
		n.t.Fatal(err)
	}
	n.RuntimeServiceClient = cri.NewRuntimeServiceClient(n.conn)
	n.images = cri.NewImageServiceClient(n.conn)
}

// run starts the daemon and waits until its CRI answers.
func (n *node) run() {
	n.t.Helper()
	n.launch()
	eventually(n.t, "containerd's CRI", func() bool {
		r, err := n.Status(deadline(n.t), &cri.StatusRequest{}, grpc.WaitForReady(true))
		return err == nil && !slices.ContainsFunc(r.Status.Conditions, func(c *cri.RuntimeCondition) bool {
			return c.Type == "RuntimeReady" && !c.Status
		})
	})
}

// stop ends the daemon; its shims and containers live on.
func (n *node) stop() {
	if n.daemon == nil {
		return
	}
	n.conn.Close()
	n.daemon.Process.Signal(syscall.SIGTERM)
	n.daemon.Wait()
	n.daemon = nil
}

func (n *node) restart() {
	n.t.Helper()
	n.stop()
	n.run()
}

func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(data, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-30):], []byte("\n")))
}

// pod is a sandbox with one container, which runs until somebody stops it.
type pod struct {
	n         *node
	id        string
	container string
	config    *cri.PodSandboxConfig
}

// podConfig is the pod of docs/runtimes.md under a name of its own.
func (n *node) podConfig() *cri.PodSandboxConfig {
	n.t.Helper()
	config := new(cri.PodSandboxConfig)
	if err := json.Unmarshal([]byte(machine.Block(n.t, "containerd pod.json")), config); err != nil {
		n.t.Fatalf("docs/runtimes.md: pod.json: %v", err)
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
	r, err := n.RunPodSandbox(deadline(n.t), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
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
	created, err := n.CreateContainer(deadline(n.t), &cri.CreateContainerRequest{
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
	if _, err := n.StartContainer(deadline(n.t), &cri.StartContainerRequest{ContainerId: p.container}); err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, "the container to listen on port 1024, 0x400", func() bool {
		return strings.Contains(p.mustInside("cat /proc/net/tcp /proc/net/tcp6"), ":0400 ")
	})
	return p
}

// inside runs a command in the pod's container.
func (p *pod) inside(script string) (string, error) {
	p.n.t.Helper()
	r, err := p.n.ExecSync(deadline(p.n.t), &cri.ExecSyncRequest{ContainerId: p.container, Cmd: []string{"sh", "-c", script}, Timeout: 60})
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
	r, err := p.n.PodSandboxStatus(deadline(p.n.t), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
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
	if _, err := p.n.StopPodSandbox(deadline(p.n.t), &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.n.t.Errorf("stop sandbox %s: %v", p.id, err)
	}
}

func (p *pod) remove() {
	p.n.t.Helper()
	if _, err := p.n.RemovePodSandbox(deadline(p.n.t), &cri.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.n.t.Errorf("remove sandbox %s: %v", p.id, err)
	}
}

// removeAll stops and removes every sandbox and looks for what is left on the
// host.
func (n *node) removeAll() {
	n.t.Helper()
	r, err := n.ListPodSandbox(deadline(n.t), &cri.ListPodSandboxRequest{})
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

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
