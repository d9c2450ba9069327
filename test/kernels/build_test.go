package kernels

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/vm"
)

// packages are those whose tests run on every kernel.
var packages = []string{"internal/netns", "pkg/loopback", "plugins/none", "cmd/none-audit"}

// insidePackage holds what needs a kernel with all the modules.
const insidePackage = "test/kernels/inside"

// build makes what runs in a machine, in a directory that is /repo there: the test
// programs and, where they are in the repository, what these use.
func build(t *testing.T, dir, arch string) {
	t.Helper()
	env := []string{"CGO_ENABLED=0", "GOFLAGS=", "GOARCH=" + arch}
	for _, p := range packages {
		run(t, harness.Repo(), env, "go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, p, "test"), "./"+p)
		if data := harness.Repo(p, "testdata"); exists(data) {
			run(t, harness.Repo(), nil, "cp", "-r", data, filepath.Join(dir, p, "testdata"))
		}
	}
	run(t, harness.Repo("test"), env, "go", "test", "-c", "-tags=inside", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, insidePackage, "test"), "./kernels/inside")
	run(t, harness.Repo(), env, "go", "build", "-trimpath", "-o", filepath.Join(dir, "bin")+"/", "./plugins/none", "./cmd/none-audit")
	run(t, harness.Repo("test"), env, "go", "build", "-trimpath", "-o", filepath.Join(dir, "path")+"/", "./kernels/sleep")
	for _, page := range []string{"docs/reference.md", "docs/audit.md", "deploy/systemd/none-audit.service"} {
		harness.Copy(t, harness.Repo(page), filepath.Join(dir, page), 0o644)
	}
	harness.Write(t, filepath.Join(dir, "os-release"), "PRETTY_NAME=\"busybox on a Debian kernel\"\n", 0o644)
	// The tests compare the plugin with upstream's, and have it built by this script.
	run(t, harness.Repo("tools/cniplugins"), env, "go", "build", "-trimpath", "-o", filepath.Join(dir, "bin/cniplugins")+"/", "github.com/containernetworking/plugins/plugins/main/loopback")
	script(t, filepath.Join(dir, "tools/build.sh"), "exit 0 # it is built")
	// There is no Go in the machine: the one program that a test builds is copied.
	script(t, filepath.Join(dir, "path/go"), `while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done; exec cp /repo/bin/none-audit "$out"`)
}

func script(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func run(t *testing.T, dir string, env []string, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// notThere are tests that run make or util-linux' setpriv, and attacks on none-audit
// that take an emulated processor ten minutes: they are about the program more than
// the kernel.
var notThere = []string{"TestBuild", "TestPeakMemory", "TestWatchNeedsTheseCapabilities", "TestWatchIsNotBlinded", "TestWatchSaysWhatItLeavesOut"}

// testPackage runs a package's tests in the machine, but for those that cannot run
// there, and returns how many passed. What fails or is skipped is shown.
func testPackage(t *testing.T, m *vm.Machine, p string, without []string) (passed int) {
	t.Helper()
	start := time.Now()
	out, status := m.Run(fmt.Sprintf("export CI=true PATH=$PATH:/repo/path; cd /repo/%s; ./test -test.v -test.short -test.timeout 15m -test.skip '^(%s)$'",
		p, strings.Join(append(without, notThere...), "|")))
	t.Logf("%s took %.0f s", p, time.Since(start).Seconds())
	skipped := false
	var rest strings.Builder
	for line := range strings.Lines(out) {
		skipped = skipped || strings.HasPrefix(line, "--- SKIP:")
		if strings.HasPrefix(line, "--- PASS:") {
			passed++
		}
		if !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(strings.TrimSpace(line), "--- PASS:") {
			rest.WriteString(line)
		}
	}
	if status != 0 || skipped || passed == 0 {
		t.Errorf("%s: exit status %d, %d passed\n%s", p, status, passed, &rest)
	}
	return passed
}
