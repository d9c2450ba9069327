// Package gvisor runs containers of the real gVisor on the none network: through
// the CRI of containerd 1.7 and 2.4, and below a kubelet with the shipped sample,
// class and policies. test/isolation has the attacks from inside.
package gvisor

import (
	"context"
	"fmt"
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
	airgap = "airgap-gvisor"
	// gVisor's kernel does not know RTM_GETNSID.
	selfSays = "isolated (no namespace ids on this kernel)"
	// The image of all containers: busybox and none-audit.
	busybox = "docker.io/library/busybox:1.35.0"
)

// node is a machine with a containerd that has gVisor, and handlers from none-install.
type node struct {
	t *testing.T
	m *machine.Machine
	*containerd.Containerd
	pods int
}

func newNode(t *testing.T, version string, config int) *node {
	t.Helper()
	n := &node{t: t, m: machine.New(t)}
	i := image.Busybox(t, busybox)
	i.Files["bin/none-audit"] = harness.Bin("none-audit")
	n.Containerd = gvisor.Node(t, n.m, version, config, i)
	t.Cleanup(n.removePods)
	n.m.Daemon(t, "", "busybox", "nc", "-ll", "-p", "1026", "-e", "echo", "the node")
	return n
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
	handler   string
	id        string
	container string
	config    *cri.PodSandboxConfig
}

// sandbox runs one, without any container yet.
func (n *node) sandbox(handler string, network cri.NamespaceMode) *pod {
	n.t.Helper()
	n.pods++
	p := &pod{n: n, handler: handler, config: &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: fmt.Sprint("pod-", n.pods), Uid: fmt.Sprint("uid-", n.pods), Namespace: "default"},
		LogDirectory: "/run/log/pods",
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/" + machine.Cgroup(),
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: network}}},
	}}
	r, err := n.RunPodSandbox(harness.Context(n.t), &cri.RunPodSandboxRequest{Config: p.config, RuntimeHandler: handler})
	if err != nil {
		n.t.Fatalf("handler %q: %v", handler, err)
	}
	p.id = r.PodSandboxId
	return p
}

// run runs a pod of a handler.
func (n *node) run(handler string) *pod {
	n.t.Helper()
	p := n.sandbox(handler, cri.NamespaceMode_POD)
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
