package install

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/harness"
)

// TestStolenToken uses the DaemonSet's token as a thief would: for another node, and
// for what is not ours on its own one. Each refusal has what is allowed beside it.
func TestStolenToken(t *testing.T) {
	for _, version := range []string{"134", "136"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "2.4", "")
			stolenToken(t, n, apiServer{cluster.Start(t, cluster.Config{Version: version, Machine: n.Machine})})
		})
	}
}

func stolenToken(t *testing.T, n *node, c apiServer) {
	for _, name := range []string{"here", "there"} {
		c.Apply(t, `{apiVersion: v1, kind: Node, metadata: {name: `+name+`, labels: {mine: "1"}}, spec: {podCIDR: 10.1.0.0/24, taints: [{key: cni-none.dev/not-ready, effect: NoSchedule}, {key: other, effect: NoSchedule}]}}`)
	}
	c.Apply(t, "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: airgap}, handler: airgap}")
	c.MustKubectl(t, "create", "serviceaccount", "default", "-n", "default")
	for _, p := range []struct{ name, node, class string }{{"hermetic", "here", "runtimeClassName: airgap,"}, {"elsewhere", "there", "runtimeClassName: airgap,"}, {"plain", "here", ""}} {
		c.Apply(t, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: default}, spec: {nodeName: %s, %s automountServiceAccountToken: false, containers: [{name: c, image: none}]}}`, p.name, p.node, p.class))
	}
	c.MustKubectl(t, "apply", "-k", harness.Repo("deploy/install/base"))
	c.MustKubectl(t, "apply", "-f", harness.Repo("deploy/install/delete-violators/rbac.yaml"))
	token := c.podToken(t, "here")
	loose := c.MustKubectl(t, "-n", "cni-none", "create", "token", "cni-none") // of no pod

	label := func(key string) string { return `{"metadata":{"labels":{"` + key + `":"x"}}}` }
	patch := func(node, kind, body string, more ...string) []string {
		return []string{"PATCH", "/api/v1/nodes/" + node + strings.Join(more, ""), kind + "-patch+json", body}
	}
	event := func(kind, host string) []string {
		return []string{"POST", "/api/v1/namespaces/default/events", "json", fmt.Sprintf(`{"metadata":{"generateName":"x.","namespace":"default"},"type":"Warning","reason":"NotIsolated","message":"x",
  "involvedObject":{"kind":"%s","name":"hermetic","namespace":"default"},"source":{"component":"cni-none","host":"%s"}}`, kind, host)}
	}
	remove := func(pod string) []string {
		return []string{"DELETE", "/api/v1/namespaces/default/pods/" + pod, "json", "{}"}
	}
	allowed := [][]string{
		patch("here", "merge", label("cni-none.dev/ready")),
		patch("here", "merge", label("cni-none.dev/handler-airgap")),
		patch("here", "json", `[{"op":"test","path":"/spec/taints/0/key","value":"cni-none.dev/not-ready"},{"op":"remove","path":"/spec/taints/0"}]`),
		patch("here", "strategic-merge", `{"status":{"conditions":[{"type":"CNINoneReady","status":"True"}]}}`, "/status"),
		patch("here", "strategic-merge", `{"status":{"conditions":[{"type":"CNINoneReady","$patch":"delete"}]}}`, "/status"),
		event("Pod", "here"),
		remove("hermetic"),
	}
	refused := [][]string{
		patch("there", "merge", label("cni-none.dev/ready")),
		patch("there", "strategic-merge", `{"status":{"conditions":[{"type":"CNINoneReady","status":"True"}]}}`, "/status"),
		patch("here", "merge", label("node-role.kubernetes.io/control-plane")),
		patch("here", "merge", label("cni-none.dev/other")),
		patch("here", "merge", `{"metadata":{"labels":{"mine":null}}}`),
		patch("here", "merge", `{"metadata":{"annotations":{"a":"b"}}}`),
		patch("here", "merge", `{"spec":{"unschedulable":true}}`),
		patch("here", "merge", `{"spec":{"taints":null}}`),
		patch("here", "merge", `{"spec":{"taints":[{"key":"new","effect":"NoExecute"}]}}`),
		patch("here", "strategic-merge", `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, "/status"),
		patch("here", "merge", `{"status":{"capacity":{"cpu":"99"}}}`, "/status"),
		patch("here", "merge", label("mine"), "/status"),
		event("Node", "here"), event("Pod", "there"),
		remove("plain"),
		remove("elsewhere"),
	}
	// kubectl patch reads first, which this token may not.
	as := func(token string, args []string) (string, error) {
		out, err := n.command("curl", "--silent", "--show-error", "--fail-with-body", "--cacert", c.Dir+"/pki/apiserver.crt", "-H", "Authorization: Bearer "+token,
			"-X", args[0], "-H", "Content-Type: application/"+args[2], "--data", args[3], c.Server+args[1]).CombinedOutput()
		return string(out), err
	}
	harness.Eventually(t, "the policy is in force", func() error {
		if out, err := as(token, refused[0]); err == nil || !strings.Contains(out, "its own node only") {
			return fmt.Errorf("the API server says %s", out)
		}
		return nil
	})
	for _, args := range refused {
		if out, err := as(token, args); err == nil || !strings.Contains(out, "the token of cni-none may") {
			t.Errorf("allowed: %s\n%s", strings.Join(args, " "), out)
		}
	}
	for _, args := range allowed {
		if out, err := as(loose, args); err == nil || !strings.Contains(out, "the token says no node") {
			t.Errorf("allowed with a token of no pod: %s\n%s", strings.Join(args, " "), out)
		}
	}
	for _, args := range allowed {
		if out, err := as(token, args); err != nil {
			t.Errorf("refused: %s\n%s", strings.Join(args, " "), out)
		}
	}
}
