// Package machine runs the tests of a package on a machine of their own within
// this one: namespaces for processes, mounts, network, IPC and host name, and
// what a suite mounts over the paths that runtimes have by default.
//
// So runtimes are used as their users use them, beside whatever else runs here.
// When the tests end, in whatever way, the kernel kills what they started and
// drops the mounts and the network. Only control groups would stay; those are
// removed. The kernel, the runtimes and the file systems are the real ones.
package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stageVar says which of three processes this is: the one that go test started
// (unset), process 1 of the machine, or the one that runs the tests.
const (
	stageVar  = "CNI_NONE_TEST_STAGE"
	cgroupVar = "CNI_NONE_TEST_CGROUP"

	cgroupPrefix = "cni-none-test-" // and the process that will remove it
)

// Config is what is particular to a suite. Every part may be left out.
type Config struct {
	// Lacking names what the tests need beside root and is not there, and the remedy.
	Lacking func() string
	// Furnish prepares the machine, as its process 1. Its mounts are private
	// already, and lo is up.
	Furnish func() error
	// Cleanup removes, when the machine is gone, what does not end with it.
	Cleanup func() error
}

// Main is TestMain for a package whose tests need a machine. Where they cannot
// run, it says why and succeeds, or fails if CI is set: nothing is skipped there.
func Main(m *testing.M, c Config) {
	code := 0
	var err error
	switch os.Getenv(stageVar) {
	case "machine":
		code, err = initProcess(c)
	case "tests":
		code = m.Run()
	default:
		code, err = outside(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "test machine:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// Cgroup is the control group that the tests put theirs below.
func Cgroup() string { return os.Getenv(cgroupVar) }

// outside starts the machine and cleans up behind it.
func outside(c Config) (int, error) {
	lacking := ""
	if os.Geteuid() != 0 {
		lacking = "needs root, for namespaces of its own"
	} else if c.Lacking != nil {
		lacking = c.Lacking()
	}
	if lacking != "" {
		fmt.Fprintln(os.Stderr, "SKIP:", lacking)
		if os.Getenv("CI") != "" {
			return 1, errors.New("with CI set nothing is skipped")
		}
		return 0, nil
	}
	removeStaleCgroups()
	cgroup := cgroupPrefix + strconv.Itoa(os.Getpid())

	// The parent-death signal is tied to the thread that starts the child.
	runtime.LockOSThread()
	cmd := again("machine")
	cmd.Env = append(cmd.Env, cgroupVar+"="+cgroup)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	err := cmd.Run()
	code := 0
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.Exited() {
		code, err = exit.ExitCode(), nil
	}
	err = errors.Join(err, removeCgroups(cgroup))
	if c.Cleanup != nil {
		err = errors.Join(err, c.Cleanup())
	}
	return code, err
}

func again(stage string) *exec.Cmd {
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: os.Args,
		Env:   append(os.Environ(), stageVar+"="+stage),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}
}

// initProcess is process 1 of the machine: it furnishes it, starts the tests
// and collects orphans (a runtime's monitors) until they end.
func initProcess(c Config) (int, error) {
	if err := private(); err != nil {
		return 1, err
	}
	if err := loopbackUp(); err != nil {
		return 1, fmt.Errorf("bring up lo: %w", err)
	}
	if c.Furnish != nil {
		if err := c.Furnish(); err != nil {
			return 1, err
		}
	}
	tests := again("tests")
	if err := tests.Start(); err != nil {
		return 1, err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait: %w", err)
		case pid == tests.Process.Pid && status.Exited():
			return status.ExitStatus(), nil
		case pid == tests.Process.Pid:
			return 1, fmt.Errorf("the tests ended by signal %v", status.Signal())
		}
	}
}

// private makes process 1's mounts its own: nothing mounted later is seen
// outside, and /proc shows the machine's processes.
func private() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return dropNamespaces()
}

// dropNamespaces unmounts our copies of the mounts of namespaces: they are none
// of this machine's, and a copy would keep them alive.
func dropNamespaces() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		if !strings.HasPrefix(after, "nsfs ") {
			continue
		}
		// proc_pid_mountinfo(5): the fifth field is the mount point.
		dir := strings.Fields(before)[4]
		err := unix.Unmount(dir, unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // gone is as good
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// Tmpfs makes directories empty, and what is written there goes to memory. One
// that this machine does not have is made and stays, empty.
func Tmpfs(dirs ...string) error {
	for _, dir := range dirs {
		if err := mount("tmpfs", dir, "mode=755"); err != nil {
			return err
		}
	}
	return nil
}

// Overlay keeps directories as they are on this machine, and what is written
// there goes to /run, which has to be a tmpfs.
func Overlay(dirs ...string) error {
	for _, dir := range dirs {
		upper, work := "/run/layers"+dir+"/upper", "/run/layers"+dir+"/work"
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
			return err
		}
		if err := mount("overlay", dir, "lowerdir="+dir+",upperdir="+upper+",workdir="+work); err != nil {
			return err
		}
	}
	return nil
}

func mount(kind, dir, options string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(kind, dir, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, dir, err)
	}
	return nil
}

// Cgroups lists the control groups of a name and those below, parents first, in
// whatever hierarchies there are.
func Cgroups(name string) []string {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	var dirs []string
	for _, root := range append(roots, "/sys/fs/cgroup/"+name) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
	}
	return dirs
}

// removeCgroups removes control groups, which the last process may still be leaving.
func removeCgroups(name string) error {
	var last error
	for range 50 {
		last = nil
		for _, dir := range slices.Backward(Cgroups(name)) {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				last = fmt.Errorf("remove control group %s: %w", dir, err)
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
		if err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = removeCgroups(name) // what cannot be removed now is somebody else's, or a later test's
		}
	}
}
