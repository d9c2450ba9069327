// Package containerd drives the none plugin through the CRI of real containerd
// daemons: Debian's 1.6, and 1.7 and 2.4 built from their Go modules. It runs
// the commands and the configs of docs/runtimes.md and conf/ as they are, and
// looks from inside the containers and at the host.
//
// The tests run on a machine of their own within this one: namespaces for
// mounts, network and processes, in which /etc, /opt, /usr/lib, /var/lib and
// /run can be written to at the paths that the documentation names. All of it
// is gone when the last process is.
//
// It does not drive a kubelet: test/kubernetes does.
package containerd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stageVar says which of the three processes this is: the one that go test
// started (unset), process 1 of the machine, or the one that runs the tests.
const (
	stageVar  = "CNI_NONE_TEST_STAGE"
	cgroupVar = "CNI_NONE_TEST_CGROUP"

	cgroupPrefix = "cni-none-test-" // and the process that will remove it
)

// missing says why the tests cannot run here; empty when they can.
var missing string

func TestMain(m *testing.M) {
	switch os.Getenv(stageVar) {
	case "machine":
		os.Exit(runMachine())
	case "tests":
		os.Exit(m.Run())
	}
	if missing = lacking(); missing == "" {
		os.Exit(startMachine())
	}
	if os.Getenv("CI") != "" {
		fmt.Fprintln(os.Stderr, "with CI set nothing is skipped:", missing)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// lacking names what the tests need and this machine does not have.
func lacking() string {
	if os.Geteuid() != 0 {
		return "needs root"
	}
	for _, program := range []string{"/usr/bin/containerd", "/usr/bin/ctr", "runc", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Sprintf("%v: run test/tools/debian.sh containerd runc busybox-static", err)
		}
	}
	for _, program := range []string{"containerd17/containerd", "containerd17/containerd-shim-runc-v2", "containerd17/ctr", "containerd24/containerd", "containerd24/containerd-shim-runc-v2", "containerd24/ctr", "cniplugins/bridge", "cniplugins/loopback", "cniplugins/host-local"} {
		if _, err := os.Stat(filepath.Join(repo(), "bin", program)); err != nil {
			return fmt.Sprintf("%v: run test/tools/build.sh containerd17 containerd24 cniplugins", err)
		}
	}
	if _, err := os.Stat(filepath.Join(repo(), "bin", "none")); err != nil {
		return fmt.Sprintf("%v: run make build", err)
	}
	return ""
}

// repo is the root of the repository.
func repo() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}

// startMachine runs this program again as process 1 of new namespaces, and
// removes the one thing that does not end with them: its control groups.
func startMachine() int {
	// The parent-death signal is tied to the thread that starts the child.
	runtime.LockOSThread()
	removeStaleCgroups()
	cgroup := fmt.Sprintf("%s%d", cgroupPrefix, os.Getpid())
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

// runMachine is process 1 of the machine: it furnishes it, starts the tests and
// collects orphans (containerd's shims) until the tests end.
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
			fmt.Fprintln(os.Stderr, "test machine: tests ended by signal", status.Signal())
			return 1
		}
	}
}

// furnish makes the directories that the documentation writes to writable
// without touching the real ones, and brings the machine's own lo up.
func furnish() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, dir := range []string{"/etc", "/opt", "/usr/lib", "/var/lib"} {
		layer := filepath.Join("/run/layers", dir)
		for _, sub := range []string{"upper", "work"} {
			if err := os.MkdirAll(filepath.Join(layer, sub), 0o755); err != nil {
				return err
			}
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%[2]s/upper,workdir=%[2]s/work", dir, layer)
		if err := syscall.Mount("overlay", dir, "overlay", 0, options); err != nil {
			return fmt.Errorf("mount an overlay on %s: %w", dir, err)
		}
	}
	// A tmpfs, since containerd's own overlays cannot stand on an overlay.
	if err := os.MkdirAll("/var/lib/containerd", 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", "/var/lib/containerd", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /var/lib/containerd: %w", err)
	}
	if out, err := exec.Command("busybox", "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("bring lo up: %w: %s", err, out)
	}
	return os.Setenv("TMPDIR", "/run")
}

// removeCgroups removes the machine's control groups, which outlive its
// processes, in whatever hierarchies there are.
func removeCgroups(name string) error {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	roots = append(roots, "/sys/fs/cgroup/"+name)
	var last error
	for range 50 {
		last = nil
		for _, root := range roots {
			var dirs []string
			filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				if err := syscall.Rmdir(dirs[i]); err != nil && !errors.Is(err, syscall.ENOENT) {
					last = fmt.Errorf("remove control group %s: %w", dirs[i], err)
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

// removeStaleCgroups removes those of earlier tests that were killed.
func removeStaleCgroups() {
	nested, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupPrefix + "*")
	unified, _ := filepath.Glob("/sys/fs/cgroup/" + cgroupPrefix + "*")
	for _, dir := range append(nested, unified...) {
		name := filepath.Base(dir)
		pid, err := strconv.Atoi(strings.TrimPrefix(name, cgroupPrefix))
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			removeCgroups(name) // what cannot be removed now is somebody else's, or a later test's
		}
	}
}

// interfaces lists what the machine's network namespace holds.
func interfaces(t *testing.T) []string {
	t.Helper()
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

// sh runs a command of the documentation in the repository.
func sh(t *testing.T, script string, env ...string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = repo()
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}
