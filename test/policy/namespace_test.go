package policy

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// testNamespaceDecides has the rules that look at the pod's namespace, and the one
// that does not look at its ServiceAccount.
func (s *suite) testNamespaceDecides(t *testing.T) {
	ambient := s.namespace(t, "ambient", map[string]string{ambientKey: "ambient"})
	_, err := s.tryCreate(t, ambient, pod(hermetic))
	s.wantRefused(t, err, "cni-none-hermetic-pods", "ambient mode")
	s.create(t, ambient, pod(hermetic, label(ambientKey, "none")))
	s.create(t, ambient, pod())

	nic := func(p *corev1.Pod) {
		p.Spec.Containers[1].Resources.Limits = corev1.ResourceList{"example.com/nic": resource.MustParse("1")}
	}
	nfs := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/"}}}}
	}
	hostPath := func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "h", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}})
	}
	claims := s.namespace(t, "claims", map[string]string{"cni-none.dev/allow-resource-claims": "true"})
	devices := s.namespace(t, "devices", map[string]string{"cni-none.dev/allow-extended-resources": "true"})
	volumes := s.namespace(t, "volumes", map[string]string{"cni-none.dev/allow-volume-nfs": "true"})
	s.create(t, claims, pod(hermetic, claim))
	s.create(t, devices, pod(hermetic, nic))
	s.create(t, volumes, pod(hermetic, nfs))
	// Each label is for one thing, and says so.
	_, err = s.tryCreate(t, devices, pod(hermetic, claim))
	s.wantRefused(t, err, "cni-none-hermetic-pods", "resourceClaims can")
	_, err = s.tryCreate(t, volumes, pod(hermetic, nic))
	s.wantRefused(t, err, "cni-none-hermetic-pods", "an extended resource can be", "label the namespace cni-none.dev/allow-extended-resources=true")
	_, err = s.tryCreate(t, claims, pod(hermetic, nfs, hostPath))
	s.wantRefused(t, err, "cni-none-hermetic-pods", "they can hold the node's sockets", "kind nfs, hostPath:", "label the namespace cni-none.dev/allow-volume-nfs=true")
	_, err = s.tryCreate(t, volumes, pod(hermetic, nfs, hostPath))
	s.wantRefused(t, err, "cni-none-hermetic-pods", "they can hold the node's sockets", "kind hostPath:", "label the namespace cni-none.dev/allow-volume-hostPath=true")

	// No token is mounted here, but it is the ServiceAccount that says so, which may change.
	patch := []byte(`{"automountServiceAccountToken":false}`)
	if _, err := s.CoreV1().ServiceAccounts(ambient).Patch(t.Context(), "default", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	unsaid := func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = nil }
	harness.Eventually(t, "the API server to see the ServiceAccount's change", func() error {
		p, err := s.tryCreate(t, ambient, pod(unsaid))
		if err == nil && len(p.Spec.Volumes) > 0 {
			return fmt.Errorf("volume %s", p.Spec.Volumes[0].Name)
		}
		return err
	})
	_, err = s.tryCreate(t, ambient, pod(hermetic, label(ambientKey, "none"), unsaid))
	s.wantRefused(t, err, "cni-none-hermetic-pods", "its token")
}

// connect asks for an exec, attach or portforward, and returns how that ended: there
// is no node, so it never ends well.
func (s *suite) connect(t *testing.T, ns, pod, what string) error {
	t.Helper()
	return s.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name(pod).SubResource(what).
		Param("container", "c0").Param("command", "true").Param("stdout", "true").Param("ports", "80").Do(t.Context()).Error()
}

