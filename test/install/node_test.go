// Package install drives none-install on nodes that are real in every part that
// it deals with: containerd 1.6, 1.7 and 2.4 with their configs in /etc, runc,
// pods on a bridge. A node is a process with a mount, PID and network namespace
// of its own, in which /etc, /opt, /var/lib and /run are the node's; the machine's
// own are never written. It is gone when the test ends.
package install

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cni-none/cni-none/pkg/loopback"
	"github.com/cni-none/cni-none/test/internal/containerd"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

const (
	mainFile = containerd.ConfigFile
	restart  = "/opt/test/restart"
)

var (
	program  = harness.Bin("none-install")
	runtimes = containerd.Dirs
)

func TestMain(m *testing.M) { machine.Main(m, machine.Config{Several: true}) }

// node is one node, with one version of containerd.
type node struct {
	testing.TB
	*machine.Machine
	version string
	client  *containerd.CRI
	mu      sync.Mutex
	pods    []string // that run
	all     []string // that ever did
}

// newNode makes a node whose containerd is not running yet. config is its
// /etc/containerd/config.toml; "" for none.
func newNode(tb testing.TB, version, config string) *node {
	tb.Helper()
	n := &node{TB: tb, Machine: machine.New(tb), version: version}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the end of containerd's log:\n%s", harness.Tail(n.path("/run/containerd.log"), 25))
		}
		n.removePods()
		// Control groups are the one thing that does not end with the namespaces.
		for _, id := range n.all {
			for _, pattern := range []string{"/sys/fs/cgroup/*" + id, "/sys/fs/cgroup/*/*" + id, "/sys/fs/cgroup/*/*/*" + id} {
				groups, _ := filepath.Glob(pattern)
				for _, g := range groups {
					_ = unix.Rmdir(g)
				}
			}
		}
	})
	for _, p := range []string{"bridge", "host-local", "loopback"} {
		harness.Copy(tb, harness.Bin("cniplugins", p), n.path("/opt/cni/bin/"+p), 0o755)
	}
	n.write("/etc/cni/net.d/10-bridge.conflist", bridgeConf, 0o644)
	n.write(restart, fmt.Sprintf(restartScript, runtimes[version]), 0o755)
	n.write("/opt/test/runc", runcWrapper, 0o755)
	os.MkdirAll(n.path("/etc/containerd"), 0o755)
	if config != "" {
		n.write(mainFile, config, 0o644)
	}
	return n
}

const bridgeConf = `{"cniVersion": "0.4.0", "name": "default", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.88.0.0/16", "routes": [{"dst": "0.0.0.0/0"}]}}]}
`

// restartScript does what a service manager does: it ends the containerd that
// runs and starts another one. Shims stay.
const restartScript = `#!/bin/sh
export PATH=%[1]s:$PATH
if [ -s /run/containerd.pid ]; then
	pid=$(cat /run/containerd.pid)
	kill "$pid" 2>/dev/null
	while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
fi
set --
[ ! -e /etc/containerd/config.toml ] || set -- --config /etc/containerd/config.toml
setsid %[1]s/containerd "$@" >>/run/containerd.log 2>&1 </dev/null &
echo $! >/run/containerd.pid
`

// runcWrapper stands for the runc of a vendor. It notes how it is called, and
// takes out what needs systemd as process 1, which a test's node has not.
const runcWrapper = `#!/bin/sh
echo "$@" >>/run/runc-calls
for a do
	shift
	[ "$a" = --systemd-cgroup ] || set -- "$@" "$a"
done
exec /usr/sbin/runc "$@"
`

// path is where the test finds a file of the node's.
func (n *node) path(p string) string { return n.Path(p) }

func (n *node) write(path, text string, mode fs.FileMode) {
	n.Helper()
	n.Write(n, path, text, mode)
}

func (n *node) read(path string) string {
	n.Helper()
	return n.Read(n, path)
}

// command runs on the node, with the programs of its containerd.
func (n *node) command(args ...string) *exec.Cmd {
	cmd := n.Command(args...)
	cmd.Env = append(cmd.Env, "PATH="+runtimes[n.version]+":"+os.Getenv("PATH"))
	return cmd
}

