package daemonset

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/containerd"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// node is a cluster of one node.
type node struct {
	*cluster.Cluster
	containerd *containerd.Containerd
	kubelet    *machine.Daemon
	release    release
}

// release is a directory as make release fills it.
type release string

// released is the one in dist/.
func released() release { return release(harness.Repo("dist")) }

// file is the file of the release that a pattern names.
func (r release) file(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(string(r), pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s/%s: %d files, want 1 (%v)", r, pattern, len(files), err)
	}
	return files[0]
}

// image is the name by which the release's manifests call its image.
func (r release) image(t *testing.T) string {
	t.Helper()
	return regexp.MustCompile(`ghcr\.io/cni-none/cni-none:[\w.-]+`).FindString(harness.Read(t, r.file(t, "cni-none.yaml")))
}

// start makes a node of the machine, with the kubelet and the API server of a version
// and the image of the release.
func start(t *testing.T, version string, port int) *node {
	t.Helper()
	harness.Sh(t, "mount --make-rshared /") // as systemd has it on a node
	for _, plugin := range []string{"bridge", "host-local", "loopback"} {
		harness.Copy(t, harness.Bin("cniplugins", plugin), "/opt/cni/bin/"+plugin, 0o755)
	}
	harness.Copy(t, harness.Repo("test/kubernetes/testdata/10-bridge.conflist"), "/etc/cni/net.d/10-bridge.conflist", 0o644)
	harness.Write(t, containerd.ConfigFile, containerd.Config(4), 0o644)
	if err := os.MkdirAll(containerd.DropIns, 0o755); err != nil {
		t.Fatal(err)
	}
	n := &node{
		Cluster: cluster.Start(t, cluster.Config{Version: version, Port: port, Address: cluster.NodeAddress, Controllers: "*", Scheduler: true}),
		release: released(),
	}
	n.containerd = containerd.Start(t, machine.Here(), "2.4", "")
	t.Cleanup(func() { // the next test gets another node
		n.powerOff(t)
		harness.Sh(t, "rm -rf /var/lib/kubelet/* /var/lib/containerd/* /var/lib/cni /etc/cni /opt/cni /etc/containerd")
	})
	busybox := image.Busybox(t, "docker.io/library/busybox:1.35.0")
	busybox.Cmd = nil
	n.containerd.Import(t, image.Archive(t, busybox, image.Busybox(t, image.Pauses...)), image.Pauses...)
	n.importImage(t)
	n.kubelet = n.Kubelet(t)
	n.serviceAddress(t)
	return n
}

func (n *node) importImage(t *testing.T) {
	t.Helper()
	n.containerd.Import(t, n.release.file(t, "cni-none-image.oci.tar"), n.release.image(t))
}

// powerOff ends what runs on the node as a power cut does, and empties what is in
// memory on a real one. The API server is another machine's.
func (n *node) powerOff(t *testing.T) {
	t.Helper()
	for _, d := range []*machine.Daemon{n.kubelet, n.containerd.Daemon} {
		if d != nil {
			d.Kill()
		}
	}
	harness.Until(t, "no shim and no container is left", func() bool { return killContainers(t) == 0 })
	// Deepest first: the mounts of sandboxes and pods.
	harness.Sh(t, `awk '$5 ~ "^(/run|/var/run)/(netns|containerd)/|^/var/lib/kubelet/|^/run/cni-none" {print $5}' /proc/self/mountinfo | sort -r | xargs -r umount -l
		rm -rf /run/containerd /run/netns /run/cni-none*
		ip -o link | grep -q cni0 && ip link del cni0 || true`)
}

// killContainers kills every process that is a shim or sees other mounts than we do,
// and says how many there were.
func killContainers(t *testing.T) int {
	t.Helper()
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, p := range processes {
		program, _ := os.Readlink(p + "/exe") // an error: it has ended, or is the kernel's
		mounts, err := os.Readlink(p + "/ns/mnt")
		if err != nil || !strings.Contains(program, "containerd-shim") && mounts == ours {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Kill(pid, unix.SIGKILL)
		killed++
	}
	return killed
}

// powerOn starts the node again.
func (n *node) powerOn(t *testing.T) {
	t.Helper()
	n.containerd.Start(t)
	n.containerd.WaitReady(t, cri.RuntimeReady)
	n.kubelet.Start(t)
}

// serviceAddress does for one Service what kube-proxy does: pods reach the API
// server at the first address of the Services' range.
func (n *node) serviceAddress(t *testing.T) {
	t.Helper()
	harness.Sh(t, "ip address replace 10.96.0.1/32 dev lo")
	l, err := net.Listen("tcp", "10.96.0.1:443")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", strings.TrimPrefix(n.Server, "https://"))
			if err != nil {
				from.Close()
				continue
			}
			go func() { io.Copy(server, from); server.Close() }()
			go func() { io.Copy(from, server); from.Close() }()
		}
	}()
}

// guide runs commands of a page: with kubectl and helm in PATH, in the release's
// directory, and with its files in the place of those that are published.
func (n *node) guide(t *testing.T, commands string) (string, error) {
	t.Helper()
	commands = strings.ReplaceAll(commands, "https://github.com/cni-none/cni-none/releases/download/vX.Y.Z/", "")
	if chart := "oci://ghcr.io/cni-none/charts/cni-none --version X.Y.Z"; strings.Contains(commands, chart) {
		commands = strings.ReplaceAll(commands, chart, n.release.file(t, "cni-none-[0-9]*.tgz"))
	}
	cmd := n.Command("bash", "-euo", "pipefail", "-c", commands)
	cmd.Dir = string(n.release)
	cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(n.Program("kubectl"))+":"+harness.Bin("helm")+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (n *node) mustGuide(t *testing.T, commands string) string {
	t.Helper()
	out, err := n.guide(t, commands)
	if err != nil {
		t.Fatalf("%s\n%v: %s\n%s", commands, err, out, n.logs())
	}
	return out
}

// condition is what the node says of itself.
func (n *node) condition(t *testing.T) string {
	t.Helper()
	return n.MustKubectl(t, "get", "node", "node", "-o", `jsonpath={range .status.conditions[?(@.type=="CNINoneReady")]}{.status} {.reason}: {.message}{end}`)
}

func (n *node) waitCondition(t *testing.T, want string) {
	t.Helper()
	harness.Poll(t, "the node says "+want, func() (bool, string) {
		c := n.condition(t)
		return strings.HasPrefix(c, want), c + "\n" + n.logs()
	})
}

// logs is what a failed wait shows.
func (n *node) logs() string {
	pods, _ := n.Kubectl("-n", "cni-none", "get", "pods,events")
	install, _ := n.Kubectl("-n", "cni-none", "logs", "daemonset/cni-none", "-c", "install", "--tail=10")
	watch, _ := n.Kubectl("-n", "cni-none", "logs", "daemonset/cni-none", "-c", "watch", "--tail=10")
	return pods + "\ninstall: " + install + "\nwatch: " + watch
}

// files are the node's, path and content, below where none-install could write.
func files(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, top := range []string{"/etc/containerd", "/etc/cni", "/opt/cni", "/var/lib/cni-none"} {
		err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil || d.IsDir() {
				all[path] = "directory"
				return err
			}
			data, err := os.ReadFile(path)
			all[path] = string(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// unchanged compares the node's files with what they were.
func unchanged(t *testing.T, before map[string]string) {
	t.Helper()
	after := files(t)
	for path, text := range before {
		if after[path] != text {
			t.Errorf("%s is not what it was", path)
		}
	}
	for path := range after {
		if _, was := before[path]; !was {
			t.Errorf("%s is left", path)
		}
	}
}
