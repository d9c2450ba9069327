// Package audit drives none-audit on a machine with real containers: runc's,
// podman's, and the pods of a real containerd.
//
// The tests run on a machine of their own within this one: namespaces for
// mounts, network and processes, in which the paths that runtimes keep their
// records at are empty directories. All of it is gone when the last process is.
package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stageVar says which of three processes this is: the one that go test started
// (unset), process 1 of the machine, or the one that runs the tests.
const (
	stageVar  = "AUDIT_TEST_STAGE"
	cgroupVar = "AUDIT_TEST_CGROUP" // every container's cgroup is below this one
)

// patience bounds every wait. It costs nothing where what must come comes.
const patience = 2 * time.Minute

var bin = func() string {
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		panic(err)
	}
	return dir
}()

func TestMain(m *testing.M) {
	switch os.Getenv(stageVar) {
	case "machine":
		os.Exit(runMachine())
	case "tests":
		os.Exit(m.Run())
	}
	if lacks := lacking(); lacks != "" {
		fmt.Fprintln(os.Stderr, "SKIP:", lacks)
		if os.Getenv("CI") != "" {
			os.Exit(1) // nothing is skipped there
		}
		os.Exit(0)
	}
	os.Exit(startMachine())
}

// lacking names what the tests need and this machine does not have.
func lacking() string {
	if os.Geteuid() != 0 {
		return "needs root"
	}
	for _, program := range []string{"runc", "podman", "dockerd", "/usr/bin/docker", "busybox", bin + "/none", bin + "/none-audit", bin + "/containerd24/containerd"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Sprintf("%v: run test/audit/run.sh", err)
		}
	}
	return ""
}

// startMachine runs this program again as process 1 of new namespaces, and
// removes the one thing that does not end with them: its control groups.
func startMachine() int {
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	cgroup := fmt.Sprintf("none-audit-test-%d", os.Getpid())
	cmd := again("machine")
	cmd.Env = append(cmd.Env, cgroupVar+"="+cgroup)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	code := exitCode(cmd.Run())
	if err := removeCgroups(cgroup); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func again(stage string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stageVar+"="+stage)
	return cmd
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "test machine:", err)
	return 1
}

// runMachine is process 1: it furnishes the machine, starts the tests, and
// collects orphans (a runtime's monitors) until the tests end.
func runMachine() int {
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "test machine:", err)
		return 1
	}
	tests := again("tests")
	if err := tests.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "test machine:", err)
		return 1
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			fmt.Fprintln(os.Stderr, "test machine: wait:", err)
			return 1
		case pid == tests.Process.Pid && status.Exited():
			return status.ExitStatus()
		case pid == tests.Process.Pid:
			fmt.Fprintln(os.Stderr, "test machine: the tests ended by signal", status.Signal())
			return 1
		}
	}
}

func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := letGo(); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/var/lib/cni", "/var/lib/containers", "/var/lib/containerd", "/etc/cni", "/etc/containers"} {
		// A directory that this machine does not have is made and stays, empty.
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	return os.Setenv("TMPDIR", "/run")
}

// letGo unmounts our copies of the mounts of network namespaces: they are none
// of this machine's, and a copy would keep them alive.
func letGo() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if !strings.HasPrefix(fields[3], "net:[") {
			continue
		}
		if err := unix.Unmount(fields[4], unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", fields[4], err)
		}
	}
	return nil
}

// removeCgroups removes the machine's control groups in whatever hierarchies there are.
func removeCgroups(name string) error {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	roots = append(roots, "/sys/fs/cgroup/"+name)
	var last error
	for range 50 {
		last = nil
		for _, root := range roots {
			var dirs []string
			_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(dirs) {
				if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
					last = fmt.Errorf("remove %s: %w", dir, err)
				}
			}
		}
		if last == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return last
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
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		w.mu.Lock()
		for _, r := range w.lines {
			if r.Inode == inode && r.State == state {
				w.mu.Unlock()
				return r
			}
		}
		w.mu.Unlock()
	}
	w.t.Fatalf("no line that %d is %s: %+v", inode, state, w.lines)
	return row{}
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
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		a, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.Stat(path); err == nil && os.SameFile(a, b) {
			return cmd.Process.Pid
		}
	}
	t.Fatalf("no process in %s", path)
	return 0
}
