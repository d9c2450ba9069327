package release

import (
	"encoding/json"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
)

// as is an object of cni-none.yaml in its own type.
func as[T any](t *testing.T, all map[string]object, key string) (v T) {
	t.Helper()
	text, err := json.Marshal(all[key])
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil || all[key] == nil {
		t.Fatalf("%s: %s: %v", key, text, err)
	}
	return v
}

// TestPlaceInTheCluster: what lets the DaemonSet be on every node, and keeps it there:
// Pod Security labels, GKE's quota, tolerations, probes and requests.
func TestPlaceInTheCluster(t *testing.T) {
	all := objects(t, read(t, "cni-none.yaml"))
	labels := as[core.Namespace](t, all, "Namespace /cni-none").Labels
	for _, mode := range []string{"enforce", "audit", "warn"} {
		if got := labels["pod-security.kubernetes.io/"+mode]; got != "privileged" {
			t.Errorf("pod-security.kubernetes.io/%s is %q", mode, got)
		}
	}
	pod := as[apps.DaemonSet](t, all, "DaemonSet cni-none/cni-none").Spec.Template.Spec
	if len(pod.Tolerations) != 1 || pod.Tolerations[0] != (core.Toleration{Operator: core.TolerationOpExists}) {
		t.Errorf("it tolerates %v, want every taint", pod.Tolerations)
	}
	scope := as[core.ResourceQuota](t, all, "ResourceQuota cni-none/cni-none-critical").Spec.ScopeSelector.MatchExpressions[0]
	if scope.ScopeName != core.ResourceQuotaScopePriorityClass || scope.Values[0] != pod.PriorityClassName {
		t.Errorf("the quota is for %v, and the pod is %s", scope, pod.PriorityClassName)
	}
	for _, c := range pod.Containers {
		if c.LivenessProbe == nil || c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("container %s has no probe, request or limit: %v %v", c.Name, c.LivenessProbe, c.Resources)
		}
	}
	if pod.Containers[0].Name != "install" || pod.Containers[0].ReadinessProbe == nil {
		t.Error("nothing says when the node is ready")
	}
}
