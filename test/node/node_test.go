// Package node takes a whole machine through none-install's life: Debian with
// systemd, control groups of version 2 and AppArmor, in QEMU, and the package of
// the release. What a restart does there is systemd's to decide, not a script's.
//
// Without -full it tests containerd 1.6 of Debian: install, the restarts that
// fail, uninstall. With it also containerd 2.4 as a service of its own, a
// reboot with pods, the watch as a service, podman and seccomp.
package node

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/vm"
)

var full = flag.Bool("full", false, "also what is not about a restart")

func TestMain(m *testing.M) { harness.Main(m) }

// Debian packages on the node.
var packages = []string{"containerd", "runc", "apparmor", "podman", "containernetworking-plugins", "busybox-static", "iproute2", "nftables",
	"procps", "uidmap", "slirp4netns", "libpam-systemd", "dbus-user-session", "util-linux"}

// node is the machine, with one containerd in use.
type node struct {
	*vm.Machine
	unit  string // of systemd
	about string // which packages it is made of
	steps *[]step
}

// step is a line of the table.
type step struct {
	name string
	ok   bool
	took time.Duration
}

// step runs a subtest on the node and notes how it went.
func (n *node) step(t *testing.T, name string, f func(n *node, t *testing.T)) {
	t.Helper()
	began := time.Now()
	ok := t.Run(name, func(t *testing.T) {
		c, m := *n, *n.Machine
		m.TB = t
		c.Machine = &m
		f(&c, t)
	})
	*n.steps = append(*n.steps, step{t.Name() + "/" + name, ok, time.Since(began)})
}

// table shows all steps.
func (n *node) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", n.about)
	for _, s := range *n.steps {
		result := "passed"
		if !s.ok {
			result = "FAILED"
		}
		fmt.Fprintf(&b, "%s %4.0f s  %s\n", result, s.took.Seconds(), strings.TrimPrefix(s.name, "TestNode/"))
	}
	return b.String()
}

// start boots a node.
func start(t *testing.T) *node {
	t.Helper()
	archive, err := vm.OpenArchive(vm.Cache(), "bookworm", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := archive.Kernel()
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := archive.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	root, err := archive.Root(kernel, packages...)
	if err != nil {
		t.Fatal(err)
	}
	data := payload(t)
	began := time.Now()
	m := vm.Start(t, vm.Config{Kernel: kernel, Busybox: busybox, Root: root, Data: data, CPUs: 2})
	n := &node{Machine: m, unit: "containerd.service", steps: new([]step)}
	state, _ := n.Run("systemctl is-system-running --wait")
	versions := strings.TrimSpace(n.Must("dpkg-query -W -f '${Package} ${Version} ' systemd containerd runc podman"))
	n.about = fmt.Sprintf("%s %s, %s; %s after %.0f s", kernel.Package, kernel.Version, versions, strings.TrimSpace(state), time.Since(began).Seconds())
	if got := strings.TrimSpace(n.Must("stat -f -c %T /sys/fs/cgroup; cat /sys/module/apparmor/parameters/enabled")); got != "cgroup2fs\nY" {
		t.Fatalf("not a node with cgroup v2 and AppArmor: %s", got)
	}
	n.Must(furnish)
	n.images()
	return n
}

// furnish makes a node of a machine: containerd with its default config and
// systemd's control groups, and a network for the other pods.
const furnish = `
containerd config default | sed 's/SystemdCgroup = false/SystemdCgroup = true/' >/etc/containerd/config.toml
grep -q 'SystemdCgroup = true' /etc/containerd/config.toml
mkdir -p /etc/cni/net.d /opt/cni
ln -s /usr/lib/cni /opt/cni/bin
cat >/etc/cni/net.d/10-bridge.conflist <<'X'
{"cniVersion": "0.4.0", "name": "default", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.88.0.0/16", "routes": [{"dst": "0.0.0.0/0"}]}}]}
X
mkdir -p /var/log/pods
systemctl restart containerd
`

// answers waits until containerd's CRI does: it comes later than systemd is told.
const answers = "for i in $(seq 300); do /payload/pod list >/dev/null 2>&1 && break; sleep 1; done; /payload/pod list >/dev/null"

// images puts onto the containerd in use what pods are made of.
func (n *node) images() {
	n.Helper()
	n.Must(answers + "\nctr -n k8s.io images import /payload/image.tar")
}

// payload is a disk with what is tested, and what the test needs there.
func payload(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "files"), 0o755); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, "files", name) }
	debs, _ := filepath.Glob(harness.Repo("dist/cni-none_*_amd64.deb"))
	if len(debs) != 1 {
		t.Fatalf("dist holds %d packages of the release for amd64", len(debs))
	}
	pods := image.Busybox(t, append(image.Pauses, "localhost/pod:1")...)
	copies := map[string]string{
		debs[0]:                      "cni-none.deb",
		image.Archive(t, pods):       "image.tar",
		harness.Repo("conf/seccomp"): "seccomp",
		harness.Repo("conf/podman"):  "podman",
		"testdata/snapshot.sh":       "snapshot.sh",
	}
	if *full {
		harness.Sh(t, "tools/build.sh containerd24")
		copies[harness.Bin("containerd24")] = "containerd24"
	}
	for from, to := range copies {
		if out, err := exec.Command("cp", "-rL", from, in(to)).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", from, err, out)
		}
	}
	for _, p := range []string{"pod", "vsock"} {
		if err := vm.Build(in(p), "amd64", "github.com/cni-none/cni-none/test/node/"+p); err != nil {
			t.Fatal(err)
		}
	}
	disk := filepath.Join(dir, "payload.ext4")
	if err := vm.Disk(disk, filepath.Join(dir, "files"), 16); err != nil {
		t.Fatal(err)
	}
	return disk
}

// install runs none-install, which has to end with that status, and returns what
// it said.
func (n *node) install(status int, args string) string {
	n.Helper()
	out, got := n.Run("none-install " + args + " 2>&1")
	if got != status {
		n.Fatalf("none-install %s: exit status %d, want %d\n%s", args, got, status, out)
	}
	return out
}

// serves fails the test unless containerd answers, now.
func (n *node) serves() {
	n.Helper()
	if out, status := n.Run("/payload/pod list"); status != 0 {
		n.Errorf("containerd does not serve: %s\n%s", out, n.log())
	}
}

func (n *node) log() string {
	out, _ := n.Run("systemctl --no-pager status " + n.unit + "; journalctl --no-pager -o cat -n 30 -u " + n.unit + " | grep -v level=info | cut -c1-300")
	return out
}

// pod runs a pod and returns its sandbox and container.
func (n *node) pod(name, handler string, more ...string) (sandbox, container string) {
	n.Helper()
	out := n.Must("/payload/pod run " + strings.Join(append([]string{name, handler}, more...), " "))
	if _, err := fmt.Sscan(out, &sandbox, &container); err != nil {
		n.Fatalf("pod run: %v: %s", err, out)
	}
	return sandbox, container
}
