package audit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/cni-none/cni-none/internal/machine"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const pause = "registry.k8s.io/pause:3.10.2" // containerd's sandbox image: here it is busybox

// startContainerd starts a real containerd whose default network is the none
// plugin, and returns its CRI.
func startContainerd(t *testing.T) cri.RuntimeServiceClient {
	t.Helper()
	config := fmt.Sprintf(`
version = 3
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['%s']
    conf_dir = '/etc/cni/net.d'
    use_internal_loopback = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '%s'
`, bin, pause)
	network := `{"cniVersion": "1.0.0", "name": "airgap", "plugins": [{"type": "none", "placeholderIPs": ["100:0:0:1::/64"]}]}`
	for path, content := range map[string]string{"/etc/cni/net.d/10-airgap.conflist": network, "/run/containerd.toml": config} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create("/run/containerd.log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		log.Close()
		if t.Failed() {
			data, _ := os.ReadFile(log.Name())
			t.Logf("containerd:\n%s", data)
		}
	})
	programs := bin + "/containerd24"
	cmd := exec.Command(programs+"/containerd", "--config", "/run/containerd.toml", "--log-level", "warn")
	cmd.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	})
	conn, err := grpc.NewClient("unix:///run/containerd/containerd.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	client := cri.NewRuntimeServiceClient(conn)
	poll(t, "containerd's CRI", func() bool {
		_, err := client.Status(deadline(t), &cri.StatusRequest{}, grpc.WaitForReady(true))
		return err == nil
	})
	must(t, programs+"/ctr", "-n", "k8s.io", "images", "import", machine.Image(t, pause))
	poll(t, "the image in the CRI", func() bool {
		r, err := cri.NewImageServiceClient(conn).ImageStatus(deadline(t), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: pause}})
		return err == nil && r.Image != nil
	})
	return client
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s in %v", what, patience)
		}
	}
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// A CRI sandbox is reported under the name of its pod, by the list and by
// watch, with no CRI client and nothing but the paths that are there by default.
func TestCRI(t *testing.T) {
	client := startContainerd(t)
	w := watch(t, "--interval", "500ms")
	res, err := client.RunPodSandbox(deadline(t), &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "model-7", Namespace: "research", Uid: "uid-7"},
		Linux:    &cri.LinuxPodSandboxConfig{CgroupParent: "/" + machine.Cgroup()},
	}})
	if err != nil {
		t.Fatal(err)
	}
	id := res.PodSandboxId
	removed := false
	remove := func() {
		if removed {
			return
		}
		removed = true
		if _, err := client.StopPodSandbox(deadline(t), &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
		if _, err := client.RemovePodSandbox(deadline(t), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(remove)

	isPod := func(r row) {
		t.Helper()
		if len(r.Containers) != 1 || r.Containers[0].ID != id || r.Expected != "network airgap" {
			t.Fatalf("%+v", r)
		}
		if p := r.Containers[0].Pod; p == nil || p.Namespace != "research" || p.Name != "model-7" || p.UID != "uid-7" {
			t.Errorf("%+v", p)
		}
	}
	r := one(t, 0, id[:12])
	isPod(r)
	isPod(w.until(r.Inode, "isolated"))
	t.Logf("\n%s", must(t, bin+"/none-audit", id))

	// By runc's state alone, as where libcni's records are not to be had.
	byState := one(t, 0, "--cni-cache", "/nowhere", id)
	if p := byState.Containers[0].Pod; p == nil || p.Name != "model-7" || p.Namespace != "research" {
		t.Errorf("without the CNI cache: %+v", byState)
	}

	connect(t, r.Processes[0].PID)
	isPod(w.until(r.Inode, "violated"))
	want := fmt.Sprintf(`none_audit_violated{inode="%d",container="%s",namespace="research",pod="model-7"} 1`, r.Inode, id)
	poll(t, want, func() bool {
		out := must(t, "busybox", "wget", "-q", "-O", "-", w.url)
		return bytes.Contains([]byte(out), []byte(want+"\n"))
	})
	one(t, 1, id)

	remove()
	w.until(r.Inode, "gone")
}
