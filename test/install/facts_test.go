package install

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// TestImportsReplace is why containerd 1 gets no drop-in file: one that only
// names a handler takes the rest of the CRI section away. containerd 2 merges.
func TestImportsReplace(t *testing.T) {
	for _, version := range []string{"1.6", "1.7", "2.4"} {
		t.Run("containerd-"+version, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, version, `version = 2
imports = ["/etc/containerd/conf.d/*.toml"]
[plugins."io.containerd.grpc.v1.cri"]
  max_container_log_line_size = 4242
`)
			before := n.dump()
			n.write("/etc/containerd/conf.d/x.toml", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.x]\n  runtime_type = \"io.containerd.runc.v2\"\n", 0o644)
			after := fmt.Sprint(n.dump())
			if !strings.Contains(fmt.Sprint(before), "4242") {
				t.Fatal("the main file's setting is not there to begin with")
			}
			if kept := strings.Contains(after, "4242"); kept != (version == "2.4") {
				t.Errorf("with a drop-in file the main file's setting is kept: %v", kept)
			}
		})
	}
}

// TestFirstHandler is why the built-in handlers are written out beside ours:
// containerd 1 drops them as soon as the config names a handler.
func TestFirstHandler(t *testing.T) {
	for _, version := range []string{"1.6", "1.7", "2.4"} {
		t.Run("containerd-"+version, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, version, "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.x]\n  runtime_type = \"io.containerd.runc.v2\"\n")
			if kept := handlersOf(n.dump())["runc"] != nil; kept != (version == "2.4") {
				t.Errorf("beside a handler in the config, the built-in runc is there: %v", kept)
			}
		})
	}
}

// TestDirectoryGone is why uninstall waits: containerd 2 ends when a directory
// goes that is a handler's.
func TestDirectoryGone(t *testing.T) {
	t.Parallel()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.must(0, "install", "--restart", "--restart-command", restart)
	n.waitReady()
	pid := n.containerdPID()
	if err := os.RemoveAll(n.path("/etc/cni/airgap.d")); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "containerd ends", func() error {
		if _, err := os.Stat(n.path("/proc/" + pid)); err == nil {
			return fmt.Errorf("process %s runs", pid)
		}
		return nil
	})
	// It cannot start either, until the directory is back.
	n.must(1, "status")
	n.must(3, "install")
	n.start()
	n.must(0, "status")
}

// TestMistyped spells a key wrongly, as a person would. containerd warns and
// gives the handler's pods the cluster's network; verify does not let it pass.
func TestMistyped(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.6", "2.4"} {
		n := newNode(t, version, kubeadm(t, version))
		n.start()
		n.loadImage()
		n.must(0, "install", "--restart", "--restart-command", restart)
		n.waitReady()
		n.must(0, "verify")
		file := mainFile
		if version == "2.4" {
			file = dropInFile
		}
		right := n.read(file)
		wrong := strings.Replace(right, "cni_conf_dir = '/etc/cni/airgap.d'", "cni_config_dir = '/etc/cni/airgap.d'", 1)
		if wrong == right {
			t.Fatalf("no cni_conf_dir in\n%s", right)
		}
		n.write(file, wrong, 0o644)
		n.start()
		if got := n.links(n.mustPod("airgap", true)); !slices.Equal(got, []string{"eth0", "lo"}) {
			t.Errorf("containerd %s: a pod of the mistyped handler has %v", version, got)
		}
		for _, command := range []string{"status", "verify"} {
			if out := n.must(1, command); !strings.Contains(out, "cni_conf_dir") {
				t.Errorf("%s does not name the key:\n%s", command, out)
			}
		}
		// Put right in the file, and not loaded yet: what counts is what is loaded.
		n.write(file, right, 0o644)
		if out := n.must(3, "verify"); !strings.Contains(out, "cni_conf_dir") {
			t.Errorf("verify does not say what is loaded:\n%s", out)
		}
	}
}

