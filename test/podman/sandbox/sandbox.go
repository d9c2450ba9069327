// Package sandbox gives a test a machine of its own to run container runtimes
// on: its own network, processes and mounts, with /etc, /opt and /var as they
// are on the machine but written to memory, and an empty /run.
//
// So a test uses the runtimes as a user does, with the paths that they have by
// default and the commands of docs/runtimes.md word for word, beside whatever
// runs on the machine. When the test ends, in whatever way, the kernel kills
// what it started and drops the mounts and the network. Only control groups
// are shared with the machine; those that appeared are removed.
//
// The kernel, the runtimes and the file systems are the real ones. The package
// needs root.
package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// stage says, in a process of ours, which of the three it is.
const stage = "CNI_NONE_SANDBOX"

// Main is TestMain for a package whose tests run in a sandbox. needs lists the
// programs without which they cannot run.
func Main(m *testing.M, needs ...string) {
	switch os.Getenv(stage) {
	case "":
		os.Exit(outside(needs))
	case "init":
		os.Exit(initProcess())
	default:
		os.Exit(m.Run())
	}
}

// outside starts the sandbox and cleans up behind it.
func outside(needs []string) int {
	if missing := missing(needs); missing != "" {
		if os.Getenv("CI") == "true" {
			fmt.Fprintln(os.Stderr, missing)
			return 1
		}
		fmt.Println("SKIP:", missing)
		return 0
	}
	before := cgroups()
	defer func() {
		// Deepest first. One that is in use stays: rmdir refuses it.
		for _, dir := range slices.Backward(cgroups()) {
			if !slices.Contains(before, dir) {
				os.Remove(dir)
			}
		}
	}()

	// The death signal follows the thread that starts the process.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stage+"=init")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	return exitCode(cmd.Run())
}

func missing(needs []string) string {
	if os.Geteuid() != 0 {
		return "needs root: it runs container runtimes"
	}
	for _, name := range needs {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Sprintf("needs %s: run this through run.sh, which installs it", name)
		}
	}
	return ""
}

// initProcess is process 1 of the sandbox: it furnishes it, runs the tests in a
// process of their own, and reaps what the runtimes leave to it.
func initProcess() int {
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stage+"=tests")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 1
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "sandbox: wait:", err)
			return 1
		}
		if pid == cmd.Process.Pid {
			if status.Exited() {
				return status.ExitStatus()
			}
			return 1
		}
	}
}

func furnish() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// A copy of a mount holds what is mounted: other people's namespaces, here,
	// which would outlive them for as long as the test runs.
	if err := dropNamespaces(); err != nil {
		return err
	}
	steps := []struct{ kind, dir string }{
		{"proc", "/proc"},
		{"tmpfs", "/run"},
		{"tmpfs", "/dev/shm"}, // podman keeps its locks here
		{"overlay", "/etc"},
		{"overlay", "/opt"},
		{"overlay", "/var"},
		// An overlay cannot be the upper layer of another one, and this is
		// where the runtimes keep theirs.
		{"tmpfs", "/var/lib/containers"},
		{"tmpfs", "/var/lib/containerd"},
		{"tmpfs", "/var/lib/docker"},
		// What the machine's own runtimes have there is none of the test's business.
		{"tmpfs", "/etc/cni"},
		{"tmpfs", "/opt/cni"},
		{"tmpfs", "/var/lib/cni"},
	}
	for _, s := range steps {
		if err := os.MkdirAll(s.dir, 0o755); err != nil {
			return err
		}
		var options string
		if s.kind == "overlay" {
			upper, work := "/run/overlay"+s.dir+"/upper", "/run/overlay"+s.dir+"/work"
			for _, d := range []string{upper, work} {
				if err := os.MkdirAll(d, 0o755); err != nil {
					return err
				}
			}
			options = "lowerdir=" + s.dir + ",upperdir=" + upper + ",workdir=" + work
		}
		if err := syscall.Mount(s.kind, s.dir, s.kind, 0, options); err != nil {
			return fmt.Errorf("mount %s on %s: %w", s.kind, s.dir, err)
		}
	}
	// The machine's own names would show in every container.
	files := map[string]string{
		"/etc/hosts":       "127.0.0.1 localhost\n",
		"/etc/resolv.conf": "nameserver 192.0.2.53\n",
	}
	for path, text := range files {
		os.Remove(path) // may be a link into the machine's /run
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll("/run/lock", 0o755); err != nil {
		return err
	}
	// 192.0.2.1 is reachable from here, and from every container that has a
	// way out: the positive control for the ones that have none.
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"address", "add", "192.0.2.1/32", "dev", "lo"}} {
		if out, err := exec.Command("/bin/busybox", append([]string{"ip"}, args...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %s: %w", strings.Join(args, " "), out, err)
		}
	}
	return nil
}

// dropNamespaces unmounts, in the sandbox, the namespaces that are mounted.
func dropNamespaces() error {
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		if !strings.HasPrefix(after, "nsfs ") {
			continue
		}
		// proc_pid_mountinfo(5): the fifth field is the mount point. One that
		// is gone by now is as good.
		if dir := strings.Fields(before)[4]; syscall.Unmount(dir, syscall.MNT_DETACH) == syscall.EBUSY {
			return fmt.Errorf("unmount %s: %w", dir, syscall.EBUSY)
		}
	}
	return nil
}

// cgroups lists the control groups that podman, Docker and ctr make by default.
func cgroups() []string {
	var out []string
	for _, name := range []string{"libpod_parent", "docker", "default"} {
		v1, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
		for _, top := range append(v1, "/sys/fs/cgroup/"+name) {
			filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					out = append(out, path)
				}
				return nil
			})
		}
	}
	return out
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	default:
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		return 1
	}
}
