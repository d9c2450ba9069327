package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// furnished runs none-audit where /var/lib, /run and /etc/passwd are as a test
// wants them: dir has them, and the program sees a mount namespace of its own.
func furnished(dir string, args ...string) *exec.Cmd {
	script := `
for d in var/lib run; do mkdir -p "$0/$d"; mount --rbind "$0/$d" "/$d"; done
[ ! -e "$0/passwd" ] || mount --bind "$0/passwd" /etc/passwd
exec "$@"`
	cmd := exec.Command("sh", append([]string{"-euc", script, dir, audit}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	return cmd
}

// cacheEntry is a record of the CNI library about an attachment to a none network.
// podman's lacks the namespace, but for the result.
func cacheEntry(id, netns string, podman bool) string {
	config := base64.StdEncoding.EncodeToString([]byte(`{"name": "airgap", "plugins": [{"type": "none"}]}`))
	named := fmt.Sprintf(`"netns": %q,`, netns)
	if podman {
		named = ""
	}
	return fmt.Sprintf(`{"kind": "cniCacheV1", "containerId": %q, "config": %q, "networkName": "airgap", %s
		"cniArgs": [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-%s"]],
		"result": {"cniVersion": "1.0.0", "interfaces": [{"name": "veth1"}, {"name": "lo", "sandbox": %q}]}}`, id, config, named, id, netns)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A namespace that ought to be isolated is found in the records of every runtime,
// and then its violation is one.
func TestFindsWhatIsClaimed(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		podman     bool
		args       []string
	}{
		{"the CNI library", "var/lib/cni/results/airgap-1-eth0", false, nil},
		{"podman", "var/lib/cni/results/airgap-1-eth0", true, nil},
		{"Multus", "var/lib/cni/multus/results/airgap-1-net1", false, nil},
		{"another cache", "cache/results/airgap-1-eth0", false, []string{"--cni-cache", "DIR/cache"}},
		{"another cache's results", "cache/results/airgap-1-eth0", false, []string{"--cni-cache", "DIR/cache/results"}},
		{"the second of two", "cache/results/airgap-1-eth0", false, []string{"--cni-cache", "DIR/other", "--cni-cache=DIR/cache/"}},
		{"the default beside another", "var/lib/cni/results/airgap-1-eth0", false, []string{"--cni-cache", "DIR/other"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := nstest.New(t)
			moveVeth(t, nstest.New(t), ns, "eth0")
			dir := t.TempDir()
			for _, d := range []string{"other/results", filepath.Dir(tt.file)} {
				if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			var args []string
			for _, a := range append(tt.args, "--json") {
				args = append(args, strings.ReplaceAll(a, "DIR", dir))
			}
			if r, _ := rowOf(t, ns, furnished(dir, args...)); r.Violated {
				t.Fatalf("control: without a record: %+v", r)
			}
			write(t, filepath.Join(dir, tt.file), cacheEntry("1", ns.Path, tt.podman))
			r, status := rowOf(t, ns, furnished(dir, args...))
			if status != exitViolated || !r.Violated || r.Expected != "network airgap" || len(r.Containers) != 1 || r.Containers[0].Pod.String() != "shop/web-1" {
				t.Errorf("status %d, %+v", status, r)
			}
			if tt.args != nil || tt.podman {
				return
			}
			// By the pod's name, with flags behind it.
			out, errs, status := output(t, furnished(dir, append([]string{"shop/web-1"}, args...)...))
			if status != exitViolated || !strings.Contains(out, "eth0 (veth)") {
				t.Errorf("shop/web-1: status %d, %s%s", status, out, errs)
			}
			if _, errs, status = output(t, furnished(dir, "shop/web-2")); status != exitUnknown || !strings.Contains(errs, "no running pod") {
				t.Errorf("shop/web-2: status %d, %s", status, errs)
			}
		})
	}
}

// rowOf runs none-audit and returns what it says about a namespace.
func rowOf(t *testing.T, ns *nstest.NS, cmd *exec.Cmd) (row, int) {
	t.Helper()
	out, errs, status := output(t, cmd)
	var doc struct{ Namespaces []row }
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	for _, r := range doc.Namespaces {
		if r.Inode == inode(t, ns.Path) {
			return r, status
		}
	}
	t.Fatalf("not in the list: %s%s", out, errs)
	return row{}, 0
}

// A directory that is no cache is an error, and never nothing to expect.
func TestNoCache(t *testing.T) {
	empty := t.TempDir()
	for _, args := range [][]string{{"--cni-cache", empty}, {"watch", "--cni-cache", empty}, {"--cni-cache", empty + "/nowhere"}, {"--cni-cache", "/etc/passwd"}} {
		out, errs, status := output(t, exec.Command(audit, args...))
		if status != exitUnknown || out != "" || !strings.Contains(errs, args[len(args)-1]) {
			t.Errorf("%v: status %d, %q, %q", args, status, out, errs)
		}
	}
}

// The records of a user without root count for what that user has, and for
// nothing else; nor can the user hold up or mislead the audit with them.
func TestRootless(t *testing.T) {
	attr := asUser()
	if attr.Credential == nil {
		t.Skip("needs a second user: this user namespace has one")
	}
	const path = "/tmp/run/netns/x"
	_, said := attack(t, "enter", attr, "rootless", path)
	roots := nstest.New(t)
	up(t, roots)

	dir := t.TempDir()
	write(t, filepath.Join(dir, "passwd"), fmt.Sprintf("root:x:0:0::/root:/bin/sh\nu:x:54321:54321::%s/home/u:/bin/sh\n", dir))
	for name, file := range map[string]string{
		"nerdctl": filepath.Join(dir, "home/u/.local/share/cni/results/airgap-1-eth0"),
		"podman":  filepath.Join(dir, "run/user/54321/libpod/tmp/rootless-netns/var/lib/cni/results/airgap-1-eth0"),
	} {
		expected := func(netns string) map[string]string {
			if netns != "" {
				write(t, file, cacheEntry("1", netns, false))
				if err := os.Chown(file, 54321, 54321); err != nil {
					t.Fatal(err)
				}
			}
			out, errs, _ := output(t, furnished(dir, "--json"))
			var doc struct{ Namespaces []row }
			if err := json.Unmarshal([]byte(out), &doc); err != nil {
				t.Fatalf("%v\n%s%s", err, out, errs)
			}
			all := map[string]string{}
			for _, r := range doc.Namespaces {
				all[fmt.Sprint(r.Inode)] = r.Expected
			}
			return all
		}
		if e, ok := expected("")[said]; !ok || e != "" {
			t.Fatalf("%s: control: without a record: %q, seen: %v", name, e, ok)
		}
		if e := expected(path)[said]; e != "network airgap" {
			t.Errorf("%s: the user's own: %q", name, e)
		}
		if e := expected(roots.Path)[fmt.Sprint(inode(t, roots.Path))]; e != "" {
			t.Errorf("%s: root's: %q", name, e)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}

	// A fifo, a link to a device and a huge file.
	results := filepath.Join(dir, "home/u/.local/share/cni/results")
	if err := unix.Mkfifo(filepath.Join(results, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(results, "link")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(results, "huge"), "")
	if err := os.Truncate(filepath.Join(results, "huge"), 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, errs, status := output(t, furnished(dir, roots.Path)); status != exitOK {
		t.Errorf("status %d, %s", status, errs)
	}
}

// A table without its first line is what a script wants.
func TestNoHeaders(t *testing.T) {
	ns := nstest.New(t)
	up(t, ns)
	with, _, _ := output(t, exec.Command(audit, ns.Path))
	without, _, _ := output(t, exec.Command(audit, ns.Path, "--no-headers"))
	if !strings.HasPrefix(with, "NAMESPACE ") || strings.Count(with, "\n") != 2 || strings.Contains(without, "NAMESPACE") || strings.Count(without, "\n") != 1 {
		t.Errorf("with:\n%swithout:\n%s", with, without)
	}
}

// runc's state names a container by what nerdctl calls it, and its pod, until
// another process has the pid of the container's first one.
func TestRuncState(t *testing.T) {
	ns := nstest.New(t)
	up(t, ns)
	pid := sleeper(t, ns)
	started, err := startTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	state := filepath.Join(root, "box", "state.json")
	if err := os.Mkdir(filepath.Dir(state), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(start uint64) {
		t.Helper()
		text := fmt.Sprintf(`{"id": "abcdef", "init_process_pid": %d, "init_process_start": %d, "config": {"labels": [
			"nerdctl/name=web", "io.kubernetes.cri.sandbox-namespace=research", "io.kubernetes.cri.sandbox-name=model-7"]}}`, pid, start)
		if err := os.WriteFile(state, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(started)
	for _, target := range []string{"web", "abcdef", "abcd", "research/model-7"} {
		rows, status := auditJSON(t, "--runc-root", root, target)
		if r, ok := rows[inode(t, ns.Path)]; !ok || status != exitOK || len(r.Containers) != 1 || r.Containers[0].ID != "abcdef" {
			t.Errorf("%s: status %d, %+v", target, status, rows)
		}
	}
	if rows, status := auditJSON(t, "--runc-root", root, "db"); status != exitUnknown || len(rows) != 0 {
		t.Errorf("a name that no container has: status %d, %+v", status, rows)
	}
	write(started + 1)
	if rows, status := auditJSON(t, "--runc-root", root, "web"); status != exitUnknown || len(rows) != 0 {
		t.Errorf("another process with that pid: status %d, %+v", status, rows)
	}
}
