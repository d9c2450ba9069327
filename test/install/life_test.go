package install

import (
	"slices"
	"strings"
	"testing"
)

// TestLife takes the two configs that differ most through a node's life: install without
// a restart, restart, verify, pods of both kinds, a second install, uninstall.
// What belongs to the other pods never changes, and at the end the node is what
// it was, byte for byte.
func TestLife(t *testing.T) {
	each(t, func(p platform) bool { return p.name == "kubeadm" || p.name == "minimal" }, func(t *testing.T, p platform, version string) {
		n := newPlatformNode(t, p, version)
		files, dump := n.files(), n.dump()
		before := n.mustPod("", p.systemd)
		pid := n.containerdPID()
		if got := n.links(before); !slices.Equal(got, []string{"eth0", "lo"}) {
			t.Fatalf("a default pod has %v", got)
		}

		n.must(4, "status")
		if out := n.must(0, "install", "--dry-run"); !strings.Contains(out, "cni_conf_dir") {
			t.Errorf("--dry-run does not show the handler:\n%s", out)
		}
		n.sameFiles(files, "after a dry run")

		out := n.must(3, "install")
		if !strings.Contains(out, "pending-restart") || !strings.Contains(out, p.target) {
			t.Errorf("install does not say that it wrote %s and that a restart is missing:\n%s", p.target, out)
		}
		if got := n.containerdPID(); got != pid {
			t.Errorf("install restarted containerd: process %s became %s", pid, got)
		}
		n.mustRun()
		n.onlyHandlers(dump, "airgap")
		if original := p.config(t, version); p.target == mainFile && !strings.HasPrefix(n.read(mainFile), original) {
			t.Error("the config is not the original with something added at its end")
		}
		n.must(3, "status")
		n.unchanged(before)
		if _, err := n.startPod("airgap", p.systemd); err == nil {
			t.Error("a pod of a handler that containerd has not loaded started")
		}

		n.must(0, "install", "--restart", "--restart-command", restart)
		if got := n.containerdPID(); got == pid {
			t.Error("--restart did not restart containerd")
		}
		n.waitReady()
		pid = n.containerdPID()
		n.must(0, "status")
		if out := n.must(0, "verify"); !strings.HasPrefix(out, "ready") {
			t.Errorf("verify said %q", out)
		}
		n.unchanged(before)
		installed := n.files()
		if out := n.must(0, "install"); !strings.Contains(out, "nothing changed") {
			t.Errorf("a second install says:\n%s", out)
		}
		n.sameFiles(installed, "after a second install")

		airgapped := n.mustPod("airgap", p.systemd)
		if got := n.links(airgapped); !slices.Equal(got, []string{"lo"}) {
			t.Errorf("a pod of the handler has %v", got)
		}
		if airgapped.netns == before.netns {
			t.Error("a pod of the handler shares its namespace")
		}
		if !strings.HasPrefix(airgapped.ip, "100:0:0:1:") && !strings.HasPrefix(airgapped.ip, "100::1:") {
			t.Errorf("a pod of the handler reports %q", airgapped.ip)
		}
		after := n.mustPod("", p.systemd)
		if got := n.links(after); !slices.Equal(got, []string{"eth0", "lo"}) {
			t.Errorf("a new default pod has %v", got)
		}
		if p.systemd {
			if calls, systemd := n.runcCalls(airgapped.id); calls == 0 || !systemd {
				t.Errorf("the handler's options were lost: the platform's runc was called %d times, --systemd-cgroup %v", calls, systemd)
			}
		}

		if out := n.must(1, "uninstall", "--restart", "--restart-command", restart); !strings.Contains(out, airgapped.id[:13]) {
			t.Errorf("uninstall does not name the pod that is in its way:\n%s", out)
		}
		n.sameFiles(installed, "after an uninstall that was refused")
		n.removePod(airgapped.id)

		n.must(3, "uninstall")
		if got := n.containerdPID(); got != pid {
			t.Error("uninstall restarted containerd without being told to")
		}
		n.mustRun()
		if _, ok := n.files()["/etc/cni/airgap.d/10-airgap-cri.conflist"]; !ok {
			t.Error("the conflist went while containerd was watching its directory")
		}
		n.must(0, "uninstall", "--restart", "--restart-command", restart)
		n.waitReady()
		n.sameFiles(files, "after uninstall")
		n.onlyHandlers(dump)
		n.unchanged(before)
		n.unchanged(after)
		n.must(0, "uninstall")
		n.must(4, "status")
	})
}

// TestPlatforms is the short form of it for the other platforms' configs.
func TestPlatforms(t *testing.T) {
	each(t, func(p platform) bool { return p.name != "kubeadm" && p.name != "minimal" }, func(t *testing.T, p platform, version string) {
		n := newPlatformNode(t, p, version)
		files, dump := n.files(), n.dump()
		before := n.mustPod("", p.systemd)
		if out := n.must(0, "install", "--restart", "--restart-command", restart); !strings.Contains(out, p.target) {
			t.Errorf("install does not say that it wrote %s:\n%s", p.target, out)
		}
		n.waitReady()
		n.onlyHandlers(dump, "airgap")
		n.must(0, "verify")
		airgapped := n.mustPod("airgap", p.systemd)
		if got := n.links(airgapped); !slices.Equal(got, []string{"lo"}) {
			t.Errorf("a pod of the handler has %v", got)
		}
		if calls, systemd := n.runcCalls(airgapped.id); calls == 0 || systemd != p.systemd {
			t.Errorf("the handler's options were lost: the platform's runc was called %d times, --systemd-cgroup %v", calls, systemd)
		}
		n.removePod(airgapped.id)
		n.unchanged(before)
		n.must(0, "uninstall", "--restart", "--restart-command", restart)
		n.waitReady()
		n.sameFiles(files, "after uninstall")
		n.onlyHandlers(dump)
		n.unchanged(before)
	})
}
