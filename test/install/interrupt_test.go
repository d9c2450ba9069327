package install

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// operations are the system calls through which none-install changes files. A
// file's content is written before its fsync and counts from its rename on.
var operations = []string{"mkdirat", "fsync", "renameat", "unlinkat"}

// TestInterrupted kills install and uninstall at every one of their file
// operations. In every state that this leaves, containerd starts and every other
// handler is as it was; and from every one, install completes and uninstall undoes.
func TestInterrupted(t *testing.T) {
	for _, version := range []string{"1.6", "1.7", "2.4"} {
		t.Run("containerd-"+version, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, version, kubeadm(t, version))
			n.start()
			original, dump := n.files(), n.dump()
			counts := n.trace("install")
			installed := n.files()
			uncounts := n.trace("uninstall")
			n.sameFiles(original, "after a clean run")

			started := map[string]bool{}
			point := 0
			at := func(call string, nth int, command string) {
				point++
				what := fmt.Sprintf("%s killed at its %d. %s", command, nth, call)
				n.kill(call, nth, command)
				n.onlyOtherHandlers(dump, what)
				if state := fmt.Sprint(n.configFiles()); !started[state] {
					started[state] = true
					n.starts(what)
				}
				// Both ways out, in turns.
				if point%2 == 0 {
					n.must(3, "install")
					n.sameFiles(installed, what+", then install")
				}
				n.must(0, "uninstall")
				n.sameFiles(original, what+", then uninstall")
				if t.Failed() {
					t.FailNow()
				}
			}
			for _, call := range operations {
				for nth := 1; nth <= counts[call]; nth++ {
					at(call, nth, "install")
				}
			}
			for _, call := range operations {
				for nth := 1; nth <= uncounts[call]; nth++ {
					n.must(3, "install")
					at(call, nth, "uninstall")
				}
			}
			t.Logf("%d points, %d states of the config", point, len(started))
			if point < 20 || len(started) < 2 {
				t.Errorf("only %d points and %d states: the trace does not see none-install's work", point, len(started))
			}
		})
	}
}

// trace runs a command to its end and counts its file operations.
func (n *node) trace(command string) map[string]int {
	n.Helper()
	out, err := n.command("strace", "-o", "/run/trace", "-e", "trace="+strings.Join(operations, ","), program, command).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 3) { // a restart is missing
		n.Fatalf("%s: %v\n%s", command, err, out)
	}
	counts := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^(\w+)\(`).FindAllStringSubmatch(n.read("/run/trace"), -1) {
		counts[m[1]]++
	}
	return counts
}

// kill runs a command and kills it as it enters its nth call of that name.
func (n *node) kill(call string, nth int, command string) {
	n.Helper()
	cmd := n.command("strace", "-o", "/dev/null", "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, nth), program, command)
	out, err := cmd.CombinedOutput()
	if err == nil || strings.Contains(string(out), "invalid") {
		n.Fatalf("%s was not killed at its %d. %s: %v\n%s", command, nth, call, err, out)
	}
}

// onlyOtherHandlers is onlyHandlers for a state in which airgap may be there or not.
func (n *node) onlyOtherHandlers(before map[string]any, when string) {
	n.Helper()
	if handlersOf(n.dump())["airgap"] != nil {
		n.onlyHandlers(before, "airgap")
	} else {
		n.onlyHandlers(before)
	}
	if n.Failed() {
		n.Fatal(when)
	}
}

// configFiles is what containerd's start depends on.
func (n *node) configFiles() []string {
	var out []string
	files := n.files()
	for _, k := range slices.Sorted(maps.Keys(files)) {
		if strings.HasPrefix(k, "/etc/") {
			out = append(out, k+files[k])
		}
	}
	return out
}

// starts fails the test unless a containerd starts with the config as it stands:
// another one beside the node's, which knows nothing of this.
func (n *node) starts(when string) {
	n.Helper()
	cmd := n.command("containerd", "--config", mainFile, "--root", "/var/lib/containerd/second", "--state", "/run/second", "--address", "/run/second.sock")
	log, err := os.Create(n.path("/run/second.log"))
	if err != nil {
		n.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		n.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		cmd.Process.Kill()
		<-ended
	}()
	conn, err := grpc.NewClient("unix://"+n.path("/run/second.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.Fatal(err)
	}
	defer conn.Close()
	harness.Eventually(n, when+": containerd starts", func() error {
		select {
		case err := <-ended:
			ended <- err
			n.Fatalf("%s: containerd ended: %v\n%s", when, err, n.read("/run/second.log"))
		default:
		}
		ctx, cancel := contextFor(5 * time.Second)
		defer cancel()
		_, err := cri.NewRuntimeServiceClient(conn).Version(ctx, &cri.VersionRequest{})
		return err
	})
}
