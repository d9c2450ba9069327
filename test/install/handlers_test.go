package install

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestHandlers adds a second handler and takes it away again.
func TestHandlers(t *testing.T) {
	for _, p := range platforms {
		if p.name == "nvidia-import" {
			for version := range strings.FieldsSeq(p.versions) {
				t.Run("containerd-"+version, func(t *testing.T) {
					t.Parallel()
					handlersComeAndGo(t, newPlatformNode(t, p, version))
				})
			}
		}
	}
}

func handlersComeAndGo(t *testing.T, n *node) {
	before, dump := n.files(), n.dump()
	both := []string{"install", "--handler", "airgap", "--handler", "airgap-nvidia=nvidia"}
	n.must(0, append(both, "--restart", "--restart-command", restart)...)
	n.waitReady()
	n.onlyHandlers(dump, "airgap", "airgap-nvidia")
	if out := n.must(0, "verify", "--json"); !strings.Contains(out, `"ready":["airgap","airgap-nvidia"]`) {
		t.Errorf("verify did not try both:\n%s", out)
	}
	// A rerun that names none changes none, and says nothing of a restart.
	if out := n.must(0, "install"); !strings.Contains(out, "nothing changed") {
		t.Errorf("install says\n%s", out)
	}
	p := n.mustPod("airgap-nvidia", true)
	if out := n.must(1, "install", "--handler", "airgap"); !strings.Contains(out, p.id[:13]) {
		t.Errorf("a handler with a pod was taken away, or the pod is not named:\n%s", out)
	}
	n.onlyHandlers(dump, "airgap", "airgap-nvidia")
	n.removePod(p.id)
	n.must(3, "install", "--handler", "airgap")
	n.onlyHandlers(dump, "airgap")
	if out := n.must(3, "status"); !strings.Contains(out, `still has the handler "airgap-nvidia"`) {
		t.Errorf("status says\n%s", out)
	}
	n.must(3, "uninstall") // what is loaded counts, and the directory is that handler's too
	n.must(0, append(both, "--restart", "--restart-command", restart)...)
	n.must(0, "install", "--handler", "airgap", "--restart", "--restart-command", restart)
	n.waitReady()
	n.must(0, "verify")
	if out := n.must(2, "install", "--handler", "runc=runc"); !strings.Contains(out, "airgap or airgap-NAME") {
		t.Errorf("a handler of any name is taken:\n%s", out)
	}
	n.must(0, "uninstall", "--restart", "--restart-command", restart)
	n.sameFiles(before, "after uninstall")
}

// TestPayload: what is installed works on this machine, and gives pods no network.
func TestPayload(t *testing.T) {
	t.Parallel()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.loadImage()
	before := n.files()
	n.write("/run/bridge.conflist", strings.Replace(bridgeConf, `"0.4.0"`, `"1.0.0"`, 1), 0o644)
	n.write("/run/empty.conflist", `{"cniVersion": "1.0.0", "name": "x", "plugins": []}`, 0o644)
	n.write("/run/list.conflist", `[]`, 0o644)
	n.write("/run/silent.conflist", `{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "none"}]}`, 0o644)
	n.write("/run/arm64", "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00", 0o755)
	for _, c := range []struct{ args, says string }{
		{"--plugin /bin/true", "is not the plugin none"},
		{"--plugin /run/arm64", "is not the plugin none"},
		{"--plugin /opt/cni/bin/bridge", "is not the plugin none"},
		{"--conflist /run/bridge.conflist", "the plugin none and no other"},
		{"--conflist /run/empty.conflist", "the plugin none and no other"},
		{"--conflist /run/list.conflist", "no CNI config list"},
		{"--conflist /run/silent.conflist", "reports no address"},
		{"--placeholder 10.0.0.1", "placeholder"},
		{"--placeholder 192.0.0.8 --conflist /run/bridge.conflist", "leave --placeholder out"},
		{"--conflist /run/none", "no such file"},
	} {
		if out := n.must(1, append([]string{"install"}, strings.Fields(c.args)...)...); !strings.Contains(out, c.says) {
			t.Errorf("install %s does not say %q:\n%s", c.args, c.says, out)
		}
		n.sameFiles(before, "after a refusal")
	}
	n.must(0, "install", "--placeholder", "192.0.0.8", "--restart", "--restart-command", restart)
	n.waitReady()
	for _, again := range []bool{false, true} {
		if again { // it is remembered
			n.must(0, "install")
			n.must(0, "status")
		}
		p := n.mustPod("airgap", true)
		if p.ip != "192.0.0.8" {
			t.Errorf("a pod reports %q (a rerun: %v)", p.ip, again)
		}
		n.removePod(p.id)
	}
	// Only install needs a plugin beside it.
	n.write("/run/alone/none-install", string(mustRead(t, program)), 0o755)
	n.run("/run/alone/none-install", "status")
	if out, err := n.command("/run/alone/none-install", "install").CombinedOutput(); err == nil || !strings.Contains(string(out), "--plugin") {
		t.Errorf("install without a plugin: %v\n%s", err, out)
	}
	if out, err := n.command("setpriv", "--reuid", "65534", "--clear-groups", program, "status").CombinedOutput(); err == nil || !strings.Contains(string(out), "as root") {
		t.Errorf("status as another user: %v\n%s", err, out)
	}
	n.must(0, "uninstall", "--restart", "--restart-command", restart)
	n.sameFiles(before, "after uninstall")
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestReadOnly: where something cannot be written, nothing is.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.run("mkdir", "-p", "/etc/containerd/conf.d")
	before := n.files()
	for _, dir := range []string{"/opt/cni/bin", "/etc/containerd/conf.d"} {
		n.run("mount", "--bind", dir, dir)
		n.run("mount", "-o", "remount,bind,ro", dir)
		if out := n.must(1, "install"); !strings.Contains(out, "read-only file system") {
			t.Errorf("with %s read-only, install says\n%s", dir, out)
		}
		n.run("umount", dir)
		n.sameFiles(before, "with "+dir+" read-only")
		n.must(4, "status")
	}
}