// TestRestartFails has the runtime not come back: the config is put back, and
// the runtime runs with it.
func TestRestartFails(t *testing.T) {
	t.Parallel()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	n.start()
	n.write("/opt/test/restart-badly", "#!/bin/sh\n[ -e /run/tried ] && exec "+restart+"\ntouch /run/tried\nkill $(cat /run/containerd.pid)\n", 0o755)
	before, dump := n.files(), n.dump()
	if out := n.must(1, "install", "--restart", "--restart-command", "/opt/test/restart-badly", "--timeout", "10s"); !strings.Contains(out, "is as it was, and the runtime runs with it") {
		t.Errorf("install says:\n%s", out)
	}
	n.waitReady()
	n.sameFiles(before, "after a restart that failed")
	n.onlyHandlers(dump)
}

// TestRefused is what none-install does not touch, and says so.
func TestRefused(t *testing.T) {
	cri := `[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.`
	for _, c := range []struct {
		name, version, config, says string
		files                       map[string]string
		args                        []string
	}{
		{name: "a config that something else writes", version: "1.7", says: "DO NOT EDIT",
			config: "# File generated by k3s. DO NOT EDIT. Use config.toml.tmpl instead.\nversion = 2\n" + cri + "runc]\n  runtime_type = \"io.containerd.runc.v2\"\n"},
		{name: "CRI is switched off", version: "1.6", says: "switched off", config: "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"},
		{name: "a handler of that name", version: "1.6", says: "did not write", config: "version = 2\n" + cri + "runc]\n  runtime_type = \"io.containerd.runc.v2\"\n" + cri + "airgap]\n  runtime_type = \"io.containerd.runc.v2\"\n"},
		{name: "a handler of that name in another drop-in", version: "2.4", says: "did not write", config: "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n",
			files: map[string]string{"/etc/containerd/conf.d/zz.toml": "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.airgap]\n  runtime_type = 'io.containerd.runc.v2'\n"}},
		{name: "no such base handler", version: "1.6", says: "are runc; choose one with --base-handler", config: "version = 2\n", args: []string{"--base-handler", "kata"}},
		{name: "inline tables", version: "1.7", says: "inline tables", config: "version = 2\n[plugins]\n\"io.containerd.grpc.v1.cri\" = { sandbox_image = \"x/pause:1\" }\n"},
		{name: "another program called none", version: "1.6", says: "did not put it there", config: "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/opt/cni/bin\"\n",
			files: map[string]string{"/opt/cni/bin/none": "#!/bin/sh\n"}},
		{name: "another network in the handler's directory", version: "1.6", says: "does not belong there", config: "version = 2\n",
			files: map[string]string{"/etc/cni/airgap.d/00-bridge.conflist": bridgeConf}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, c.version, c.config)
			for path, text := range c.files {
				n.write(path, text, 0o644)
			}
			before := n.files()
			// No runtime runs: it is looked for where packages put it.
			args := append([]string{"install", "--containerd", filepath.Join(runtimes[c.version], "containerd")}, c.args...)
			if out := n.must(1, args...); !strings.Contains(out, c.says) {
				t.Errorf("it does not say %q:\n%s", c.says, out)
			}
			n.sameFiles(before, "after a refusal")
		})
	}
}

// TestBaseHandler adds a second handler that is a copy of another one.
func TestBaseHandler(t *testing.T) {
	t.Parallel()
	n := newNode(t, "1.7", nvidiaConfig)
	n.start()
	n.loadImage()
	before, dump := n.files(), n.dump()
	n.must(3, "install")
	n.must(0, "install", "--base-handler", "nvidia", "--restart", "--restart-command", restart)
	n.waitReady()
	n.onlyHandlers(dump, "airgap", "airgap-nvidia")
	n.must(0, "verify")
	p := n.mustPod("airgap-nvidia", true)
	if got := n.links(p); !slices.Equal(got, []string{"lo"}) {
		t.Errorf("its pod has %v", got)
	}
	n.removePod(p.id)
	n.must(0, "uninstall", "--restart", "--restart-command", restart)
	n.waitReady()
	n.sameFiles(before, "after uninstall")
}

