package agents

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// guide follows docs/agents.md: its commands, with the files that it prints.
func guide(t *testing.T, s suite) {
	for _, file := range []string{"namespace.yaml", "template.yaml", "run.sh", "example.py"} {
		if printed, is := harness.Block(t, page, file)+"\n", harness.Read(t, harness.Repo("deploy/samples/agents", file)); printed != is {
			t.Errorf("%s does not print deploy/samples/agents/%s as it is", page, file)
		}
	}
	s.sh(t, harness.Block(t, page, "install"))
	harness.Poll(t, "the pool is filled", func() (bool, string) {
		got, err := s.Kubectl("get", "sandboxwarmpool", "-n", "agents", "python", "-o", "jsonpath={.status.readyReplicas}")
		return err == nil && got == "2", got
	})
	s.runner(t)

	// The example, as the page shows it, from a pod of the pool.
	pool := s.MustKubectl(t, "get", "pods", "-n", "agents", "-o", "jsonpath={.items[*].metadata.name}")
	if got := s.sh(t, harness.Block(t, page, "run")); got != strings.TrimSpace(harness.Block(t, page, "output")) {
		t.Errorf("the example prints\n%s", got)
	}
	if got := s.MustKubectl(t, "get", "pods", "-n", "agents", "-o", "jsonpath={.items[*].metadata.name}"); got == pool {
		t.Error("the pool has the same pods as before: none of them was used")
	}
	for _, class := range classes {
		t.Run(class, func(t *testing.T) {
			template := "python"
			if class != "airgap-gvisor" {
				template = "python-" + class
				s.Apply(t, fmt.Sprintf("apiVersion: extensions.agents.x-k8s.io/v1alpha1\nkind: SandboxTemplate\nmetadata: {name: %s, namespace: agents}\nspec:\n%s", template, podSpec(t, class)))
			}
			s.threats(t, template)
		})
	}
	harness.Poll(t, "every claim and its sandbox is gone", func() (bool, string) {
		got, err := s.Kubectl("get", "sandboxclaims,sandboxes", "-n", "agents", "-o", "name")
		return err == nil && got == "", got
	})
}

// sh runs commands of the page in the samples' folder's parent, the repository, as
// the administrator or, once runner has been asked, as the runner.
func (s suite) sh(t *testing.T, script string, env ...string) string {
	t.Helper()
	out, err := s.trySh(script, env...)
	if err != nil {
		t.Fatalf("%s\n%v: %s", script, err, out)
	}
	return out
}

func (s suite) trySh(script string, env ...string) (string, error) {
	cmd := s.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(s.Program("kubectl"))+":"+os.Getenv("PATH"))
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

const runnerConfig = "/run/runner.conf"

// runner makes a kubeconfig of the account that the page makes for programs' runs.
func (s suite) runner(t *testing.T) {
	t.Helper()
	token := s.MustKubectl(t, "create", "token", "-n", "agents", "runner")
	text := s.Machine.Read(t, s.Kubeconfig)
	s.Machine.Write(t, runnerConfig, strings.Replace(text, "token: "+s.Token, "token: "+token, 1), 0o600)
	if got, err := s.trySh("kubectl get pods -n agents", "KUBECONFIG="+runnerConfig); err == nil {
		t.Errorf("the runner may list pods: %s", got)
	}
}

// program runs code through run.sh as the runner and tells what came of it.
func (s suite) program(t *testing.T, template, flags, code string) (out string, status int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program.py")
	harness.Write(t, file, code, 0o644)
	out, err := s.trySh("cd "+filepath.Dir(file)+" && "+harness.Repo("deploy/samples/agents/run.sh")+" "+flags+" program.py",
		"TEMPLATE="+template, "KUBECONFIG="+runnerConfig)
	if exit, ok := err.(interface{ ExitCode() int }); ok {
		return out, exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out, 0
}

const killed = 128

// threats are the lines of the page's threat model that a program can try.
func (s suite) threats(t *testing.T, template string) {
	for _, tt := range []struct {
		name, flags, code string
		status            int
		says              string
	}{
		{"works", "", "print(6 * 7)", 0, "42"},
		{"its own exit status", "", "raise SystemExit(3)", 3, ""},
		{"network", "", look, 0, "['lo'] ENETUNREACH"},
		{"node's services", "", `
import socket
for port in 10250, 6443, 80:
    for address in "127.0.0.1", "::1", "10.0.0.2", "169.254.169.254":
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        s.settimeout(5)
        if s.connect_ex((address, port)) == 0:
            print("reached", address, port)
print("tried")`, 0, "tried"},
		{"token", "", "import os; print(os.path.exists('/var/run/secrets'))", 0, "False"},
		{"root file system", "", "open('/etc/passwd', 'a')", 1, "'/etc/passwd'"},
		{"privileges", "", "import os; print(os.getuid(), [l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'NoNewPrivs'))])", 0, "65534 ['0000000000000000', '1']"},
		{"time", "-t 2", "while True: pass", 124, ""},
		{"time, with its own limit killed", "-t 1", `
import os, signal
for pid in [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) not in (1, os.getpid())]:
    try: os.kill(pid, signal.SIGSTOP)
    except OSError: pass
print("stopped", flush=True)
while True: pass`, 124, "stopped"},
		{"memory", "", "x = bytearray(1 << 30); print('had it')", killed, ""},
		{"disk", "", "f = open('/data/big', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20))", 1, "No space left on device"},
		{"output", "", "while True: print('x' * 1000)", 141, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.flags == "" {
				tt.flags = "-t 120" // nothing here measures how fast a machine is
			}
			out, status := s.program(t, template, tt.flags, tt.code)
			if len(out) > 1<<20 {
				t.Errorf("%d bytes came out", len(out))
			}
			ended := status == tt.status
			if tt.status == killed { // by a signal; with gVisor the whole sandbox ends, and exec with it
				ended = status >= 128
			}
			if !ended || !strings.Contains(out, tt.says) {
				t.Errorf("status %d, want %d; it says %.300q, want %q", status, tt.status, out, tt.says)
			}
			if strings.Contains(out, "had it") || strings.Contains(out, "reached") {
				t.Errorf("it got through: %s", out)
			}
		})
	}
}
