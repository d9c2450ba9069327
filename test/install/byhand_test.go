package install

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// TestByHand takes over a node that was set up with the guide's files, while a pod
// runs, and refuses one that is really different.
func TestByHand(t *testing.T) {
	for _, version := range []string{"1.7", "2.4"} {
		t.Run("containerd-"+version, func(t *testing.T) {
			t.Parallel()
			config := "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"localhost/cni-none/pause:1\"\n  restrict_oom_score_adj = true\n  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    bin_dir = \"/opt/cni/bin\"\n"
			shipped := func(name string) string { return string(mustRead(t, harness.Repo("conf/containerd", name))) }
			n := newNode(t, version, strings.Replace(config, "imports = [\"/etc/containerd/conf.d/*.toml\"]\n", map[string]string{"1.7": "", "2.4": "imports = [\"/etc/containerd/conf.d/*.toml\"]\n"}[version], 1))
			before := n.files()
			n.write("/opt/cni/bin/none", string(mustRead(t, harness.Bin("none")))+"another version", 0o755)
			n.write("/etc/cni/airgap.d/10-airgap-cri.conflist", shipped("10-airgap-cri.conflist"), 0o644)
			if version == "1.7" {
				n.write(mainFile, n.read(mainFile)+shipped("runc-1.x.toml")+shipped("airgap-1.x.toml"), 0o644)
			} else {
				n.write("/etc/containerd/conf.d/airgap.toml", shipped("airgap-2.x.toml"), 0o644)
			}
			dump := n.dump()
			delete(handlersOf(dump), "airgap")
			n.start()
			n.loadImage()
			p := n.mustPod("airgap", false)
			pid := n.containerdPID()
			n.must(0, "install") // nothing is to be restarted
			n.onlyHandlers(dump, "airgap")
			if out := n.must(0, "verify"); !strings.HasPrefix(out, "ready") {
				t.Errorf("verify says\n%s", out)
			}
			if n.containerdPID() != pid || n.lookAt(p.id) != p || !slices.Equal(n.links(p), []string{"lo"}) {
				t.Error("the pod that ran is not what it was")
			}
			n.removePod(p.id)
			n.must(0, "uninstall", "--restart", "--restart-command", restart)
			if version == "2.4" {
				delete(before, "/etc/containerd/conf.d") // the directory was made by hand
				after := n.files()
				delete(after, "/etc/containerd/conf.d")
				for path := range after {
					if before[path] == "" && !strings.HasPrefix(path, "/etc/cni/airgap.d") {
						t.Errorf("%s is left", path)
					}
				}
			} else if strings.Contains(n.read(mainFile), "airgap") {
				t.Errorf("the handler is left:\n%s", n.read(mainFile))
			}

			// The same with a mistake in it.
			wrong := func(text string) string { return strings.Replace(text, "cni_conf_dir", "cni_config_dir", 1) }
			if version == "1.7" {
				n.write(mainFile, n.read(mainFile)+wrong(shipped("airgap-1.x.toml")), 0o644)
			} else {
				n.write("/etc/containerd/conf.d/airgap.toml", wrong(shipped("airgap-2.x.toml")), 0o644)
			}
			broken := n.files()
			if out := n.must(1, "install"); !strings.Contains(out, "cni_conf_dir") {
				t.Errorf("install does not name the difference:\n%s", out)
			}
			n.sameFiles(broken, "after a refusal")
		})
	}
}

// TestOldDropIn: a drop-in that nothing imports any more goes when its handler is
// written elsewhere.
func TestOldDropIn(t *testing.T) {
	t.Parallel()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.must(3, "install")
	n.write(mainFile, strings.Replace(n.read(mainFile), "/etc/containerd/conf.d/*.toml", "/etc/containerd/other.d/*.toml", 1), 0o644)
	if out := n.must(1, "status"); !strings.Contains(out, "no handler") {
		t.Errorf("status says\n%s", out)
	}
	n.must(3, "install")
	if _, err := os.Stat(n.path(dropInFile)); err == nil {
		t.Error("the old drop-in is still there")
	}
	if n.read("/etc/containerd/other.d/airgap.toml") == "" {
		t.Error("there is no new one")
	}
	n.must(3, "status")
	n.must(0, "uninstall")
}
