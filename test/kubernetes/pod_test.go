package kubernetes

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// sample is a manifest of deploy/kubernetes/ with another name and class, and
// with more replaced if asked: pairs of what is there and what shall be.
func (c *node) sample(t testing.TB, file, name, class string, pairs ...string) string {
	t.Helper()
	content, err := os.ReadFile(harness.Repo("deploy/kubernetes", file))
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
func (c *node) sandbox(t testing.TB, uid string) string {
	t.Helper()
	log, err := os.ReadFile(c.containerd.Log)
	if err != nil {
		t.Fatal(err)
	}
	made := regexp.MustCompile(`RunPodSandbox for ([^\n]*uid:\\"`+uid+`\\"[^\n]*) returns sandbox id \\"([0-9a-f]{64})\\"`).FindAllStringSubmatch(string(log), -1)
	if len(made) != 1 || strings.Contains(made[0][1], "attempt:") {
		t.Fatalf("sandboxes made for pod %s: %q, want one, attempt 0", uid, made)
	}
	return made[0][2]
}
