package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/cni-none/cni-none/test/internal/harness"
)

const (
	networksKey = "k8s.v1.cni.cncf.io/networks"
	defaultKey  = "v1.multus-cni.io/default-network"
	networkKey  = "cni-none.dev/network"
	handlerKey  = "cni-none.dev/handler"
	labelKey    = "cni-none.dev/hermetic"
	sidecarKey  = "sidecar.istio.io/inject"
	ambientKey  = "istio.io/dataplane-mode"
	linkerdKey  = "linkerd.io/inject"
)

// suite is the state of the tests on one cluster: they run in order.
type suite struct {
	*server
	policies []admissionv1.ValidatingAdmissionPolicy
	refused  map[string]bool // by text: the rules that have been seen to refuse
	unknown  map[string]bool // fields that this version drops
	ns       string          // a namespace without labels
	labelled string          // one whose label makes its pods hermetic
	multus   string          // one that does it through Multus
}

func TestPolicies(t *testing.T) {
	for n, version := range []string{"134", "136"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := &suite{server: start(t, version, n), refused: map[string]bool{}, unknown: map[string]bool{}}
			s.load(t)
			s.ns = s.namespace(t, "plain", nil)
			s.labelled = s.namespace(t, "labelled", map[string]string{labelKey: "true"})
			s.multus = s.namespace(t, "multus", map[string]string{labelKey: "multus"})
			for name, labels := range wrongNamespaces {
				s.namespace(t, name, labels)
			}
			for _, name := range []string{"airgap", "airgap-other", "airgapped"} {
				s.runtimeClass(t, name)
			}
			old := s.podsFromBefore(t)
			s.install(t)
			t.Run("type check", s.testTypeCheck)
			t.Run("pods", s.testPods)
			t.Run("containers", s.testContainers)
			t.Run("kubectl debug", s.testKubectlDebug)
			t.Run("allowed", s.testAllowed)
			t.Run("namespace's mesh and opt-ins", s.testNamespaceDecides)
			t.Run("asking", s.testAsking)
			t.Run("namespaces", s.testNamespaces)
			t.Run("schema", s.testSchema)
			t.Run("every field", s.testFields)
			t.Run("any pod", s.testAnyPod)
			t.Run("update", s.testUpdate)
			t.Run("pods from before", func(t *testing.T) { s.testOldPods(t, old) })
			t.Run("bindings", s.testBindings)
			t.Run("no-exec", s.testNoExec)
			t.Run("samples", s.testSamples)
			t.Run("find-services", s.testFindServices)
			t.Run("large pod", s.testLargePod)
			t.Run("defaults", s.testDefaults)
			t.Run("large pod with defaults", s.testLargePod)
			t.Run("beside others", s.testBesideOthers)
			t.Run("proof", s.testProof)
			t.Run("runtimeclasses", s.testRuntimeClasses)
			t.Run("every rule refused something", func(t *testing.T) {
				for _, p := range s.policies {
					for _, v := range p.Spec.Validations {
						if !s.refused[text(v)] {
							t.Errorf("no test was refused by %s: %s", p.Name, text(v))
						}
					}
				}
			})
			t.Run("remove", s.testRemove)
		})
	}
}

// load reads the policies from the files that are installed, for their messages.
func (s *suite) load(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(policyDir + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s.loadFiles(t, files...)
	if len(s.policies) == 0 {
		t.Fatal("no policies in " + policyDir)
	}
}

func (s *suite) loadFiles(t *testing.T, files ...string) {
	t.Helper()
	for _, doc := range documents(t, files...) {
		if p, ok := doc.(*admissionv1.ValidatingAdmissionPolicy); ok {
			s.policies = append(s.policies, *p)
		}
	}
}

// documents decodes the objects in YAML files. Kinds that are not Kubernetes' own
// are left out.
func documents(t *testing.T, files ...string) []runtime.Object {
	t.Helper()
	var objects []runtime.Object
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range bytes.Split(b, []byte("\n---\n")) {
			j, err := yaml.YAMLToJSON(doc)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			object, _, err := scheme.Codecs.UniversalDeserializer().Decode(j, nil, nil)
			if runtime.IsNotRegisteredError(err) {
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			objects = append(objects, object)
		}
	}
	return objects
}

// install applies the policies as a user does, and waits until the API server
// enforces them: it reads them at intervals, each on its own.
func (s *suite) install(t *testing.T) {
	t.Helper()
	// An exec can only be tried on a pod, which must exist by then.
	locked := s.namespace(t, "install-no-exec", map[string]string{"cni-none.dev/no-exec": "true"})
	target := s.create(t, locked, pod())
	updated := s.create(t, s.ns, pod(hermetic))

	if out, err := s.Kubectl("apply", "-k", policyDir); err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	for policy, try := range map[string]func() error{
		"cni-none-hermetic-pods": func() error {
			_, err := s.CoreV1().Pods(s.ns).Create(t.Context(), pod(hermetic, hostNetwork), dry)
			return err
		},
		"cni-none-hermetic-pods-update": func() error {
			patch := []byte(`{"metadata":{"annotations":{"` + networksKey + `":"other"}}}`)
			_, err := s.CoreV1().Pods(s.ns).Patch(t.Context(), updated.Name, types.MergePatchType, patch,
				metav1.PatchOptions{DryRun: dry.DryRun})
			return err
		},
		"cni-none-bindings": func() error {
			return s.CoreV1().Pods(s.ns).Bind(t.Context(), binding(updated, networksKey, ""), dry)
		},
		"cni-none-runtimeclasses": func() error {
			_, err := s.NodeV1().RuntimeClasses().Create(t.Context(), &nodev1.RuntimeClass{
				ObjectMeta: metav1.ObjectMeta{Name: "airgap-install"}, Handler: "runc"}, dry)
			return err
		},
		"cni-none-asking": func() error {
			_, err := s.CoreV1().Pods(s.ns).Create(t.Context(), pod(annotate(networkKey, "off")), dry)
			return err
		},
		"cni-none-namespaces": func() error {
			_, err := s.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
				Name: "install", Labels: map[string]string{labelKey: "off"}}}, dry)
			return err
		},
		"cni-none-no-exec": func() error { return s.connect(t, locked, target.Name, "exec") },
	} {
		harness.Eventually(t, policy+" to be enforced", func() error {
			err := try()
			if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy '"+policy+"'") {
				return fmt.Errorf("not refused by it: %v", err)
			}
			return nil
		})
	}
}

