package audit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// attach does what a runtime does: ADD with the real plugin, through the CNI
// library, which leaves its record where all runtimes have it.
func attach(t *testing.T, netns, id, options string) {
	t.Helper()
	list, err := libcni.ConfListFromBytes([]byte(`{"cniVersion": "1.0.0", "name": "airgap", "plugins": [{"type": "none", ` + options + `}]}`))
	if err != nil {
		t.Fatal(err)
	}
	cni := libcni.NewCNIConfig([]string{bin}, nil)
	rt := &libcni.RuntimeConf{
		ContainerID: id, NetNS: netns, IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "pod-" + id}, {"K8S_POD_UID", "1-2-3"}},
	}
	if _, err := cni.AddNetworkList(context.Background(), list, rt); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cni.DelNetworkList(context.Background(), list, rt); err != nil {
			t.Error(err)
		}
	})
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// at returns what the list of everything says about a namespace.
func at(t *testing.T, path string, code int) row {
	t.Helper()
	rows, got := audit(t)
	if got != code {
		t.Errorf("none-audit: exit status %d, want %d", got, code)
	}
	for _, r := range rows {
		if r.Inode == inode(t, path) {
			return r
		}
	}
	t.Fatalf("%s is not in the list: %+v", path, rows)
	return row{}
}

// What the CNI library recorded says which namespaces ought to be isolated, and
// whose they are; then the exit status of the list means something too.
func TestClaim(t *testing.T) {
	ns, lenient := nstest.New(t), nstest.New(t)
	attach(t, ns.Path, "strict", `"exclusive": true`)
	attach(t, lenient.Path, "lenient", `"exclusive": false`)
	r := at(t, ns.Path, 0)
	if r.Verdict != "isolated" || r.Expected != "network airgap" || len(r.Containers) != 1 || r.Containers[0].ID != "strict" {
		t.Errorf("%+v", r)
	}
	if p := r.Containers[0].Pod; p == nil || p.Namespace != "default" || p.Name != "pod-strict" || p.UID != "1-2-3" {
		t.Errorf("%+v", p)
	}
	if r := at(t, lenient.Path, 0); r.Expected != "" {
		t.Errorf("exclusive: false promises nothing: %+v", r)
	}

	w := watch(t, "--interval", "10h", "--claimed-only")
	w.until(r.Inode, "isolated") // at once, and without a process
	for _, id := range []string{"lenient", "strict"} {
		path := map[string]string{"strict": ns.Path, "lenient": lenient.Path}[id]
		cmd := hold(t, path)
		connect(t, cmd)
	}
	if v := w.until(r.Inode, "violated"); v.Expected != "network airgap" || v.Containers[0].Pod.Name != "pod-strict" {
		t.Errorf("%+v", v)
	}
	if r := at(t, ns.Path, 1); !r.Violated {
		t.Errorf("%+v", r)
	}
	if r := at(t, lenient.Path, 1); r.Violated || r.Verdict != "not isolated" {
		t.Errorf("%+v", r)
	}
	one(t, 1, "strict")
}

// A record may be older than the process that has its pid now
// (kubernetes#100648): it says nothing about that process's namespace.
func TestStaleClaim(t *testing.T) {
	ns := nstest.New(t)
	pid := hold(t, ns.Path)
	attach(t, fmt.Sprintf("/proc/%d/ns/net", pid), "stale", `"exclusive": true`)
	if r := at(t, ns.Path, 0); r.Expected == "" {
		t.Fatalf("control: a fresh record counts: %+v", r)
	}
	files, err := filepath.Glob("/var/lib/cni/results/airgap-stale-*")
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(files[0], old, old); err != nil {
		t.Fatal(err)
	}
	if r := at(t, ns.Path, 0); r.Expected != "" {
		t.Errorf("a record that is an hour older than the process: %+v", r)
	}
}
