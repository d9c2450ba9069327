package audit

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cni-none/cni-none/test/internal/containerd"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// startContainerd starts a real containerd whose default network is the none
// plugin, and returns its CRI.
func startContainerd(t *testing.T) *containerd.CRI {
	t.Helper()
	harness.Write(t, containerd.ConfigFile, containerd.Config(4), 0o644)
	harness.Write(t, "/etc/cni/net.d/10-airgap.conflist",
		`{"cniVersion": "1.0.0", "name": "airgap", "plugins": [{"type": "none", "placeholderIPs": ["100:0:0:1::/64"]}]}`, 0o644)
	harness.Copy(t, harness.Plugin(), "/opt/cni/bin/none", 0o755)
	c := containerd.Start(t, machine.Here(), "2.4", "")
	c.Import(t, image.Archive(t, image.Busybox(t, image.Pauses...)), image.Pauses...)
	return c.CRI
}

// A CRI sandbox is reported under the name of its pod, by the list and by
// watch, with no CRI client and nothing but the paths that are there by default.
func TestCRI(t *testing.T) {
	client := startContainerd(t)
	w := watch(t, "--interval", "500ms")
	res, err := client.RunPodSandbox(harness.Context(t), &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
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
		client.Remove(t, id)
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

	// By runc's state alone, as where libcni's records cannot be read.
	cache := "/var/lib/cni/results"
	if err := os.Rename(cache, cache+".away"); err != nil {
		t.Fatal(err)
	}
	byState := one(t, 0, id)
	if err := os.Rename(cache+".away", cache); err != nil {
		t.Fatal(err)
	}
	if p := byState.Containers[0].Pod; p == nil || p.Name != "model-7" || p.Namespace != "research" {
		t.Errorf("without the CNI cache: %+v", byState)
	}

	connect(t, r.Processes[0].PID)
	isPod(w.until(r.Inode, "violated"))
	want := fmt.Sprintf(`none_audit_violated{inode="%d",container="%s",namespace="research",pod="model-7"} 1`, r.Inode, id)
	harness.Until(t, want, func() bool {
		out := must(t, "busybox", "wget", "-q", "-O", "-", w.url)
		return bytes.Contains([]byte(out), []byte(want+"\n"))
	})
	one(t, 1, id)

	remove()
	w.until(r.Inode, "gone")
}
