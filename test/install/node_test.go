// Package install drives none-install on nodes that are real in every part that
// it deals with: containerd 1.6, 1.7 and 2.4 with their configs in /etc, runc,
// pods on a bridge. A node is a process with a mount, PID and network namespace
// of its own, in which /etc, /opt, /var/lib and /run are the node's; the machine's
// own are never written. It is gone when the test ends.
package install

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cni-none/cni-none/pkg/loopback"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	socket   = "/run/containerd/containerd.sock"
	mainFile = "/etc/containerd/config.toml"
	restart  = "/opt/test/restart"
)

var (
	bin      = mustAbs("../../bin")
	program  = filepath.Join(bin, "none-install")
	runtimes = map[string]string{
		"1.6": "/usr/bin",
		"1.7": filepath.Join(bin, "containerd17"),
		"2.4": filepath.Join(bin, "containerd24"),
	}
)

func mustAbs(p string) string {
	p, err := filepath.Abs(p)
	if err != nil {
		panic(err)
	}
	return p
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("CN_NODE_INIT"); dir != "" {
		nodeInit(dir)
	}
	os.Exit(m.Run())
}

// nodeInit is process 1 of a node: it gives the node its directories, says so,
// and reaps what is orphaned.
func nodeInit(dir string) {
	err := func() error {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
		// In memory: none-install, containerd and its database sync all they write.
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
		for _, d := range []string{"/etc", "/opt", "/var/lib"} {
			upper, work := filepath.Join(dir, "upper"+d), filepath.Join(dir, "work"+d)
			if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
				return err
			}
			if err := unix.Mount("overlay", d, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", d, upper, work)); err != nil {
				return fmt.Errorf("overlay on %s: %w", d, err)
			}
		}
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
		// Containers' root file systems are overlays themselves, and those do not
		// stack on an overlay: containerd's data lies beside them.
		if err := errors.Join(os.MkdirAll("/var/lib/containerd", 0o755), os.MkdirAll(filepath.Join(dir, "containerd"), 0o755)); err != nil {
			return err
		}
		return unix.Mount(filepath.Join(dir, "containerd"), "/var/lib/containerd", "", unix.MS_BIND, "")
	}()
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	// A test that is killed cleans nothing up: its end of this pipe closes then,
	// and process 1 takes the node along.
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println("ready")
	os.Stdout.Close()
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// node is one node, with one version of containerd.
type node struct {
	testing.TB
	dir     string
	init    int
	version string
	client  cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	mu      sync.Mutex
	pods    []string // that run
	all     []string // that ever did
}

// need skips, or fails where everything ought to be there (CI).
func need(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatalf(format, args...)
	}
	tb.Skipf(format, args...)
}

