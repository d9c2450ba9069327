package audit

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// runc starts a container in a network namespace of its own, as runc does it
// with no CNI at all: lo is down in it.
func runc(t *testing.T, id string, annotations map[string]string, args ...string) {
	t.Helper()
	bundle := t.TempDir()
	must(t, "runc", "spec", "--bundle", bundle)
	file := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(data, &spec); err != nil {
		t.Fatal(err)
	}
	spec["annotations"] = annotations
	spec["root"] = map[string]any{"path": rootfs(t), "readonly": true}
	process := spec["process"].(map[string]any)
	process["terminal"] = false
	process["args"] = append([]string{"/bin/sleep"}, args...)
	linux := spec["linux"].(map[string]any)
	linux["cgroupsPath"] = "/" + machine.Cgroup() + "/" + id
	if data, err = json.Marshal(spec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, "runc", "run", "--detach", "--bundle", bundle, id)
	t.Cleanup(func() { must(t, "runc", "delete", "--force", id) })
}

// A container that is known by runc's state alone: its id is no 64 hex digits,
// and no CNI runtime has a record of it.
func TestRunc(t *testing.T) {
	annotations := map[string]string{
		"io.kubernetes.cri.sandbox-name": "web-0", "io.kubernetes.cri.sandbox-namespace": "shop", "io.kubernetes.cri.sandbox-uid": "u-1",
	}
	runc(t, "box", annotations, "600")
	r := one(t, 0, "box")
	if r.Verdict != "isolated" || len(r.Containers) != 1 || r.Containers[0].ID != "box" {
		t.Errorf("%+v", r)
	}
	if p := r.Containers[0].Pod; p == nil || p.Namespace != "shop" || p.Name != "web-0" || p.UID != "u-1" {
		t.Errorf("pod %+v", p)
	}

	// The state of a container whose process has ended, and whose pid is another's now.
	state, err := os.ReadFile("/run/runc/box/state.json")
	if err != nil {
		t.Fatal(err)
	}
	var start uint64
	at := strings.Index(string(state), `"init_process_start":`)
	if _, err := fmt.Sscanf(string(state[at:]), `"init_process_start":%d`, &start); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for id, started := range map[string]uint64{"twin": start, "ghost": start + 1} {
		text := strings.Replace(string(state), `"id":"box"`, fmt.Sprintf(`"id":%q`, id), 1)
		text = strings.Replace(text, fmt.Sprintf(`"init_process_start":%d`, start), fmt.Sprintf(`"init_process_start":%d`, started), 1)
		if err := os.Mkdir(filepath.Join(root, id), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, id, "state.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one(t, 0, "--runc-root", root, "twin") // the control
	if rows, code := audit(t, "--runc-root", root, "ghost"); code != 2 || len(rows) != 0 {
		t.Errorf("ghost: exit status %d, %+v", code, rows)
	}

	// A veth that is moved into the running container is reported, long before
	// the next look at everything.
	w := watch(t, "--interval", "10h", "--settle", "300ms")
	w.until(r.Inode, "isolated")
	moved := time.Now()
	connect(t, r.Processes[0].PID)
	v := w.until(r.Inode, "violated")
	t.Logf("reported after %v: %v", time.Since(moved).Round(time.Millisecond), v.Why)
	if len(v.Why) != 1 || !strings.HasPrefix(v.Why[0], "interfaces beside lo: leak0 (veth") || len(v.Containers) != 1 || v.Containers[0].Pod.Name != "web-0" {
		t.Errorf("%+v", v)
	}
	if r := one(t, 1, "box"); r.Verdict != "not isolated" {
		t.Errorf("%+v", r)
	}
}

// self as a pod runs it that is as restricted as can be: a runtime's default
// seccomp profile, no capability, a user without a name, a read-only root.
func TestSelfUnderRuntimes(t *testing.T) {
	root := rootfs(t)
	hard := []string{"--user", "54321:54321", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--read-only"}
	out, errs, code := podman(t, append([]string{"run", "--rm", "--network", "none"}, append(hard, "--rootfs", root, "/bin/grep", "^Seccomp:", "/proc/self/status")...)...)
	if code != 0 || strings.Fields(out)[1] != "2" {
		t.Errorf("control: there is no seccomp filter: %q\n%s", out, errs)
	}
	out, errs, code = podman(t, append([]string{"run", "--rm", "--network", "none"}, append(hard, "--rootfs", root, "/none-audit", "self")...)...)
	if code != 0 || out != "isolated\n" {
		t.Errorf("none: exit status %d, %q\n%s", code, out, errs)
	}
	out, errs, code = podman(t, append([]string{"run", "--rm", "--network", "ns:" + connected(t)}, append(hard, "--rootfs", root, "/none-audit", "self")...)...)
	if code != 1 || out != "not isolated: interfaces beside lo: leak0 (veth)\n" {
		t.Errorf("connected: exit status %d, %q\n%s", code, out, errs)
	}
}

// connected is a network namespace with a veth in it, held by a process.
func connected(t *testing.T) string {
	t.Helper()
	runc(t, "connected", nil, "600")
	pid := one(t, 0, "connected").Processes[0].PID
	connect(t, pid)
	return fmt.Sprintf("/proc/%d/ns/net", pid)
}

func podman(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	global := []string{"podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs", "--events-backend", "none"}
	if len(args) > 0 && args[0] == "run" {
		args = append([]string{
			"run", "--cgroup-parent", "/" + machine.Cgroup(), "--log-driver", "none",
			"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
		}, args[1:]...)
	}
	return try(t, append(global, args...)...)
}

// Namespaces that this plugin did not make: podman's own none network, and a
// container that has no namespace of its own.
func TestPodman(t *testing.T) {
	root := rootfs(t)
	start := func(network string) string {
		t.Helper()
		out, errs, code := podman(t, "run", "--detach", "--network", network, "--rootfs", root, "/bin/sleep", "600")
		if code != 0 {
			t.Fatalf("%s: exit status %d: %s%s", network, code, out, errs)
		}
		id := strings.TrimSpace(out)
		t.Cleanup(func() {
			if _, errs, code := podman(t, "rm", "--force", "--time", "0", id); code != 0 {
				t.Errorf("rm: %s", errs)
			}
		})
		return id
	}
	none := start("none")
	if r := one(t, 0, none); r.Verdict != "isolated" || len(r.Containers) != 1 || r.Containers[0].ID != none {
		t.Errorf("none: %+v", r)
	}
	if r := one(t, 0, none[:12]); len(r.Containers) != 1 || r.Containers[0].ID != none {
		t.Errorf("by the beginning of its id: %+v", r)
	}
	host := start("host")
	if r := one(t, 1, host); !r.Host || r.Verdict != "not isolated" {
		t.Errorf("host: %+v", r)
	}
	rows, code := audit(t, none, host)
	if code != 1 || len(rows) != 2 {
		t.Errorf("both: exit status %d, %+v", code, rows)
	}

	// The table, as a person sees it.
	out := must(t, bin+"/none-audit")
	t.Logf("\n%s", out)
	line := ""
	for l := range strings.Lines(out) {
		if strings.Contains(l, "container "+none[:12]) {
			line = l
		}
	}
	if !strings.Contains(line, "isolated") || !strings.Contains(line, "sleep[") || !strings.Contains(line, "lo only") {
		t.Errorf("the line of %s: %q", none[:12], line)
	}
	// Podman's monitor is in the machine's namespace, and no part of the container.
	if rows, _ := audit(t, none); len(rows) != 1 || len(rows[0].Processes) != 1 {
		t.Errorf("%+v", rows)
	}
}

// A container on the shipped network, by podman: its record names the namespace in
// the result alone, and podman's monitor knows what the container is called.
func TestPodmanOnAirgap(t *testing.T) {
	root := rootfs(t)
	harness.Write(t, "/etc/containers/containers.conf", "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"/opt/cni/bin\"]\n", 0o644)
	harness.Copy(t, harness.Plugin(), "/opt/cni/bin/none", 0o755)
	harness.Copy(t, filepath.Join(harness.Repo(), "conf/10-airgap.conflist"), "/etc/cni/net.d/10-airgap.conflist", 0o644)
	out, errs, code := podman(t, "run", "--detach", "--name", "web", "--network", "airgap", "--rootfs", root, "/bin/sleep", "600")
	if code != 0 {
		t.Fatalf("exit status %d: %s%s", code, out, errs)
	}
	id := strings.TrimSpace(out)
	t.Cleanup(func() {
		if _, errs, code := podman(t, "rm", "--force", "--time", "0", id); code != 0 {
			t.Errorf("rm: %s", errs)
		}
	})
	r := one(t, 0, "web")
	if r.Expected != "network airgap" || len(r.Containers) != 1 || r.Containers[0].ID != id {
		t.Errorf("%+v", r)
	}
	connect(t, r.Processes[0].PID)
	rows, code := audit(t)
	if at := slices.IndexFunc(rows, func(other row) bool { return other.Inode == r.Inode }); code != 1 || at < 0 || !rows[at].Violated {
		t.Errorf("exit status %d, %+v", code, rows)
	}
	if _, code := audit(t, "webb"); code != 2 {
		t.Errorf("control: another name: exit status %d", code)
	}
}

// Docker's none network, the reference for this plugin.
func TestDocker(t *testing.T) {
	machine.Here().Daemon(t, "", "dockerd", "--iptables=false", "--bridge=none", "--storage-driver", "vfs",
		"--cgroup-parent", "/"+machine.Cgroup())
	const box = "localhost/box:test"
	docker := "/usr/bin/docker" // Debian's, of dockerd's version
	harness.Until(t, "dockerd answers", func() bool { return exec.Command(docker, "version").Run() == nil })
	must(t, docker, "load", "--input", image.Archive(t, image.Busybox(t, box)))

	id := strings.TrimSpace(must(t, docker, "run", "--detach", "--name", "web", "--network", "none", box))
	t.Cleanup(func() { must(t, docker, "rm", "--force", id) })
	r := one(t, 0, id)
	if r.Verdict != "isolated" || len(r.Containers) != 1 || r.Containers[0].ID != id {
		t.Errorf("%+v", r)
	}
	if named := one(t, 0, "web"); named.Inode != r.Inode {
		t.Errorf("by its name: %+v", named)
	}
	w := watch(t, "--interval", "500ms", "--settle", "300ms")
	w.until(r.Inode, "isolated")
	connect(t, r.Processes[0].PID)
	w.until(r.Inode, "violated")
	one(t, 1, id[:12])
}

// A file system whose server does not answer does not hold up the audit.
func TestDeadFileServer(t *testing.T) {
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil && os.Getenv("CI") == "" {
		t.Skipf("needs FUSE: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close() // ends the processes that wait for it
	dir := t.TempDir()
	if err := unix.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server.Fd())); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)

	control := exec.Command("busybox", "stat", "-L", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd))
	if err := control.Start(); err != nil {
		t.Fatal(err)
	}
	waits := make(chan error, 1)
	go func() { waits <- control.Wait() }()
	cmd := exec.Command(bin + "/none-audit")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	looked := make(chan error, 1)
	go func() { looked <- cmd.Wait() }()
	select {
	case err := <-looked:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(harness.Patience):
		t.Error("none-audit waits")
	}
	select {
	case err := <-waits:
		t.Errorf("control: stat did not wait: %v", err)
	default:
	}
}
