package agents

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
)

var classes = []string{"airgap", "airgap-gvisor"}

// podSpec is the pod of the shipped template in another class, or none, with more
// replaced if asked: pairs of what is there and what shall be.
func podSpec(t *testing.T, class string, pairs ...string) string {
	t.Helper()
	text := harness.Read(t, harness.Repo("deploy/samples/agents/template.yaml"))
	_, text, _ = strings.Cut(text, "\n  podTemplate:\n")
	text, _, _ = strings.Cut(text, "\n---\n")
	line := "      runtimeClassName: airgap-gvisor\n"
	with := ""
	if class != "" {
		with = "      runtimeClassName: " + class + "\n"
	}
	pairs = append([]string{line, with}, pairs...)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the template does not contain %q", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return "  podTemplate:\n" + text + "\n"
}

func sandbox(name, namespace, spec string) string {
	return fmt.Sprintf("apiVersion: agents.x-k8s.io/v1alpha1\nkind: Sandbox\nmetadata: {name: %s, namespace: %s}\nspec:\n%s", name, namespace, spec)
}

// sandboxes takes one of each runtime through pause and resume, with a volume.
func sandboxes(t *testing.T, s suite) {
	for _, class := range classes {
		t.Run(class, func(t *testing.T) {
			name := "kept-" + class
			if err := errors.Join(os.Mkdir("/run/"+name, 0o755), os.Chown("/run/"+name, 65534, 65534)); err != nil {
				t.Fatal(err)
			}
			s.Apply(t, volume(name))
			s.MustKubectl(t, "wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=120s", "pvc/work-"+name)
			s.Apply(t, sandbox(name, "default", podSpec(t, class,
				"        - name: work\n          emptyDir: {medium: Memory, sizeLimit: 32Mi}\n", "")+claimTemplate))
			defer s.Remove(t, "sandbox", name)
			s.ready(t, "sandbox/"+name)
			first := s.Pod(t, name) // the name is stable
			s.isLoOnly(t, "default", name)
			s.python(t, name, `open("/data/kept", "w").write("kept over a pause")`)

			s.scale(t, name, 0)
			harness.Poll(t, "the pod is gone", func() (bool, string) {
				got, err := s.Kubectl("get", "pod", name)
				return err != nil && strings.Contains(got, "NotFound"), got
			})
			s.ready(t, "sandbox/"+name) // paused is as it should be
			s.scale(t, name, 1)
			harness.Poll(t, "the pod is back", func() (bool, string) {
				got, err := s.Kubectl("get", "pod", name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
				return err == nil && got == "True", got
			})
			if again := s.Pod(t, name); again.Metadata.UID == first.Metadata.UID {
				t.Error("the pod was not made anew")
			}
			s.isLoOnly(t, "default", name)
			if got := s.python(t, name, `import socket; print(open("/data/kept").read(), "by", socket.gethostname())`); got != "kept over a pause by sandbox" {
				t.Errorf("after the pause: %q", got)
			}
		})
	}
}

// volume is a place on the node for the claim of a Sandbox: nothing provisions here.
// The claim is made now: the controller takes one that is there, and makes one together
// with the pod else, which the scheduler then puts aside for up to five minutes.
func volume(name string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s}
spec:
  capacity: {storage: 10Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  claimRef: {namespace: default, name: work-%[1]s}
  hostPath: {path: /run/%[1]s, type: Directory}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: work-%[1]s, namespace: default}
spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 10Mi}}}
---
`, name)
}

const claimTemplate = `  volumeClaimTemplates:
    - metadata: {name: work}
      spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 10Mi}}}
