// Package audit drives none-audit on a machine with real containers: runc's,
// podman's, and the pods of a real containerd.
//
// The tests run on a machine of their own, in which the paths that runtimes keep
// their records at are empty directories.
package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/machine"
)

var bin = harness.Bin()

func TestMain(m *testing.M) {
	machine.Main(m, machine.Config{Furnish: func() error {
		return machine.Tmpfs("/etc/containers", "/var/lib/docker") // podman is told everything by its flags
	}})
}

// rootfs makes a root directory with busybox and none-audit in it.
func rootfs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "root")
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"", "bin", "proc", "dev", "sys", "etc", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{busybox: "bin/sleep", bin + "/none-audit": "none-audit"} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sleep", filepath.Join(dir, "bin/grep")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// must runs a program and returns what it printed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := try(t, args...)
	if code != 0 {
		t.Fatalf("%s: exit status %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

func try(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	// To files, not pipes: a monitor inherits them and lives on.
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	errs, err := os.CreateTemp(t.TempDir(), "err")
	if err != nil {
		t.Fatal(err)
	}
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = out, errs
	runErr := cmd.Run()
	var exit *exec.ExitError
	if runErr != nil && !errors.As(runErr, &exit) {
		t.Fatalf("%v: %v", args, runErr)
	}
	a, _ := os.ReadFile(out.Name())
	b, _ := os.ReadFile(errs.Name())
	return string(a), string(b), cmd.ProcessState.ExitCode()
}

// row is what none-audit --json says about a namespace, as a program would read it.
type row struct {
	Inode      uint64
	Verdict    string
	Why        []string
	Host       bool
	Expected   string
	Violated   bool
	State, Was string // in watch's lines
	Containers []struct {
		ID  string
		Pod *struct{ Namespace, Name, UID string }
	}
	Processes []struct {
		PID     int
		Command string
	}
}

func audit(t *testing.T, args ...string) (rows []row, code int) {
	t.Helper()
	out, errs, code := try(t, append([]string{bin + "/none-audit", "--json"}, args...)...)
	var doc struct{ Namespaces []row }
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("%v: %v\n%s%s", args, err, out, errs)
	}
	return doc.Namespaces, code
}

// one is audit for a target that is in one namespace.
func one(t *testing.T, code int, args ...string) row {
	t.Helper()
	rows, got := audit(t, args...)
	if got != code || len(rows) != 1 {
		t.Fatalf("none-audit %v: exit status %d, want %d; %+v", args, got, code, rows)
	}
	return rows[0]
}

// connect moves a veth into the namespace of a process.
func connect(t *testing.T, pid int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "leak0"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("p%d", pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetNsPid(veth, pid); err != nil {
		t.Fatal(err)
	}
}

// watching is a running none-audit watch.
type watching struct {
	t   *testing.T
	url string

	mu    sync.Mutex
	lines []row
}

func watch(t *testing.T, args ...string) *watching {
	t.Helper()
	w := &watching{t: t}
	cmd := exec.Command(bin+"/none-audit", append([]string{"watch", "--json", "--listen", "127.0.0.1:0"}, args...)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	if _, err := fmt.Fscanf(stderr, "none-audit: metrics on %s\n", &w.url); err != nil {
		t.Fatal(err)
	}
	go func() {
		dec := json.NewDecoder(stdout)
		for {
			var r row
			if dec.Decode(&r) != nil {
				return
			}
			w.mu.Lock()
			w.lines = append(w.lines, r)
			w.mu.Unlock()
		}
	}()
	go func() { _, _ = new(bytes.Buffer).ReadFrom(stderr) }()
	return w
}

// until waits for a line about a namespace that says so.
func (w *watching) until(inode uint64, state string) row {
	w.t.Helper()
	var found row
	harness.Until(w.t, fmt.Sprintf("a line that %d is %s", inode, state), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		i := slices.IndexFunc(w.lines, func(r row) bool { return r.Inode == inode && r.State == state })
		if i >= 0 {
			found = w.lines[i]
		}
		return i >= 0
	})
	return found
}

// hold starts a process in a namespace and returns its pid.
func hold(t *testing.T, path string) int {
	t.Helper()
	cmd := exec.Command("nsenter", "--net="+path, "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	harness.Until(t, "a process in "+path, func() bool {
		a, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
		if err != nil {
			return false
		}
		b, err := os.Stat(path)
		return err == nil && os.SameFile(a, b)
	})
	return cmd.Process.Pid
}