// text is what a rule says, or the expression that says it.
func text(v admissionv1.Validation) string { return cmp.Or(v.MessageExpression, v.Message) }

// rule finds the one whose message has this fragment.
func (s *suite) rule(t *testing.T, policy, fragment string) string {
	t.Helper()
	var found string
	for _, p := range s.policies {
		for _, v := range p.Spec.Validations {
			if p.Name == policy && strings.Contains(text(v), fragment) {
				if found != "" {
					t.Fatalf("%q is in two messages of %s", fragment, policy)
				}
				found = text(v)
			}
		}
	}
	if found == "" {
		t.Fatalf("no message of %s has %q", policy, fragment)
	}
	return found
}

// wantRefused wants err to be the refusal by one rule and no other: the one whose
// message has this fragment. It may want more of the message, which the rule makes
// from the pod.
func (s *suite) wantRefused(t *testing.T, err error, policy, fragment string, more ...string) {
	t.Helper()
	rule := s.rule(t, policy, fragment)
	if err == nil {
		t.Errorf("accepted; want it refused: %s", rule)
		return
	}
	want := fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: ", policy, policy)
	_, message, found := strings.Cut(err.Error(), want)
	for _, part := range append(more, fragment) {
		found = found && strings.Contains(message, part)
	}
	if !found {
		t.Errorf("got error\n\t%v\nwant\n\t%s ... %s ... %q", err, want, fragment, more)
		return
	}
	s.refused[rule] = true
}

// pod returns a pod with everything that the rules ask of a hermetic pod, except
// that nothing makes it one.
func pod(edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "p-",
			Labels:       map[string]string{"app": "test", sidecarKey: "false"},
			Annotations:  map[string]string{linkerdKey: "disabled"},
		},
		Spec: corev1.PodSpec{
			// The one that is edited comes second: a rule that judges only the first will not do.
			InitContainers:               []corev1.Container{container("i0"), container("i1")},
			Containers:                   []corev1.Container{container("c0"), container("c1")},
			DNSPolicy:                    corev1.DNSNone,
			DNSConfig:                    &corev1.PodDNSConfig{Nameservers: []string{"127.0.0.1"}},
			EnableServiceLinks:           ptr(false),
			AutomountServiceAccountToken: ptr(false),
			SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{
				Type: corev1.SeccompProfileTypeRuntimeDefault}},
		},
	}
	for _, edit := range edits {
		edit(p)
	}
	return p
}

func container(name string) corev1.Container {
	return corev1.Container{Name: name, Image: "busybox"}
}

func ptr[T any](v T) *T { return &v }

// What makes a pod hermetic.
func hermetic(p *corev1.Pod)      { p.Spec.RuntimeClassName = ptr("airgap") }
func hermeticOther(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr("airgap-other") }
func multus(p *corev1.Pod)        { p.Annotations[defaultKey] = "kube-system/airgap" }

func hostNetwork(p *corev1.Pod) { p.Spec.HostNetwork = true }

func annotate(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations[key] = value }
}

func label(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels[key] = value }
}

func (s *suite) tryCreate(t *testing.T, ns string, p *corev1.Pod) (*corev1.Pod, error) {
	t.Helper()
	return s.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{})
}

func (s *suite) create(t *testing.T, ns string, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	created, err := s.tryCreate(t, ns, p)
	if err != nil {
		t.Fatalf("refused, and should not have been: %v", err)
	}
	return created
}

func (s *suite) runtimeClass(t *testing.T, name string) {
	t.Helper()
	_, err := s.NodeV1().RuntimeClasses().Create(t.Context(), &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: name,
		Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("7Mi")}},
		Scheduling: &nodev1.Scheduling{
			NodeSelector: map[string]string{"cni-none.dev/" + name: "true"},
			Tolerations:  []corev1.Toleration{{Key: name, Operator: corev1.TolerationOpExists}},
		}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// testTypeCheck wants the controller to have looked at every expression with the
// types of what it matches, and to have found nothing. A policy with a mistake
// shows that it does find one.
func (s *suite) testTypeCheck(t *testing.T) {
	policies := s.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	mistake, err := policies.Create(t.Context(), &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "mistake"},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
				}}}},
			Validations: []admissionv1.Validation{{Expression: "object.spec.hostNetwrok == true"}},
		}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	warnings := func(name string) (found []admissionv1.ExpressionWarning) {
		harness.Eventually(t, "the type check of "+name, func() error {
			p, err := policies.Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if p.Status.ObservedGeneration != p.Generation || p.Status.TypeChecking == nil {
				return fmt.Errorf("status is %+v", p.Status)
			}
			found = p.Status.TypeChecking.ExpressionWarnings
			return nil
		})
		return found
	}
	if len(warnings(mistake.Name)) == 0 {
		t.Error("no warning about a field that does not exist: nothing checks the types")
	}
	for _, p := range s.policies {
		for _, w := range warnings(p.Name) {
			t.Errorf("%s: %s: %s", p.Name, w.FieldRef, w.Warning)
		}
	}
	if err := policies.Delete(t.Context(), mistake.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}