`

func (s suite) python(t *testing.T, pod, code string) string {
	t.Helper()
	return s.MustKubectl(t, "exec", pod, "-c", "python", "--", "python3", "-c", code)
}

func (s suite) scale(t *testing.T, name string, replicas int) {
	t.Helper()
	s.MustKubectl(t, "patch", "sandbox", name, "--type=merge", "-p", fmt.Sprintf(`{"spec": {"replicas": %d}}`, replicas))
}

// services asks where the Service that each Sandbox gets leads to.
func services(t *testing.T, s suite) {
	s.Apply(t, sandbox("connected", "default", podSpec(t, "", unproven...)))
	s.Apply(t, sandbox("hermetic", "default", podSpec(t, "airgap")))
	defer s.Remove(t, "sandbox", "connected", "hermetic")
	addresses := func(name string) string {
		s.ready(t, "sandbox/"+name)
		return s.MustKubectl(t, "get", "endpointslices", "-l", "kubernetes.io/service-name="+name, "-o", "jsonpath={.items[*].endpoints[*].addresses[*]}")
	}
	ip := s.Pod(t, "connected").Status.PodIP
	harness.Poll(t, "the control's Service lists its address", func() (bool, string) {
		ip = s.Pod(t, "connected").Status.PodIP
		got := addresses("connected")
		return got == ip && strings.HasPrefix(ip, "10.244."), got + " for " + ip
	})
	if got := addresses("hermetic"); got != "" {
		t.Errorf("the Service of a hermetic Sandbox lists %s", got)
	}
	if got := s.MustKubectl(t, "get", "endpointslices", "-l", "kubernetes.io/service-name=hermetic", "-o", "name"); got == "" {
		t.Error("there is no EndpointSlice to look at")
	}
	if got := s.MustKubectl(t, "get", "service", "hermetic", "-o", "jsonpath={.spec.clusterIP} {.spec.ipFamilies}"); got != `None ["IPv4"]` {
		t.Errorf("the Service: %s", got)
	}
}

// unproven makes a control of the template: on a bridge, with an init container that
// does not mind.
var unproven = []string{"[/none-audit, self]", "[/none-audit, help]"}

// byNamespace: the namespace's label is enough, with either runtime.
func byNamespace(t *testing.T, s suite) {
	for _, tt := range []struct{ namespace, labels, class string }{
		{"labelled", `cni-none.dev/hermetic: "true"`, "airgap"},
		{"labelled-gvisor", `cni-none.dev/hermetic: "true", cni-none.dev/handler: gvisor`, "airgap-gvisor"},
	} {
		t.Run(tt.class, func(t *testing.T) {
			s.Apply(t, fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {%s}}}", tt.namespace, tt.labels))
			defer s.Remove(t, "namespace", tt.namespace)
			s.Apply(t, sandbox("plain", tt.namespace, podSpec(t, "")))
			s.ready(t, "sandbox/plain", "-n", tt.namespace)
			if got := s.MustKubectl(t, "get", "pod", "-n", tt.namespace, "plain", "-o", "jsonpath={.spec.runtimeClassName}"); got != tt.class {
				t.Errorf("the pod has the class %q, want %q", got, tt.class)
			}
			s.isLoOnly(t, tt.namespace, "plain")
		})
	}
}

// policies: what a Sandbox asks for beside its class is refused as for any pod, and
// the Sandbox says why.
func policies(t *testing.T, s suite) {
	for _, class := range classes {
		name := "refused-" + class
		s.Apply(t, sandbox(name, "default", podSpec(t, class, "      hostname: sandbox\n", "      hostNetwork: true\n")))
		defer s.Remove(t, "sandbox", name)
		harness.Poll(t, "the Sandbox says that hostNetwork is refused", func() (bool, string) {
			got, err := s.Kubectl("get", "sandbox", name, "-o", "jsonpath={.status.conditions[*].message}")
			return err == nil && strings.Contains(got, "cni-none-hermetic-pods") && strings.Contains(got, "hostNetwork"), got
		})
		if got, err := s.Kubectl("get", "pod", name); err == nil {
			t.Errorf("there is a pod: %s", got)
		}
	}
}
