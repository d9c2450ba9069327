package policy

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// testUpdate changes pods that exist, through each door: the pod and its status.
func (s *suite) testUpdate(t *testing.T) {
	const (
		policy   = "cni-none-hermetic-pods-update"
		networks = networksKey + " cannot"
		network  = defaultKey + " cannot"
		mesh     = "a mesh cannot"
		ours     = "whose network is as it is"
	)
	asked := func(p *corev1.Pod) { hermetic(p); p.Annotations[networkKey] = "none" }
	annotation := func(key, value string) string {
		return fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, key, value)
	}
	labels := func(key, value string) string {
		return fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, key, value)
	}
	for _, test := range []struct {
		name  string
		pod   *corev1.Pod
		patch string
		rule  string // empty: allowed
	}{
		{"add networks", pod(hermetic), annotation(networksKey, `"other"`), networks},
		{"add networks, empty", pod(hermetic), annotation(networksKey, `""`), networks},
		{"add networks to a Multus pod", pod(multus), annotation(networksKey, `"other"`), networks},
		{"add default-network", pod(hermetic), annotation(defaultKey, `"kube-system/airgap"`), network},
		{"change default-network", pod(multus), annotation(defaultKey, `"kube-system/airgap-2"`), network},
		{"change it to another network", pod(multus), annotation(defaultKey, `"kube-system/other"`), network},
		{"remove default-network", pod(multus), annotation(defaultKey, `null`), network},
		{"remove all annotations", pod(multus), `{"metadata":{"annotations":null}}`, network},
		{"make an ordinary pod hermetic", pod(), annotation(defaultKey, `"kube-system/airgap"`), network},
		{"join the ambient mesh", pod(hermetic), labels(ambientKey, `"ambient"`), mesh},
		{"leave none for ambient", pod(hermetic, label(ambientKey, "none")), labels(ambientKey, `"ambient"`), mesh},
		{"sidecar on", pod(hermetic), labels(sidecarKey, `"true"`), mesh},
		{"Linkerd on", pod(multus), annotation(linkerdKey, `"enabled"`), mesh},

		{"ask on a pod with a network", pod(), annotation(networkKey, `"none"`), ours},
		{"ask on a hermetic pod", pod(hermetic), annotation(networkKey, `"none"`), ours},
		{"take the question back", pod(asked), annotation(networkKey, `null`), ours},
		{"take all annotations back", pod(asked), `{"metadata":{"annotations":null}}`, ours},
		{"another answer", pod(asked), annotation(networkKey, `"off"`), ours},
		{"another handler", pod(asked), annotation(handlerKey, `"gvisor"`), ours},
		{"in capitals", pod(), annotation("CNI-none.dev/Network", `"none"`), ours},
		{"a label", pod(), labels(networkKey, `"none"`), ours},
		{"a label of a hermetic pod", pod(hermetic), labels(labelKey, `"true"`), ours},

		{"another annotation of one that asked", pod(asked), annotation("example.com/x", `"y"`), ""},
		{"another annotation", pod(hermetic), annotation("example.com/x", `"y"`), ""},
		{"what Multus reports", pod(multus), annotation("k8s.v1.cni.cncf.io/network-status", `"[]"`), ""},
		{"another label", pod(multus), labels("x", `"y"`), ""},
		{"say none to ambient", pod(hermetic), labels(ambientKey, `"none"`), ""},
		{"networks of an ordinary pod", pod(annotate(networksKey, "a")), annotation(networksKey, `"b"`), ""},
		{"default-network of an ordinary pod", pod(annotate(defaultKey, "kube-system/a")), annotation(defaultKey, `"kube-system/b"`), ""},
		{"mesh of an ordinary pod", pod(), labels(ambientKey, `"ambient"`), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := s.create(t, s.ns, test.pod)
			for _, door := range [][]string{nil, {"status"}} {
				_, err := s.CoreV1().Pods(s.ns).Patch(t.Context(), p.Name, types.MergePatchType, []byte(test.patch), metav1.PatchOptions{}, door...)
				if test.rule != "" {
					s.wantRefused(t, err, policy, test.rule)
				} else if err != nil {
					t.Errorf("%v: %v", door, err)
				}
			}
		})
	}
	// The other doors do not lead to the annotations: the API server drops the change.
	for _, door := range []string{"resize", "ephemeralcontainers"} {
		t.Run(door, func(t *testing.T) {
			p := s.create(t, s.ns, pod(hermetic))
			got, err := s.CoreV1().Pods(s.ns).Patch(t.Context(), p.Name, types.MergePatchType, []byte(annotation(networksKey, `"other"`)), metav1.PatchOptions{}, door)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := got.Annotations[networksKey]; ok {
				t.Error("the annotation came in")
			}
		})
	}
	t.Run("image", func(t *testing.T) {
		p := s.create(t, s.ns, pod(hermetic))
		if err := s.patch(t, p, `[{"op":"replace","path":"/spec/containers/0/image","value":"other"}]`); err != nil {
			t.Errorf("a hermetic pod that keeps the rules: %v", err)
		}
	})
}

