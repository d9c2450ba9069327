// Package gvisor runs containers of the real gVisor on the none network: through
// the CRI of containerd 1.7 and 2.4, and below a kubelet with the shipped sample,
// class and policies. test/isolation has the attacks from inside.
package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/containerd"
	"github.com/cni-none/cni-none/test/internal/gvisor"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

func TestMain(m *testing.M) {
	machine.Main(m, machine.Config{Several: true, Furnish: cluster.Furnish})
}

const (
	page   = "docs/gvisor.md"
	airgap = "airgap-gvisor"
	// The image of all containers: busybox and none-audit.
	busybox = "docker.io/library/busybox:1.35.0"
)

const bridgeConf = `{"cniVersion": "1.0.0", "name": "cluster", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`

// node is a machine with a containerd that has gVisor, and handlers from none-install.
type node struct {
	t *testing.T
	m *machine.Machine
	*containerd.Containerd
	pods int
}

// newNode makes one. The commands are those of the documentation.
func newNode(t *testing.T, version string) *node {
	t.Helper()
	n := &node{t: t, m: machine.New(t)}
	config, plugins := 4, "/opt/cni/bin"
	if version == "1.7" {
		config, plugins = 2, "/usr/lib/cni"
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback"} {
		harness.Copy(t, harness.Bin("cniplugins", plugin), n.m.Path(plugins+"/"+plugin), 0o755)
	}
	n.m.Write(t, "/etc/cni/net.d/10-bridge.conflist", bridgeConf, 0o644)
	n.m.Write(t, containerd.ConfigFile, containerd.Config(config), 0o644)
	gvisor.Install(t, n.m, config)
	n.Containerd = containerd.Start(t, n.m, version, gvisor.Dir)
	names := append([]string{busybox, "localhost/none-audit:latest"}, image.Pauses...)
	i := image.Busybox(t, names...)
	i.Files["bin/none-audit"] = harness.Bin("none-audit")
	i.Files["none-audit"] = harness.Bin("none-audit")
	n.Import(t, image.Archive(t, i), names...)
	t.Cleanup(n.removePods)
	n.m.Daemon(t, "", "busybox", "nc", "-ll", "-p", "1026", "-e", "echo", "the node")
	n.install()
	harness.ReplacePlugin(t, n.m.Path(plugins+"/none"))
	return n
}

// install runs the documented commands, which say that a restart is missing, and restarts.
func (n *node) install() {
	n.t.Helper()
	for line := range strings.Lines(harness.Block(n.t, page, "install")) {
		cmd := n.m.Command("sh", "-ec", line)
		cmd.Env = append(cmd.Env, "PATH="+harness.Bin()+":"+n.Dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() == 3 {
			err = nil
		}
		if err != nil {
			n.t.Fatalf("%s: %v\n%s", line, err, out)
		}
		n.t.Logf("%s%s", line, out)
	}
	n.Restart(n.t)
}

func (n *node) removePods() {
	r, err := n.ListPodSandbox(harness.Context(n.t), &cri.ListPodSandboxRequest{})
	if err != nil {
		n.t.Errorf("list sandboxes: %v", err)
		return
	}
	for _, item := range r.Items {
		n.Remove(n.t, item.Id)
	}
}

// pod is a sandbox with a container, which listens on every address of its own.
type pod struct {
	n         *node
	id        string
	container string
	config    *cri.PodSandboxConfig
}

// run runs a pod of a handler.
func (n *node) run(handler string) *pod {
	n.t.Helper()
	n.pods++
	p := &pod{n: n, config: &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: fmt.Sprint("pod-", n.pods), Uid: fmt.Sprint("uid-", n.pods), Namespace: "default"},
		LogDirectory: "/run/log/pods",
		Linux:        &cri.LinuxPodSandboxConfig{CgroupParent: "/" + machine.Cgroup()},
	}}
	r, err := n.RunPodSandbox(harness.Context(n.t), &cri.RunPodSandboxRequest{Config: p.config, RuntimeHandler: handler})
	if err != nil {
		n.t.Fatalf("handler %q: %v", handler, err)
	}
	p.id = r.PodSandboxId
	p.container = p.add("main", "echo started; exec nc -ll -p 1024 -e echo hello")
	harness.Eventually(n.t, "the container listens", func() error {
		_, err := p.try("nc -w 5 127.0.0.1 1024 </dev/null")
		return err
	})
	return p
}

// add runs one more container in the pod.
func (p *pod) add(name, script string) (id string) {
	p.n.t.Helper()
	created, err := p.n.CreateContainer(harness.Context(p.n.t), &cri.CreateContainerRequest{
		PodSandboxId: p.id, SandboxConfig: p.config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: busybox},
			Command: []string{"sh", "-c", script}, LogPath: p.config.Metadata.Name + "-" + name, Linux: &cri.LinuxContainerConfig{},
		},
	})
	if err == nil {
		_, err = p.n.StartContainer(harness.Context(p.n.t), &cri.StartContainerRequest{ContainerId: created.ContainerId})
	}
	if err != nil {
		p.n.t.Fatalf("container %s: %v", name, err)
	}
	return created.ContainerId
}

// try runs a script in the pod's container.
func (p *pod) try(script string) (string, error) { return p.n.exec(p.container, script) }

func (n *node) exec(container, script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	r, err := n.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: container, Cmd: []string{"sh", "-c", script}, Timeout: 60})
	if err != nil {
		return "", err
	}
	out := string(r.Stdout) + string(r.Stderr)
	if r.ExitCode != 0 {
		return out, fmt.Errorf("exit status %d: %s", r.ExitCode, out)
	}
	return out, nil
}

// inside is try for what has to succeed.
func (p *pod) inside(script string) string {
	p.n.t.Helper()
	out, err := p.try(script)
	if err != nil {
		p.n.t.Fatalf("%s: %v", script, err)
	}
	return out
}

// netns is the pod's network namespace, as the runtime keeps it.
func (p *pod) netns() string {
	p.n.t.Helper()
	r, err := p.n.PodSandboxStatus(harness.Context(p.n.t), &cri.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	if err != nil {
		p.n.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(r.Info["info"], `"type":"network","path":"`)
	path, _, found := strings.Cut(rest, `"`)
	if !found {
		p.n.t.Fatalf("no network namespace in %s", r.Info["info"])
	}
	return path
}
