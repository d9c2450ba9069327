package policy

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cni-none/cni-none/test/internal/harness"
)

const setBy = "set-by"

// testBesideOthers has another mutating policy and a mutating webhook that set the
// class, made before ours, between, and after, with names before and after ours: the
// order in which the API server asks depends on such things.
func (s *suite) testBesideOthers(t *testing.T) {
	webhook := s.serveWebhook(t)
	makers := map[string]func(name string) string{
		"ours":    func(string) string { return s.render(t, s.defaultsDir()) },
		"policy":  s.otherPolicy,
		"webhook": webhook,
	}
	for _, order := range [][]string{
		{"ours", "policy", "webhook"}, {"ours", "webhook", "policy"}, {"policy", "ours", "webhook"},
		{"policy", "webhook", "ours"}, {"webhook", "ours", "policy"}, {"webhook", "policy", "ours"},
	} {
		for _, prefix := range []string{"aaa", "zzz"} {
			t.Run(fmt.Sprint(order, prefix), func(t *testing.T) {
				s.removeDefaults(t)
				for _, what := range order {
					manifest := makers[what](prefix)
					s.Apply(t, manifest)
					if what != "ours" {
						defer s.deleteManifest(t, manifest)
					}
					harness.Eventually(t, what+" is in force", func() error { return s.inForce(t, what) })
				}
				for name, p := range map[string]*corev1.Pod{
					"label": s.create(t, s.labelled, bare()), "annotation": s.create(t, s.ns, bareAnnotated(networkKey, "none")),
					"class": s.create(t, s.ns, bare(hermetic)), "policy": s.create(t, s.ns, bareLabelled("policy")),
					"webhook": s.create(t, s.ns, bareLabelled("webhook")),
				} {
					s.wantFilledIn(t, p, "airgap")
					if t.Failed() {
						t.Fatalf("when the class is set by %s", name)
					}
				}
			})
		}
	}
}

func bareLabelled(by string) *corev1.Pod {
	return bare(func(p *corev1.Pod) { p.Labels = map[string]string{setBy: by} })
}

// inForce looks whether a pod of this one's gets its class.
func (s *suite) inForce(t *testing.T, what string) error {
	ns, p := s.ns, pod(label(setBy, what))
	if what == "ours" {
		ns, p = s.labelled, bare()
	}
	got, err := s.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err == nil && got.Spec.RuntimeClassName == nil {
		return fmt.Errorf("no class: %v", got.Labels)
	}
	return err
}

// removeDefaults takes ours away and waits until it is no longer asked.
func (s *suite) removeDefaults(t *testing.T) {
	t.Helper()
	if out, err := s.Kubectl("delete", "--ignore-not-found", "-k", s.defaultsDir()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, what := range []string{"ours", "policy", "webhook"} {
		harness.Eventually(t, what+" to be gone", func() error {
			if s.inForce(t, what) == nil {
				return fmt.Errorf("%s is still in force", what)
			}
			return nil
		})
	}
}

// otherPolicy is another project's: with matchConditions, as policies usually are.
func (s *suite) otherPolicy(prefix string) string {
	version := map[string]string{"134": "v1beta1", "136": "v1"}[s.Version]
	return fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/%[1]s
kind: MutatingAdmissionPolicy
metadata: {name: %[2]s-other}
spec:
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  matchConditions:
  - {name: ours, expression: "object.metadata.?labels[?'set-by'].orValue('') == 'policy'"}
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{spec: Object.spec{runtimeClassName: 'airgap'}}"}
---
apiVersion: admissionregistration.k8s.io/%[1]s
kind: MutatingAdmissionPolicyBinding
metadata: {name: %[2]s-other}
spec: {policyName: %[2]s-other}
`, version, prefix)
}

// serveWebhook is another project's webhook, on HTTPS. It returns its configuration.
func (s *suite) serveWebhook(t *testing.T) func(prefix string) string {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		var p corev1.Pod
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := json.Unmarshal(review.Request.Object.Raw, &p); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		if p.Labels[setBy] == "webhook" {
			review.Response.PatchType = ptr(admissionv1.PatchTypeJSONPatch)
			review.Response.Patch = []byte(`[{"op":"add","path":"/spec/runtimeClassName","value":"airgap"}]`)
		}
		review.Request = nil
		json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return func(prefix string) string {
		return fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: %s-webhook}
webhooks:
- name: webhook.example.com
  clientConfig: {url: %s, caBundle: %s}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
`, prefix, server.URL, ca)
	}
}

// render is what kustomize makes of a folder.
func (s *suite) render(t *testing.T, dir string) string {
	t.Helper()
	out, err := s.Kubectl("kustomize", dir)
	if err != nil {
		t.Fatalf("kubectl kustomize %s: %v\n%s", dir, err, out)
	}
	return out
}

// deleteManifest takes away what Apply made.
func (s *suite) deleteManifest(t *testing.T, manifest string) {
	t.Helper()
	cmd := s.Command(s.Program("kubectl"), "delete", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("kubectl delete: %v\n%s", err, out)
	}
}