func (s *suite) patch(t *testing.T, p *corev1.Pod, patch string) error {
	t.Helper()
	_, err := s.CoreV1().Pods(p.Namespace).Patch(t.Context(), p.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// podsFromBefore are hermetic pods that break rules, made before the policies are.
func (s *suite) podsFromBefore(t *testing.T) []*corev1.Pod {
	finalizer := func(p *corev1.Pod) { p.Finalizers = []string{"example.com/test"} }
	unlabelled := func(p *corev1.Pod) { p.Labels = map[string]string{ambientKey: "ambient"} }
	return []*corev1.Pod{
		s.create(t, s.ns, pod(hermetic, hostNetwork, finalizer)),
		s.create(t, s.ns, pod(hermetic, unlabelled, annotate(networksKey, "other"), finalizer)),
	}
}

// testOldPods wants such pods to end in good order, and not to be worked on otherwise.
func (s *suite) testOldPods(t *testing.T, pods []*corev1.Pod) {
	_, err := s.tryCreate(t, s.ns, pod(hermetic, hostNetwork))
	s.wantRefused(t, err, "cni-none-hermetic-pods", "hostNetwork: true")
	for _, p := range pods {
		if err := s.patch(t, p, `[{"op":"add","path":"/metadata/annotations/x","value":"y"}]`); err != nil {
			t.Errorf("an annotation: %v", err)
		}
		if err := s.patch(t, p, `[{"op":"replace","path":"/spec/containers/0/image","value":"other"}]`); err == nil {
			t.Error("the image of a pod that breaks a rule could be changed")
		}
		if err := s.CoreV1().Pods(s.ns).Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))}); err != nil {
			t.Error(err)
		}
		if err := s.patch(t, p, `[{"op":"remove","path":"/metadata/finalizers"}]`); err != nil {
			t.Errorf("the finalizer: %v", err)
		}
		harness.Eventually(t, "the pod to be gone", func() error {
			if _, err := s.CoreV1().Pods(s.ns).Get(t.Context(), p.Name, metav1.GetOptions{}); err == nil {
				return fmt.Errorf("%s is still there", p.Name)
			}
			return nil
		})
	}
}

// binding binds a pod to a node and carries one annotation or label, if any.
func binding(p *corev1.Pod, annotation, label string) *corev1.Binding {
	b := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace},
		Target:     corev1.ObjectReference{Kind: "Node", Name: "n1"},
	}
	if annotation != "" {
		b.Annotations = map[string]string{annotation: "kube-system/other"}
	}
	if label != "" {
		b.Labels = map[string]string{label: "ambient"}
	}
	return b
}

// testBindings binds pods with what would end up in the pod.
func (s *suite) testBindings(t *testing.T) {
	const networks, mesh, ours = "its networks", "into a mesh", "its network is chosen before"
	for _, test := range []struct{ annotation, label, rule string }{
		{networksKey, "", networks},
		{defaultKey, "", networks},
		{linkerdKey, "", mesh},
		{"", sidecarKey, mesh},
		{"", ambientKey, mesh},
		{networkKey, "", ours},
		{"", labelKey, ours},
		{"", "", ""},
		{"example.com/x", "example.com/y", ""},
	} {
		t.Run(test.annotation+test.label, func(t *testing.T) {
			p := s.create(t, s.ns, pod(hermetic))
			b := binding(p, test.annotation, test.label)
			// The old door first: POST to bindings instead of pods/NAME/binding.
			err := s.CoreV1().RESTClient().Post().Namespace(s.ns).Resource("bindings").Body(b).Do(t.Context()).Error()
			if test.rule == "" {
				if err != nil {
					t.Fatal(err)
				}
				p = s.create(t, s.ns, pod(hermetic))
				if err := s.CoreV1().Pods(s.ns).Bind(t.Context(), binding(p, test.annotation, test.label), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				bound, err := s.CoreV1().Pods(s.ns).Get(t.Context(), p.Name, metav1.GetOptions{})
				if err != nil || bound.Spec.NodeName != "n1" {
					t.Errorf("bound to %q, %v", bound.Spec.NodeName, err)
				}
				if _, ok := bound.Annotations[test.annotation]; test.annotation != "" && !ok {
					t.Error("the annotation did not reach the pod: the rules on bindings are for nothing")
				}
				// Labels do since 1.35.
				if _, ok := bound.Labels[test.label]; test.label != "" && ok != (s.Version == "136") {
					t.Errorf("the label reached the pod: %v", ok)
				}
				return
			}
			s.wantRefused(t, err, "cni-none-bindings", test.rule)
			s.wantRefused(t, s.CoreV1().Pods(s.ns).Bind(t.Context(), b, metav1.CreateOptions{}), "cni-none-bindings", test.rule)
		})
	}
}
