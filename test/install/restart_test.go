package install

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// systemctl stands for systemd's: it restarts the unit that the node's containerd
// runs in, and fails as systemd does. test/node has the real one.
const systemctl = `#!/bin/sh
echo "$@" >>/run/systemctl.log
case "$1 $2" in
"reset-failed engine.service")
	rm -f /run/limit
	exit 0 ;;
"restart engine.service") ;;
*)
	echo "Unit $2 not found." >&2
	exit 5 ;;
esac
if [ -e /run/masked ]; then
	echo "Failed to restart $2: Unit $2 is masked." >&2
	exit 1
fi
pid=$(cat /run/containerd.pid)
kill "$pid" 2>/dev/null
while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
if [ -e /run/limit ]; then
	echo "Job for $2 failed. See \"systemctl status $2\" for details." >&2 # start-limit-hit
	exit 1
fi
if [ -e /run/refuse ] && grep -rqs cni_conf_dir.*airgap /etc/containerd; then
	echo "Job for $2 failed because the control process exited with error code." >&2
	exit 1
fi
[ ! -e /run/hang ] || { rm /run/hang; exec sleep 1000; }
echo 0 >%[1]s/cgroup.procs
exec ` + restart + "\n"

// newServiceNode is a node whose containerd runs in a unit of an unusual name.
func newServiceNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t, "2.4", kubeadm(t, "2.4"))
	top := "/sys/fs/cgroup/pids"
	if _, err := os.Stat(top); err != nil {
		top = "/sys/fs/cgroup"
	}
	group := filepath.Join(top, machine.Cgroup(), fmt.Sprint(podNumber.Add(1)), "engine.service")
	if err := os.MkdirAll(group, 0o755); err != nil {
		harness.Skip(t, "make a control group: %v", err)
	}
	t.Cleanup(func() { // runs before the node ends: its processes are moved out
		procs, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		for pid := range strings.FieldsSeq(string(procs)) {
			_ = os.WriteFile(filepath.Join(top, "cgroup.procs"), []byte(pid), 0)
		}
		harness.Eventually(t, "the control group is removed", func() error {
			return errors.Join(os.Remove(group), os.Remove(filepath.Dir(group)))
		})
	})
	n.start()
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(n.outerPID()), 0); err != nil {
		t.Fatal(err)
	}
	n.write("/opt/test/bin/systemctl", fmt.Sprintf(systemctl, group), 0o755)
	return n
}

// outerPID is containerd's process as the machine numbers it.
func (n *node) outerPID() string {
	n.Helper()
	namespace, err := os.Readlink(n.path("/proc/" + n.containerdPID() + "/ns/pid"))
	if err != nil {
		n.Fatal(err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		n.Fatal(err)
	}
	want := fmt.Sprintf("\t%s\n", n.containerdPID())
	for _, dir := range processes {
		// Another node's containerd may have the same number there.
		if in, _ := os.Readlink(dir + "/ns/pid"); in != namespace {
			continue
		}
		data, _ := os.ReadFile(dir + "/status")
		_, ns, _ := strings.Cut(string(data), "\nNSpid:")
		if line, _, _ := strings.Cut(ns, "\nNSpgid:"); strings.HasSuffix(line+"\n", want) {
			return filepath.Base(dir)
		}
	}
	n.Fatalf("no process is the node's %s", n.containerdPID())
	return ""
}

// withSystemctl runs none-install with that systemctl in its PATH.
func (n *node) withSystemctl(status int, args ...string) string {
	n.Helper()
	cmd := n.command(append([]string{"env", "PATH=/opt/test/bin:" + runtimes[n.version] + ":" + os.Getenv("PATH"), program}, args...)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != status {
		n.Fatalf("none-install %s: exit status %d, want %d\n%s", strings.Join(args, " "), got, status, out)
	}
	return string(out)
}

// TestServiceFails: when the restart of the unit fails, containerd serves again
// with the config that it had, and nothing of ours is left.
func TestServiceFails(t *testing.T) {
	for _, c := range []struct{ mode, says string }{
		{"limit", "is as it was, and the runtime runs with it"},
		{"refuse", "is as it was, and the runtime runs with it"},
		{"hang", "is as it was, and the runtime runs with it"},
		{"masked", "the runtime was not stopped"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			n := newServiceNode(t)
			before, dump := n.files(), n.dump()
			for _, first := range []bool{true, false} {
				if !first { // files from a run without a restart go too
					n.must(3, "install")
				}
				n.write("/run/"+c.mode, "", 0o644)
				if out := n.withSystemctl(1, "install", "--restart", "--timeout", "20s"); !strings.Contains(out, c.says) {
					t.Errorf("install does not say %q:\n%s", c.says, out)
				}
				os.Remove(n.path("/run/" + c.mode))
				n.waitReady()
				n.sameFiles(before, "after a restart that failed")
				n.onlyHandlers(dump)
				n.must(4, "status")
			}
			n.withSystemctl(0, "install", "--restart")
			n.waitReady()
			if c.mode == "refuse" {
				return // it does not refuse the config without the handler
			}
			installed := n.files()
			n.write("/run/"+c.mode, "", 0o644)
			if out := n.withSystemctl(1, "uninstall", "--restart", "--timeout", "20s"); !strings.Contains(out, c.says) {
				t.Errorf("uninstall does not say %q:\n%s", c.says, out)
			}
			os.Remove(n.path("/run/" + c.mode))
			n.waitReady()
			n.sameFiles(installed, "after an uninstall whose restart failed")
			n.must(0, "status")
			n.withSystemctl(0, "uninstall", "--restart")
			n.sameFiles(before, "after uninstall")
		})
	}
}
