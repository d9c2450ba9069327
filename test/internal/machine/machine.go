// Package machine runs the tests of a suite on a machine of their own within this
// one: namespaces for processes, mounts, network, IPC and host name, and a file
// system that looks like this machine's and forgets what is written to it.
//
// So runtimes are used as their users use them, at the paths that they have by
// default, beside whatever else runs here. When the tests end, in whatever way,
// the kernel kills what they started and drops the mounts and the network. Only
// control groups would stay; those are removed. The kernel, the runtimes and the
// file systems are the real ones.
//
// A suite is either on one machine ([Main]), or makes several ([New]).
package machine

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// stageVar says which process this is: the one that go test started (unset),
// process 1 of a machine, with or without the tests on it, or the tests.
const (
	stageVar  = "CNI_NONE_TEST_STAGE"
	cgroupVar = "CNI_NONE_TEST_CGROUP"

	cgroupPrefix = "cni-none-test-" // and the process that will remove it
	namespaces   = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
)

// Config is what is particular to a suite. Every part may be left out.
type Config struct {
	// Furnish adds to the machine's furniture, as its process 1.
	Furnish func() error
	// Several says that the tests make their machines with New.
	Several bool
	// MountsOnly leaves the other namespaces and all furniture but Furnish away:
	// what root of a user namespace can have anywhere.
	MountsOnly bool
	// Cgroups are names of control groups that the suite's runtimes make by default:
	// what is new there is removed as well.
	Cgroups []string
}

// Main is TestMain for a suite whose tests need a machine. Where they cannot run,
// it says why and succeeds, or fails if CI is set: nothing is skipped there.
func Main(m *testing.M, c Config) {
	flag.Parse()
	code := 0
	var err error
	switch stage := os.Getenv(stageVar); stage {
	case "machine", "several":
		if err = c.furnish(); err == nil && stage == "several" {
			serve()
		}
		switch {
		case err != nil:
			code = 1
		case c.MountsOnly:
			code = m.Run()
		default:
			code, err = initProcess()
		}
	case "tests":
		code = m.Run()
	default:
		code, err = outside(m, c)
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
func outside(m *testing.M, c Config) (int, error) {
	if why := harness.Lacking(); why != "" {
		return harness.SkipAll(why), nil
	}
	removeStaleCgroups()
	cgroup := cgroupPrefix + strconv.Itoa(os.Getpid())
	if err := os.Setenv(cgroupVar, cgroup); err != nil {
		return 1, err
	}
	before := listCgroups(c.Cgroups)
	if c.Several {
		code := m.Run()
		return code, removeCgroups(cgroup)
	}

	// The parent-death signal is tied to the thread that starts the child.
	runtime.LockOSThread()
	cmd := again("machine")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: unix.SIGKILL}
	if c.MountsOnly {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS
	}
	err := cmd.Run()
	if errors.Is(err, unix.EPERM) {
		return harness.SkipAll("needs CAP_SYS_ADMIN, for namespaces of its own"), nil
	}
	code := 0
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.Exited() {
		code, err = exit.ExitCode(), nil
	}
	err = errors.Join(err, removeCgroups(cgroup))
	// Deepest first. One that is in use stays: rmdir refuses it.
	for _, dir := range slices.Backward(listCgroups(c.Cgroups)) {
		if !slices.Contains(before, dir) {
			_ = os.Remove(dir)
		}
	}
	return code, err
}

func again(stage string) *exec.Cmd {
	return &exec.Cmd{Path: "/proc/self/exe", Args: os.Args, Env: append(os.Environ(), stageVar+"="+stage)}
}

// initProcess is process 1 of the machine: it starts the tests and collects orphans
// (a runtime's monitors) until they end.
func initProcess() (int, error) {
	tests := again("tests")
	tests.Stdin, tests.Stdout, tests.Stderr = os.Stdin, os.Stdout, os.Stderr
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

// serve is process 1 of one of several machines: it says that the machine is there
// and collects orphans until the test ends, which closes our standard input, also
// when it is killed.
func serve() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println("ready")
	os.Stdout.Close()
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// furnish makes process 1's mounts its own, so that nothing mounted later is seen
// outside, and gives the machine its file system and lo.
func (c Config) furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if !c.MountsOnly {
		if err := furniture(); err != nil {
			return err
		}
	}
	if c.Furnish != nil {
		return c.Furnish()
	}
	return nil
}

func furniture() error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := dropNamespaces(); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	if err := Tmpfs("/run", "/dev/shm"); err != nil { // podman keeps its locks in /dev/shm
		return err
	}
	if err := Overlay("/etc", "/opt", "/usr/lib", "/var"); err != nil {
		return err
	}
	// An overlay cannot be the upper layer of another one, and this is where the
	// runtimes keep theirs.
	if err := Tmpfs("/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/kubelet"); err != nil {
		return err
	}
	// What this machine's own runtimes have is none of the tests' business.
	for _, dir := range []string{"/etc/cni", "/etc/containerd", "/opt/cni", "/opt/containerd", "/var/lib/cni", "/var/lib/cni-none"} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run/lock", "/run/log", "/run/tmp"} {
		if err := os.Mkdir(dir, 0o777|fs.ModeSticky); err != nil {
			return err
		}
	}
	// Documented commands build bin/none, which other suites use at the same time: from
	// the same file system it gets there in one piece, by a rename.
	return errors.Join(os.Setenv("TMPDIR", "/run/tmp"), os.Setenv("GOTMPDIR", harness.Bin()))
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
