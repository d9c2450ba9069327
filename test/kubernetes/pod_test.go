package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// pod is what the API says of one, as far as the tests look.
type pod struct {
	Metadata struct {
		Name, UID         string
		CreationTimestamp time.Time
	}
	Status struct {
		Phase, PodIP          string
		PodIPs                []struct{ IP string }
		Conditions            []condition
		InitContainerStatuses []container
		ContainerStatuses     []container
	}
}

type condition struct {
	Type, Status       string
	LastTransitionTime time.Time
}

type container struct {
	Name, ContainerID string
	Ready             bool
	RestartCount      int
	State, LastState  struct {
		Running    *struct{ StartedAt time.Time }
		Waiting    *struct{ Reason, Message string }
		Terminated *struct {
			ExitCode int
			Reason   string
		}
	}
}

func (p pod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

func (p pod) String() string {
	out, _ := json.Marshal(p.Status) // plain data always encodes
	return p.Metadata.Name + " " + string(out)
}

// pods lists the pods that a selector or a name picks.
func (c *cluster) pods(t testing.TB, args ...string) []pod {
	t.Helper()
	out := c.run(t, "kubectl", append([]string{"get", "pods", "-o", "json"}, args...)...)
	var list struct{ Items []pod }
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func (c *cluster) pod(t testing.TB, name string) pod {
	t.Helper()
	all := c.pods(t, "--field-selector=metadata.name="+name)
	if len(all) != 1 {
		t.Fatalf("%d pods are called %s", len(all), name)
	}
	return all[0]
}

// ready waits for a pod to be Ready and returns it.
func (c *cluster) ready(t testing.TB, name string) pod {
	t.Helper()
	var p pod
	poll(t, name+" is Ready", 3*time.Minute, func() (bool, string) {
		p = c.pod(t, name)
		return p.ready(), p.String() + "\n" + c.events(t, name)
	})
	return p
}

// exec runs a command in a pod and returns its output.
func (c *cluster) exec(t testing.TB, pod string, command ...string) string {
	t.Helper()
	return c.run(t, "kubectl", append([]string{"exec", pod, "--"}, command...)...)
}

// tryExec is exec for a command that may fail.
func (c *cluster) tryExec(pod string, command ...string) (string, error) {
	return c.try("kubectl", append([]string{"exec", pod, "--"}, command...)...)
}

// events are what a user sees at the end of `kubectl describe`, one per line.
func (c *cluster) events(t testing.TB, name string) string {
	t.Helper()
	return c.run(t, "kubectl", "get", "events", "--field-selector=involvedObject.name="+name,
		"-o", `jsonpath={range .items[*]}{.type} {.reason} {.message}{"\n"}{end}`) + "\n"
}

// apply gives the API a manifest.
func (c *cluster) apply(t testing.TB, manifest string) {
	t.Helper()
	cmd := exec.Command("kubectl", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kubectl apply: %v\n%s\n%s", err, out, manifest)
	}
}

// remove deletes at once what a test made, and waits until it is gone.
func (c *cluster) remove(t testing.TB, args ...string) {
	t.Helper()
	c.run(t, "kubectl", append([]string{"delete", "--ignore-not-found", "--timeout=180s"}, args...)...)
}

// sample is a manifest of deploy/kubernetes/ with another name and class, and
// with more replaced if asked: pairs of what is there and what shall be.
func (c *cluster) sample(t testing.TB, file, name, class string, pairs ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.root, "deploy/kubernetes", file))
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	pairs = append([]string{
		"metadata:\n  name: hermetic\n", "metadata:\n  name: " + name + "\n",
		"runtimeClassName: airgap\n", "runtimeClassName: " + class + "\n",
	}, pairs...)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("%s does not contain %q", file, pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// class is a RuntimeClass for a handler.
func class(name, handler string) string {
	return fmt.Sprintf(`
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: %s}
handler: %s
`, name, handler)
}

// plain is a pod on the cluster's network: what the others are compared with.
func plain(name string, labels string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {%s}}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  containers:
    - {name: main, image: "busybox:1.35.0", command: [sleep, infinity]}
`, name, labels)
}

// sandbox returns the only sandbox that a pod ever had. containerd's log knows
// of every attempt, also of those that are long gone; it leaves attempt 0 out.
func (c *cluster) sandbox(t testing.TB, uid string) string {
	t.Helper()
	log, err := os.ReadFile(c.containerd.log)
	if err != nil {
		t.Fatal(err)
	}
	made := regexp.MustCompile(`RunPodSandbox for ([^\n]*uid:\\"`+uid+`\\"[^\n]*) returns sandbox id \\"([0-9a-f]{64})\\"`).FindAllStringSubmatch(string(log), -1)
	if len(made) != 1 || strings.Contains(made[0][1], "attempt:") {
		t.Fatalf("sandboxes made for pod %s: %q, want one, attempt 0", uid, made)
	}
	return made[0][2]
}
