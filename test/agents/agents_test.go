// Package agents runs kubernetes-sigs/agent-sandbox, the real controller with its
// own manifests, on a cluster whose sandboxes have no network: by class and by
// namespace, with runc and with gVisor; and the guide of docs/agents.md.
package agents

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/gvisor"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/image"
	"github.com/cni-none/cni-none/test/internal/machine"
)

func TestMain(m *testing.M) { machine.Main(m, machine.Config{Furnish: cluster.Furnish}) }

const page = "docs/agents.md"

// suite is a cluster with the controller.
type suite struct{ *cluster.Cluster }

func TestAgents(t *testing.T) {
	s := suite{gvisor.Cluster(t, machine.Here(), python(t), controllerImage())}
	s.controller(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, suite)
	}{
		{"sandboxes", sandboxes},
		{"headless Service", services},
		{"by namespace", byNamespace},
		{"policies", policies},
		{"guide", guide},
		{"times", times},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}
}

// The names in the manifests: of the controller a placeholder for ko.
const (
	controllerName = "localhost/agent-sandbox-controller:v0.1.1"
	controllerKo   = "ko://sigs.k8s.io/agent-sandbox/cmd/agent-sandbox-controller"
	pythonName     = "docker.io/library/python:3.13.7-slim"
)

func controllerImage() image.Image {
	const program = "agent-sandbox-controller"
	return image.Image{Names: []string{controllerName}, Entrypoint: []string{"/" + program},
		Files: map[string]string{program: harness.Bin("agentsandbox", program)}}
}

// python stands for the public image of that name, of which it has what is used: the
// interpreter with its library, a shell and a few programs of coreutils, from Debian.
func python(t *testing.T) image.Image {
	t.Helper()
	i := image.Image{Names: []string{pythonName}, Files: map[string]string{}, Links: map[string]string{}}
	interpreter, err := filepath.EvalSymlinks("/usr/bin/python3")
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{interpreter, "/bin/sh", "/bin/sleep", "/bin/cat", "/usr/bin/head", "/usr/bin/timeout", "/usr/bin/env", "/bin/true"} {
		i.AddDynamic(t, program)
	}
	i.Links["/usr/bin/python3"] = filepath.Base(interpreter)
	library := "/usr/lib/" + filepath.Base(interpreter)
	if err := filepath.WalkDir(library, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "test" || d.Name() == "__pycache__" || strings.HasPrefix(d.Name(), "config-")):
			return filepath.SkipDir
		case d.Type().IsRegular():
			i.Files[path] = path
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return i
}

// controller installs agent-sandbox from its own manifests, as a pod with its own
// account. Nothing makes the API server's Service work here, so it is told where
// that is.
func (s suite) controller(t *testing.T) {
	t.Helper()
	manifests := filepath.Join(harness.Module(t, "agentsandbox", "sigs.k8s.io/agent-sandbox"), "k8s")
	crds, err := filepath.Glob(manifests + "/crds/*.yaml")
	if err != nil || len(crds) != 4 {
		t.Fatalf("%s has the CRDs %q, %v", manifests, crds, err)
	}
	all := ""
	for _, file := range append(crds, manifests+"/controller.yaml", manifests+"/rbac.generated.yaml",
		manifests+"/extensions-rbac.generated.yaml", manifests+"/extensions.yaml") {
		all += harness.Read(t, file) + "\n---\n"
	}
	// The one that runs the extensions too.
	all += harness.Read(t, manifests+"/extensions.controller.yaml")
	s.Apply(t, strings.ReplaceAll(all, controllerKo, controllerName))
	s.MustKubectl(t, "set", "env", "-n", "agent-sandbox-system", "statefulset/agent-sandbox-controller",
		"KUBERNETES_SERVICE_HOST="+cluster.NodeAddress, "KUBERNETES_SERVICE_PORT=6443")
	s.MustKubectl(t, "rollout", "status", "-n", "agent-sandbox-system", "statefulset/agent-sandbox-controller", "--timeout=240s")
	s.MustKubectl(t, "wait", "--for=condition=Established", "crd", "--all", "--timeout=120s")
}

// ready waits for an object of agent-sandbox.
func (s suite) ready(t *testing.T, object string, args ...string) {
	t.Helper()
	args = append([]string{object}, args...)
	harness.Poll(t, object+" is Ready", func() (bool, string) {
		got, err := s.Kubectl(append([]string{"get", "-o", "jsonpath={.status.conditions}"}, args...)...)
		return err == nil && strings.Contains(got, `"status":"True"`), got
	})
}

// isLoOnly looks into a pod. What it says of none-audit is that pod's init container.
func (s suite) isLoOnly(t *testing.T, namespace, pod string) {
	t.Helper()
	got := s.MustKubectl(t, "exec", "-n", namespace, pod, "-c", "python", "--", "python3", "-c", look)
	if got != "['lo'] ENETUNREACH" {
		t.Errorf("%s: interfaces, and connect to an address outside: %s", pod, got)
	}
	if got := s.MustKubectl(t, "logs", "-n", namespace, pod, "-c", "none-audit"); !strings.HasPrefix(got, "isolated") {
		t.Errorf("%s: none-audit self: %s", pod, got)
	}
}

const look = `
import socket, errno
print([name for _, name in socket.if_nameindex()], end=" ")
try:
    socket.create_connection(("10.0.0.2", 6443), 30)
    print("connected")
except OSError as e:
    print(errno.errorcode[e.errno])
`
