// Package gocni drives the none plugin through github.com/containerd/go-cni,
// the layer between nerdctl or containerd and CNI plugins, with the conflist
// and the commands that the project ships.
//
// nerdctl itself is in neither Debian 12 nor the Go module proxy, so it is not
// run here. What is tested is every call that it makes of its library.
//
// go-cni keeps libcni's cache in /var/lib/cni and cannot be told otherwise. So
// the tests run in a mount namespace, in which writing to /etc, /opt and
// /var/lib does not reach the real ones, and a network namespace for the bridge
// that a second network needs.
package gocni

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

const insideVar = "CNI_NONE_TEST_STAGE"

// missing says why the tests cannot run here; empty when they can.
var missing string

func TestMain(m *testing.M) {
	if os.Getenv(insideVar) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if missing = lacking(); missing == "" {
		os.Exit(runInside())
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
	for program, remedy := range map[string]string{
		"none":                  "make build",
		"cniplugins/bridge":     "test/tools/build.sh cniplugins",
		"cniplugins/host-local": "test/tools/build.sh cniplugins",
		"cniplugins/loopback":   "test/tools/build.sh cniplugins",
	} {
		if _, err := os.Stat(filepath.Join(repo(), "bin", program)); err != nil {
			return fmt.Sprintf("%v: run %s", err, remedy)
		}
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

// runInside runs this program again in namespaces of its own.
func runInside() int {
	// The parent-death signal is tied to the thread that starts the child.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"=tests")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// furnish lays a tmpfs over the directories that the tests write to.
func furnish() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, dir := range []string{"/etc", "/opt", "/var/lib"} {
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
	for _, dir := range []string{"/etc/cni", "/opt/cni", "/var/lib/cni"} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return os.Setenv("TMPDIR", "/run")
}