// TestOffline: a node that has no image for sandboxes is not degraded.
func TestOffline(t *testing.T) {
	t.Parallel()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.must(0, "install", "--restart", "--restart-command", restart)
	n.waitReady()
	if out := n.must(0, "verify"); !strings.HasPrefix(out, "installed: ") || !strings.Contains(out, "image") {
		t.Errorf("verify says\n%s", out)
	}
	n.loadImage()
	if out := n.must(0, "verify"); !strings.HasPrefix(out, "ready") {
		t.Errorf("verify says\n%s", out)
	}
}

// TestTrials: verify removes what an interrupted one left, and nothing that only
// looks like it; uninstall removes what has ended, and stops nothing.
func TestTrials(t *testing.T) {
	t.Parallel()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.loadImage()
	n.must(0, "install", "--restart", "--restart-command", restart)
	n.waitReady()
	sandbox := func(handler, namespace, name, uid string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		run, err := n.client.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{RuntimeHandler: handler, Config: &cri.PodSandboxConfig{
			Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: uid},
			Labels:   map[string]string{"cni-none.dev/verify": "true"},
			Linux:    &cri.LinuxPodSandboxConfig{CgroupParent: "system.slice"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		n.pods, n.all = append(n.pods, run.PodSandboxId), append(n.all, run.PodSandboxId)
		return run.PodSandboxId
	}
	const uid = "2Q5XK7V3"
	keep := []string{
		sandbox("airgap", "default", "a-pod", "1"),              // its label is anyone's to choose
		sandbox("airgap", "cni-none", "cni-none-verify", "2"),   // another uid
		sandbox("airgap", "default", "cni-none-verify", uid),    // another namespace
		sandbox("airgap", "cni-none", "another", uid),           // another name
		sandbox("runc", "cni-none", "cni-none-verify", uid+"X"), // another handler and uid
	}
	left := sandbox("airgap", "cni-none", "cni-none-verify", uid)
	n.write("/var/lib/cni-none/trial", uid, 0o600)
	n.must(0, "verify")
	list, err := n.client.ListPodSandbox(context.Background(), &cri.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, s := range list.Items {
		states[s.Id] = s.State.String()
	}
	for _, id := range keep {
		if states[id] != "SANDBOX_READY" {
			t.Errorf("verify touched a pod that is not its own: %s is %q", id, states[id])
		}
	}
	if states[left] != "" {
		t.Errorf("what an interrupted verify left is %s", states[left])
	}
	n.pods = slices.DeleteFunc(n.pods, func(id string) bool { return id == left })

	// Dead ones go with the handler, running ones are refused.
	for _, id := range keep[:3] {
		if _, err := n.client.StopPodSandbox(context.Background(), &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Fatal(err)
		}
	}
	if out := n.must(1, "uninstall"); !strings.Contains(out, keep[3][:13]) || strings.Contains(out, keep[0][:13]) {
		t.Errorf("uninstall names\n%s", out)
	}
	n.removePod(keep[3])
	n.must(0, "uninstall", "--restart", "--restart-command", restart)
	if _, err := n.client.PodSandboxStatus(context.Background(), &cri.PodSandboxStatusRequest{PodSandboxId: keep[0]}); err == nil {
		t.Error("a dead sandbox is still there")
	}
	n.pods = slices.DeleteFunc(n.pods, func(id string) bool { return slices.Contains(keep[:4], id) })
	n.waitReady()
	if got := fmt.Sprint(n.pods); !strings.Contains(got, keep[4]) {
		t.Errorf("the pods are %s", got)
	}
}
