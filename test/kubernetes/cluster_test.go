// Package kubernetes runs hermetic pods on a cluster of one real node, through
// the configuration files and the commands that the documentation shows, and
// looks at them from inside.
//
// The tests run on a machine of their own. So daemons listen on their usual ports
// and keep their state in their usual places, and none of it exists outside or
// afterwards.
package kubernetes

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/containerd"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

const (
	cniBin  = "/opt/cni/bin"
	cniConf = "/etc/cni/net.d"
)

func TestMain(m *testing.M) {
	// Steps that go together wait for the cluster most of the time.
	_ = flag.Set("test.parallel", "16")
	machine.Main(m, machine.Config{Furnish: cluster.Furnish})
}

// node is a cluster of one node.
type node struct {
	*cluster.Cluster
	containerd *containerd.Containerd
	kubelet    *machine.Daemon
	mounts     []string // before there was any pod
	images     string   // an archive of all images
}

// start brings up a cluster as an operator has it before anything of ours is on
// it: pods get a bridge and an address of 10.244.0.0/16.
func start(t *testing.T) *node {
	t.Helper()
	c := &node{Cluster: cluster.Start(t, cluster.Config{
		Version: "134", Address: cluster.NodeAddress, Controllers: "*", Scheduler: true,
		// For the step "asked"; the others do without.
		Args: []string{"--feature-gates=MutatingAdmissionPolicy=true", "--runtime-config=admissionregistration.k8s.io/v1beta1=true"},
	})}
	for key, value := range map[string]string{ // for the documented commands
		"PATH":       strings.Join([]string{harness.Bin("kubernetes134"), harness.Bin("containerd24"), "/run/bin", os.Getenv("PATH")}, ":"),
		"KUBECONFIG": c.Kubeconfig, "KUBECACHEDIR": "/run/tmp/kube",
	} {
		t.Setenv(key, value)
	}
	for _, plugin := range []string{"bridge", "host-local"} {
		harness.Copy(t, harness.Bin("cniplugins", plugin), filepath.Join(cniBin, plugin), 0o755)
	}
	harness.Copy(t, "testdata/10-bridge.conflist", cniConf+"/10-bridge.conflist", 0o644)
	harness.Write(t, containerd.ConfigFile, containerd.Config(4), 0o644)
	if err := os.Mkdir(containerd.DropIns, 0o755); err != nil {
		t.Fatal(err)
	}
	c.containerd = containerd.Start(t, machine.Here(), "2.4", "/run/bin")
	c.images = image.Archive(t, busybox(t), minimal(t), image.Busybox(t, image.Pauses...), image.Own())
	c.containerd.Import(t, c.images, image.Pauses...)
	c.kubelet = c.Kubelet(t)
	c.mounts = mounts(t)
	return c
}

// busybox is the image that the manifests name, with perl, which asks glibc for
// addresses, as most programs do.
func busybox(t *testing.T) image.Image {
	t.Helper()
	i := image.Busybox(t, "docker.io/library/busybox:1.35.0")
	i.Cmd = nil
	i.AddDynamic(t, "/usr/bin/perl")
	modules, err := filepath.Glob("/usr/lib/*/perl-base")
	if err != nil || len(modules) == 0 {
		t.Fatalf("perl-base has no modules: %v", err)
	}
	if err := filepath.WalkDir(modules[0], func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			i.Files[path] = path
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// Debian's images, and most others with glibc, have these two.
	i.Data = map[string]string{"/etc/host.conf": "multi on\n", "/etc/nsswitch.conf": "hosts: files dns\n"}
	return i
}

// minimalImage has no /etc/host.conf.
const minimalImage = "docker.io/library/minimal:1"

func minimal(t *testing.T) image.Image {
	t.Helper()
	i := busybox(t)
	i.Names = []string{minimalImage}
	delete(i.Data, "/etc/host.conf")
	return i
}

// cgroup is where everything that the node runs is kept together.
func cgroup() string { return "/" + machine.Cgroup() }

// run runs a command that has to succeed, in the repository; it returns standard
// output only.
func (c *node) run(t testing.TB, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stderr = harness.Repo(), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}
