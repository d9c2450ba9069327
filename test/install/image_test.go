package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// TestImage runs the release's image, where there is one (make image), on
// containerd: it is one that a runtime takes, and needs nothing else in it.
func TestImage(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(harness.Repo("dist/cni-none-image.oci.tar"))
	if err != nil {
		harness.Skip(t, "make image has not been run: %v", err)
	}
	t.Cleanup(func() { // the control group that containerd makes for its namespace
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/cn-install")
		for _, g := range groups {
			_ = os.Remove(g)
		}
	})
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.write("/var/lib/containerd/image.tar", string(data), 0o644)
	n.run("ctr", "-n", "cn-install", "images", "import", "/var/lib/containerd/image.tar")
	list, err := n.command("ctr", "-n", "cn-install", "images", "ls", "-q").Output()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSpace(string(list))
	if name == "" {
		t.Fatalf("the image is not there: %s", n.run("ctr", "-n", "cn-install", "images", "ls"))
	}
	cmd := n.command("ctr", "-n", "cn-install", "run", "--rm", name, "c", "/none-install", "version")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	ran, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	out := string(ran)
	if strings.TrimSpace(out) == "" {
		t.Error("none-install in the image says no version")
	}
	t.Logf("%s: %s", name, out)
}