// TestLabels looks at the SELinux labels of what is written. The kernel here need
// not enforce them: they are extended attributes like others.
func TestLabels(t *testing.T) {
	t.Parallel()
	n := newNode(t, "1.6", kubeadm(t, "1.6"))
	set := func(path, label string) {
		t.Helper()
		if err := unix.Setxattr(n.path(path), "security.selinux", []byte(label+"\x00"), 0); err != nil {
			harness.Skip(t, "label %s: %v", path, err)
		}
	}
	get := func(path string) string {
		buf := make([]byte, 256)
		k, err := unix.Getxattr(n.path(path), "security.selinux", buf)
		if err != nil {
			return err.Error()
		}
		return strings.TrimRight(string(buf[:k]), "\x00")
	}
	const exec, etc, conf = "system_u:object_r:bin_t:s0", "system_u:object_r:etc_t:s0", "system_u:object_r:container_config_t:s0"
	for _, p := range []string{"bridge", "host-local", "loopback"} {
		set("/opt/cni/bin/"+p, exec)
	}
	set("/etc/cni/net.d", etc)
	set(mainFile, conf)
	n.start()
	n.must(3, "install")
	for path, want := range map[string]string{
		"/opt/cni/bin/none": exec, "/etc/cni/airgap.d": etc, "/etc/cni/airgap.d/10-airgap-cri.conflist": etc, mainFile: conf,
	} {
		if got := get(path); got != want {
			t.Errorf("%s is labelled %q, want %q", path, got, want)
		}
	}
	n.must(0, "uninstall")
	if got := get(mainFile); got != conf {
		t.Errorf("after uninstall, the config is labelled %q", got)
	}
}

// TestUpgrade replaces the plugin while pods start, changes the network config
// under a running containerd, and takes containerd from 1.7 to 2.4 and back with
// the edit in place.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	n := newNode(t, "1.7", kubeadm(t, "1.7"))
	before := n.files()
	n.start()
	n.loadImage()
	n.must(0, "install", "--restart", "--restart-command", restart)
	n.waitReady()

	// Another version of the plugin: the same program, other bytes.
	data, err := os.ReadFile(harness.Bin("none"))
	if err != nil {
		t.Fatal(err)
	}
	n.write("/run/other/none", string(data)+"another version", 0o755)
	const pods = 50
	done := make(chan error, pods)
	var slots sync.WaitGroup
	work := make(chan struct{}, pods)
	for range pods {
		work <- struct{}{}
	}
	close(work)
	ids := make(chan pod, pods)
	for range 5 {
		slots.Go(func() {
			for range work {
				p, err := n.startPod("airgap", true)
				if err == nil {
					ids <- p
				}
				done <- err
			}
		})
	}
	replaced := 0
	for started := 0; started < pods; started++ {
		if err := <-done; err != nil {
			t.Errorf("a pod did not start while the plugin was replaced: %v", err)
		}
		if started%5 == 0 {
			if args := []string{"install", "--plugin", "/run/other/none"}; replaced%2 == 0 {
				n.must(0, args...)
			} else {
				n.must(0, "install")
			}
			replaced++
		}
	}
	slots.Wait()
	close(ids)
	for p := range ids {
		if got := n.links(p); !slices.Equal(got, []string{"lo"}) {
			t.Errorf("a pod has %v", got)
		}
	}
	n.removePods()
	n.must(0, "install")

	// containerd reads a changed conflist by itself.
	n.write("/run/four.conflist", strings.Replace(n.read("/etc/cni/airgap.d/10-airgap-cri.conflist"), "100:0:0:1::/64", "192.0.0.8", 1), 0o644)
	n.must(0, "install", "--conflist", "/run/four.conflist")
	harness.Eventually(t, "a new pod reports the new placeholder", func() error {
		p := n.mustPod("airgap", true)
		defer n.removePod(p.id)
		if p.ip != "192.0.0.8" {
			return fmt.Errorf("it reports %q", p.ip)
		}
		return nil
	})
	n.must(0, "install")

	for _, version := range []string{"2.4", "1.7"} {
		n.version = version
		n.write(restart, fmt.Sprintf(restartScript, runtimes[version]), 0o755)
		n.start()
		n.must(0, "install")
		n.must(0, "verify")
		p := n.mustPod("airgap", true)
		if got := n.links(p); !slices.Equal(got, []string{"lo"}) {
			t.Errorf("on containerd %s a pod has %v", version, got)
		}
		n.removePod(p.id)
	}
	n.must(0, "uninstall", "--restart", "--restart-command", restart)
	n.waitReady()
	n.sameFiles(before, "after uninstall")
}