// newNode makes a node whose containerd is not running yet. config is its
// /etc/containerd/config.toml; "" for none.
func newNode(tb testing.TB, version, config string) *node {
	tb.Helper()
	if os.Geteuid() != 0 {
		need(tb, "needs root for namespaces and containerd")
	}
	for _, p := range []string{program, filepath.Join(bin, "none"), filepath.Join(bin, "cniplugins/bridge"), filepath.Join(runtimes[version], "containerd"), "/usr/sbin/runc", "/bin/busybox"} {
		if _, err := os.Stat(p); err != nil {
			need(tb, "%v: test/run.sh install puts it there", err)
		}
	}
	dir, err := os.MkdirTemp("/tmp", "cn-")
	if err != nil {
		tb.Fatal(err)
	}
	n := &node{TB: tb, dir: dir, version: version}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("remove the node's directory: %v", err)
		}
	})
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CN_NODE_INIT="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET, Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		need(tb, "make a node's namespaces: %v", err)
	}
	n.init = cmd.Process.Pid
	tb.Cleanup(func() {
		if tb.Failed() {
			if log, err := os.ReadFile(n.path("/run/containerd.log")); err == nil {
				lines := strings.Split(string(log), "\n")
				tb.Logf("the end of containerd's log:\n%s", strings.Join(lines[max(0, len(lines)-25):], "\n"))
			}
		}
		n.removePods()
		cmd.Process.Kill() // process 1 takes everything in its PID namespace along
		cmd.Wait()
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
	said, _ := io.ReadAll(out)
	if string(said) != "ready\n" {
		tb.Fatalf("the node did not come up: %s", said)
	}
	n.run("ip", "link", "set", "lo", "up")
	for _, p := range []string{"bridge", "host-local", "loopback"} {
		data, err := os.ReadFile(filepath.Join(bin, "cniplugins", p))
		if err != nil {
			tb.Fatal(err)
		}
		n.write("/opt/cni/bin/"+p, string(data), 0o755)
	}
	n.write("/etc/cni/net.d/10-bridge.conflist", bridgeConf, 0o644)
	n.write(restart, fmt.Sprintf(restartScript, runtimes[version]), 0o755)
	n.write("/opt/test/runc", runcWrapper, 0o755)
	os.RemoveAll(n.path("/etc/containerd"))
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
func (n *node) path(p string) string { return fmt.Sprintf("/proc/%d/root%s", n.init, p) }

func (n *node) write(path, text string, mode fs.FileMode) {
	n.Helper()
	if err := os.MkdirAll(filepath.Dir(n.path(path)), 0o755); err != nil {
		n.Fatal(err)
	}
	if err := os.WriteFile(n.path(path), []byte(text), mode); err != nil {
		n.Fatal(err)
	}
}

func (n *node) read(path string) string {
	n.Helper()
	data, err := os.ReadFile(n.path(path))
	if err != nil {
		n.Fatal(err)
	}
	return string(data)
}

// command runs in all of the node's namespaces. nsenter forks to enter the PID
// namespace; what it forks ends with it.
func (n *node) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(n.init), "-m", "-n", "-p", "--", "setpriv", "--pdeathsig", "KILL", "--"}, args...)...)
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), "PATH="+runtimes[n.version]+":"+os.Getenv("PATH"))
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
		conn, err := grpc.NewClient("unix://"+n.path(socket), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			n.Fatal(err)
		}
		n.Cleanup(func() { conn.Close() })
		// Registered after the node's own cleanup, so it runs first; pods are removed
		// while the connection is there.
		n.Cleanup(n.removePods)
		n.client, n.images = cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	}
	n.waitReady()
}

func (n *node) waitReady() {
	n.Helper()
	eventually(n, "containerd serves CRI", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		st, err := n.client.Status(ctx, &cri.StatusRequest{}, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		for _, c := range st.Status.Conditions {
			if (c.Type == cri.RuntimeReady || c.Type == cri.NetworkReady) && !c.Status {
				return fmt.Errorf("%s is false: %s", c.Type, c.Message)
			}
		}
		return nil
	})
}

// pauses are the names under which configs ask for a sandbox's image.
var pauses = []string{"registry.k8s.io/pause:3.6", "registry.k8s.io/pause:3.8", "registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10.2", "localhost/cni-none/pause:1"}

func (n *node) loadImage() {
	n.Helper()
	n.write("/var/lib/containerd/pause.tar", string(pauseImage(n)), 0o644)
	n.run("ctr", "-n", "k8s.io", "images", "import", "/var/lib/containerd/pause.tar")
	// CRI learns of an image through an event, some time after the import.
	eventually(n, "CRI knows the image", func() error {
		list, err := n.images.ListImages(context.Background(), &cri.ListImagesRequest{})
		if err != nil {
			return err
		}
		known := 0
		for _, i := range list.Images {
			known += len(i.RepoTags)
		}
		if known < len(pauses) {
			return fmt.Errorf("it knows %d of %d names", known, len(pauses))
		}
		return nil
	})
}

// pauseImage is a docker archive of one layer with busybox in it.
func pauseImage(tb testing.TB) []byte {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		tb.Fatal(err)
	}
	type file struct {
		name string
		mode int64
		data []byte
	}
	pack := func(files ...file) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, f := range files {
			h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg}
			if strings.HasSuffix(f.name, "/") {
				h.Typeflag = tar.TypeDir
			}
			if err := errors.Join(w.WriteHeader(h), func() error { _, err := w.Write(f.data); return err }()); err != nil {
				tb.Fatal(err)
			}
		}
		w.Close()
		return b.Bytes()
	}
	layer := pack(file{"bin/", 0o755, nil}, file{"bin/busybox", 0o755, busybox})
	config, _ := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/bin/busybox", "sleep", "86400"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}},
	})
	manifest, _ := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": pauses, "Layers": []string{"layer.tar"}}})
	return pack(file{"config.json", 0o644, config}, file{"layer.tar", 0o644, layer}, file{"manifest.json", 0o644, manifest})
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

// eventually polls until f is content. The deadline is generous: it is there to
// end, not to measure.
func eventually(tb testing.TB, what string, f func() error) {
	tb.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: %v", what, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}