func (s *suite) testNoExec(t *testing.T) {
	locked := s.namespace(t, "no-exec", map[string]string{"cni-none.dev/no-exec": "true"})
	open := s.namespace(t, "exec", nil)
	inLocked, inOpen := s.create(t, locked, pod(hermetic)), s.create(t, open, pod(hermetic))
	for _, what := range []string{"exec", "attach", "portforward"} {
		t.Run(what, func(t *testing.T) {
			s.wantRefused(t, s.connect(t, locked, inLocked.Name, what), "cni-none-no-exec", "are off")
			// The admission is behind it: it fails only for want of a node.
			err := s.connect(t, open, inOpen.Name, what)
			if err == nil || !strings.Contains(err.Error(), "does not have a host assigned") {
				t.Errorf("where it is allowed: %v", err)
			}
		})
	}
	t.Run("what a user sees", func(t *testing.T) {
		// kubectl waits for the container to run only where it attaches.
		out, err := s.Kubectl("exec", "-n", locked, inLocked.Name, "-c", "c0", "--", "true")
		if err == nil || !strings.Contains(out, "exec, attach and port-forward are off in this namespace") {
			t.Errorf("kubectl exec: %v\n%s", err, out)
		}
		out, err = s.Kubectl("logs", "-n", locked, inLocked.Name, "-c", "c0")
		if strings.Contains(out, "denied request") {
			t.Errorf("kubectl logs: %v\n%s", err, out)
		}
	})
}

// testNamespaces sets labels on namespaces, when they are made and later.
func (s *suite) testNamespaces(t *testing.T) {
	const policy = "cni-none-namespaces"
	const noLabel, value, handler = "has no such label", "has the value true", "is the NAME of a RuntimeClass"
	for i, test := range []struct{ key, value, rule string }{
		{labelKey, "true", ""},
		{labelKey, "multus", ""},
		{handlerKey, "gvisor", ""},
		{"cni-none.dev/no-exec", "true", ""},
		{"cni-none.dev/allow-volume-nfs", "true", ""},
		{"cni-none.dev/allow-resource-claims", "true", ""},
		{"cni-none.dev/allow-extended-resources", "true", ""},
		{"example.com/hermetic", "off", ""},

		{labelKey, "none", value},
		{labelKey, "", value},
		{labelKey, "True", value},
		{labelKey, "false", value},
		{"cni-none.dev/no-exec", "yes", value},
		{"cni-none.dev/no-exec", "multus", value},
		{"cni-none.dev/allow-volume-nfs", "false", value},
		{handlerKey, "gVisor", handler},
		{handlerKey, "airgap-gvisor", handler},
		{handlerKey, "airgap", handler},
		{handlerKey, "", handler},
		{"cni-none.dev/hermetic-only", "true", noLabel},
		{"cni-none.dev/network", "none", noLabel},
	} {
		t.Run(test.key+"="+test.value, func(t *testing.T) {
			name := fmt.Sprint("namespaces-", i)
			labels := map[string]string{test.key: test.value}
			spaces := s.CoreV1().Namespaces()
			_, err := spaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
			if test.rule == "" {
				if err != nil {
					t.Fatal(err)
				}
			} else {
				s.wantRefused(t, err, policy, test.rule)
			}
			s.namespace(t, name+"-later", nil)
			patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, test.key, test.value)
			if _, err = spaces.Patch(t.Context(), name+"-later", types.MergePatchType, patch, metav1.PatchOptions{}); test.rule != "" {
				s.wantRefused(t, err, policy, test.rule)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	_, err := s.CoreV1().Namespaces().Patch(t.Context(), s.ns, types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"`+labelKey+`":"true"}}}`), metav1.PatchOptions{})
	s.wantRefused(t, err, policy, "namespaces have labels, pods have annotations")
	// What was wrong before stays as it is, and can be taken away.
	for _, patch := range []string{`{"metadata":{"labels":{"x":"y"}}}`, `{"metadata":{"labels":{"` + labelKey + `":null}}}`} {
		if _, err := s.CoreV1().Namespaces().Patch(t.Context(), "wrong-off", types.MergePatchType, []byte(patch), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
			t.Errorf("%s: %v", patch, err)
		}
	}
}