func (n *node) run(args ...string) string {
	n.Helper()
	out, err := n.command(args...).CombinedOutput()
	if err != nil {
		n.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// install runs none-install and returns what it said and its exit status.
func (n *node) install(args ...string) (string, int) {
	n.Helper()
	cmd := n.command(append([]string{program}, args...)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// must is install for a run that has to end with that status.
func (n *node) must(status int, args ...string) string {
	n.Helper()
	out, got := n.install(args...)
	if got != status {
		n.Fatalf("none-install %s: exit status %d, want %d\n%s", strings.Join(args, " "), got, status, out)
	}
	return out
}

// start starts containerd and waits until it serves CRI and has the image that
// sandboxes are made of.
func (n *node) start() {
	n.Helper()
	n.run(restart)
	if n.client == nil {
		n.client = containerd.Dial(n, n.path(containerd.Socket))
		// Registered after the node's own cleanup, so it runs first; pods are removed
		// while the connection is there.
		n.Cleanup(n.removePods)
	}
	n.waitReady()
}

func (n *node) waitReady() {
	n.Helper()
	n.client.WaitReady(n, cri.RuntimeReady, cri.NetworkReady)
}

// loadImage gives the node the image of sandboxes, under the names that the
// platforms' configs have for it.
func (n *node) loadImage() {
	n.Helper()
	harness.Copy(n, image.Archive(n, image.Busybox(n, image.Pauses...)), n.path("/var/lib/containerd/pause.tar"), 0o644)
	n.run("ctr", "-n", "k8s.io", "images", "import", "/var/lib/containerd/pause.tar")
	n.client.WaitImages(n, image.Pauses...)
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// pod is a pod sandbox as it was when it had started.
type pod struct {
	id, ip, netns string
	pid           int
}

var podNumber atomic.Int64

// startPod runs a sandbox; handler "" is the default one. systemd says that the
// handler's cgroups are named as systemd's.
func (n *node) startPod(handler string, systemd bool) (pod, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	name := fmt.Sprintf("p%d", podNumber.Add(1))
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_POD},
		}},
	}
	if systemd {
		config.Linux.CgroupParent = "system.slice"
	}
	run, err := n.client.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		return pod{}, err
	}
	n.mu.Lock()
	n.pods, n.all = append(n.pods, run.PodSandboxId), append(n.all, run.PodSandboxId)
	n.mu.Unlock()
	return n.lookAt(run.PodSandboxId), nil
}

func (n *node) mustPod(handler string, systemd bool) pod {
	n.Helper()
	p, err := n.startPod(handler, systemd)
	if err != nil {
		n.Fatalf("run a pod of handler %q: %v", handler, err)
	}
	return p
}

// lookAt asks the runtime for the process, and the kernel for its namespace.
func (n *node) lookAt(id string) pod {
	n.Helper()
	st, err := n.client.PodSandboxStatus(context.Background(), &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		n.Fatal(err)
	}
	if st.Status.State != cri.PodSandboxState_SANDBOX_READY {
		n.Fatalf("pod %s is %s", id, st.Status.State)
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(st.Info["info"]), &info); err != nil {
		n.Fatal(err)
	}
	p := pod{id: id, ip: st.Status.Network.GetIp(), pid: info.PID}
	if p.netns, err = os.Readlink(n.path(fmt.Sprintf("/proc/%d/ns/net", p.pid))); err != nil {
		n.Fatal(err)
	}
	return p
}

// links are the interfaces that a pod sees.
func (n *node) links(p pod) []string {
	n.Helper()
	s, err := loopback.Inspect(n.path(fmt.Sprintf("/proc/%d/ns/net", p.pid)))
	if err != nil {
		n.Fatal(err)
	}
	var names []string
	for _, l := range s.Links {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	return names
}

// removePod stops and removes a pod.
func (n *node) removePod(id string) {
	n.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := n.client.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		n.Errorf("stop pod %s: %v", id, err)
	}
	if _, err := n.client.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		n.Errorf("remove pod %s: %v", id, err)
	}
	n.pods = slices.DeleteFunc(n.pods, func(p string) bool { return p == id })
}

func (n *node) removePods() {
	for _, id := range slices.Clone(n.pods) {
		n.removePod(id)
	}
}

// containerdPID is the process that listens, as the node's restart script left it.
func (n *node) containerdPID() string {
	n.Helper()
	return strings.TrimSpace(n.read("/run/containerd.pid"))
}

// files is everything below a node's directories that none-install could write
// to: path, mode and sum. Two equal maps are two equal trees, byte for byte.
func (n *node) files() map[string]string {
	n.Helper()
	all := map[string]string{}
	for _, top := range []string{"/etc/containerd", "/etc/cni", "/opt/cni", "/opt/k3s", "/var/lib/cni-none", "/var/lib/rancher"} {
		err := filepath.WalkDir(n.path(top), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			v := info.Mode().String()
			if info.Mode().IsRegular() {
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				v += " " + sum(data)
			}
			all[strings.TrimPrefix(path, n.path(""))] = v
			return nil
		})
		if err != nil {
			n.Fatal(err)
		}
	}
	return all
}

// sameFiles fails the test with what differs.
func (n *node) sameFiles(before map[string]string, when string) {
	n.Helper()
	after := n.files()
	for _, k := range slices.Sorted(maps.Keys(before)) {
		if after[k] != before[k] {
			n.Errorf("%s: %s is %q and was %q", when, k, after[k], before[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(after)) {
		if before[k] == "" {
			n.Errorf("%s: %s is there and was not", when, k)
		}
	}
}
