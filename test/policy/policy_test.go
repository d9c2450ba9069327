package policy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/cni-none/cni-none/test/internal/harness"
)

const (
	networksKey = "k8s.v1.cni.cncf.io/networks"
	defaultKey  = "v1.multus-cni.io/default-network"
	sidecarKey  = "sidecar.istio.io/inject"
	ambientKey  = "istio.io/dataplane-mode"
	linkerdKey  = "linkerd.io/inject"
)

// suite is the state of the tests on one cluster: they run in order.
type suite struct {
	*server
	policies []admissionv1.ValidatingAdmissionPolicy
	refused  map[string]bool // by message: the rules that have been seen to refuse
	ns       string          // a namespace without labels
}

func TestPolicies(t *testing.T) {
	for n, version := range []string{"134", "136"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := &suite{server: start(t, version, n), refused: map[string]bool{}}
			s.load(t)
			s.ns = s.namespace(t, "plain", nil)
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
			t.Run("namespace's mesh and claims", s.testNamespaceDecides)
			t.Run("update", s.testUpdate)
			t.Run("pods from before", func(t *testing.T) { s.testOldPods(t, old) })
			t.Run("bindings", s.testBindings)
			t.Run("hermetic-only", s.testHermeticOnly)
			t.Run("no-exec", s.testNoExec)
			t.Run("samples", s.testSamples)
			t.Run("find-services", s.testFindServices)
			t.Run("large pod", s.testLargePod)
			t.Run("runtimeclasses", s.testRuntimeClasses)
			t.Run("every rule refused something", func(t *testing.T) {
				for _, p := range s.policies {
					for _, v := range p.Spec.Validations {
						if !s.refused[v.Message] {
							t.Errorf("no test was refused by %s: %s", p.Name, v.Message)
						}
					}
				}
			})
			t.Run("defaults", s.testDefaults)
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
	for _, doc := range documents(t, files...) {
		if p, ok := doc.(*admissionv1.ValidatingAdmissionPolicy); ok {
			s.policies = append(s.policies, *p)
		}
	}
	if len(s.policies) == 0 {
		t.Fatal("no policies in " + policyDir)
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
	only := s.namespace(t, "install-hermetic-only", map[string]string{"cni-none.dev/hermetic-only": "true"})
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
		"cni-none-hermetic-only": func() error {
			_, err := s.CoreV1().Pods(only).Create(t.Context(), pod(), dry)
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

// wantRefused wants err to be the refusal by one rule and no other: the one whose
// message has this fragment.
func (s *suite) wantRefused(t *testing.T, err error, policy, fragment string) {
	t.Helper()
	var message string
	for _, p := range s.policies {
		for _, v := range p.Spec.Validations {
			if p.Name == policy && strings.Contains(v.Message, fragment) {
				if message != "" {
					t.Fatalf("%q is in two messages of %s", fragment, policy)
				}
				message = v.Message
			}
		}
	}
	if message == "" {
		t.Fatalf("no message of %s has %q", policy, fragment)
	}
	want := fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: %s", policy, policy, message)
	if err == nil {
		t.Errorf("accepted; want it refused: %s", message)
		return
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("got error\n\t%v\nwant\n\t%s", err, want)
		return
	}
	s.refused[message] = true
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
		ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: name}, metav1.CreateOptions{})
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

// testPods breaks one rule at a time in the pod itself. The same pod is accepted
// when it is not hermetic: it is the rule that refuses it, not the API.
func (s *suite) testPods(t *testing.T) {
	volume := func(v corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v0", VolumeSource: corev1.VolumeSource{
				EmptyDir: &corev1.EmptyDirVolumeSource{}}}, {Name: "v1", VolumeSource: v}}
		}
	}
	for _, test := range []struct {
		name, rule string
		edit       func(*corev1.Pod)
	}{
		{"host network", "hostNetwork: true", hostNetwork},
		{"host PID", "hostPID: true", func(p *corev1.Pod) { p.Spec.HostPID = true }},
		{"host IPC", "hostIPC: true", func(p *corev1.Pod) { p.Spec.HostIPC = true }},
		{"hostPath", "hostPath volumes", volume(corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: "/run"}})},
		{"networks", "attaches further networks", annotate(networksKey, "other")},
		{"networks, empty", "attaches further networks", annotate(networksKey, "")},
		{"default network is another", "plain form", func(p *corev1.Pod) {
			if p.Spec.RuntimeClassName == nil { // another network on a pod that is not hermetic is fine
				p.Annotations[defaultKey] = "default/airgap"
				return
			}
			p.Annotations[defaultKey] = "kube-system/other"
		}},
		{"resourceClaims", "resourceClaims can", claim},
		{"dnsPolicy left out", "no DNS server", func(p *corev1.Pod) { p.Spec.DNSPolicy = "" }},
		{"dnsPolicy Default", "no DNS server", func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault }},
		{"another name server", "no DNS server", func(p *corev1.Pod) { p.Spec.DNSConfig.Nameservers = []string{"10.0.0.10"} }},
		{"a second name server", "no DNS server", func(p *corev1.Pod) {
			p.Spec.DNSConfig.Nameservers = []string{"127.0.0.1", "10.0.0.10"}
		}},
		{"service links left out", "service links", func(p *corev1.Pod) { p.Spec.EnableServiceLinks = nil }},
		{"service links", "service links", func(p *corev1.Pod) { p.Spec.EnableServiceLinks = ptr(true) }},
		{"token left out", "its token", func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = nil }},
		{"token", "its token", func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = ptr(true) }},
		{"token mounted all the same", "its token", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "kube-api-access-abcde", VolumeSource: corev1.VolumeSource{
				EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		}},
		{"sidecar left out", "an Istio sidecar", func(p *corev1.Pod) { delete(p.Labels, sidecarKey) }},
		{"sidecar", "an Istio sidecar", label(sidecarKey, "true")},
		{"no labels at all", "an Istio sidecar", func(p *corev1.Pod) { p.Labels = nil }},
		{"ambient", "ambient mode", label(ambientKey, "ambient")},
		{"Linkerd left out", "a Linkerd proxy", func(p *corev1.Pod) { delete(p.Annotations, linkerdKey) }},
		{"Linkerd", "a Linkerd proxy", annotate(linkerdKey, "enabled")},
		{"Linkerd ingress", "a Linkerd proxy", annotate(linkerdKey, "ingress")},
	} {
		t.Run(test.name, func(t *testing.T) {
			for mark, makeHermetic := range map[string]func(*corev1.Pod){
				"RuntimeClass airgap": hermetic, "RuntimeClass airgap-other": hermeticOther, "Multus": multus,
			} {
				_, err := s.tryCreate(t, s.ns, pod(makeHermetic, test.edit))
				s.wantRefused(t, err, "cni-none-hermetic-pods", test.rule)
				if t.Failed() {
					t.Fatal("with", mark)
				}
			}
			if test.name == "default network is another" {
				s.create(t, s.ns, pod(annotate(defaultKey, "kube-system/other")))
				return
			}
			s.create(t, s.ns, pod(test.edit))
		})
	}

	t.Run("default-network", func(t *testing.T) {
		for _, value := range []string{
			"airgap", "default/airgap", "kube-system/airgap@eth0", "kube-system/airgap,kube-system/other",
			"other,airgap-lab", "team/airgap-lab", " kube-system/airgap",
			`[{"name":"airgap","namespace":"kube-system"}]`, `[{"name":"\u0061irgap"}]`,
		} {
			_, err := s.tryCreate(t, s.ns, pod(annotate(defaultKey, value)))
			s.wantRefused(t, err, "cni-none-hermetic-pods", "plain form")
			if t.Failed() {
				t.Fatal("with", value)
			}
		}
	})
}

func claim(p *corev1.Pod) {
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "nic", ResourceClaimTemplateName: ptr("nic")}}
}

// testContainers breaks one rule at a time in one container: an init container,
// a container, and, where the API lets it have such a field, an ephemeral one.
func (s *suite) testContainers(t *testing.T) {
	const policy = "cni-none-hermetic-pods"
	web := intstr.FromInt32(80)
	add := func(names ...corev1.Capability) func(*corev1.Container) {
		return func(c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: names}}
		}
	}
	probe := func(h corev1.ProbeHandler) *corev1.Probe { return &corev1.Probe{ProbeHandler: h} }
	httpGet := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: web}}
	tcp := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: web}}
	grpc := corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 80}}
	hookHTTP := &corev1.LifecycleHandler{HTTPGet: httpGet.HTTPGet}
	hookTCP := &corev1.LifecycleHandler{TCPSocket: tcp.TCPSocket}

	for _, test := range []struct {
		name, rule string
		ephemeral  bool
		edit       func(*corev1.Container)
	}{
		{"hostPort", "hostPort:", false, func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 79}, {ContainerPort: 80, HostPort: 80}}
		}},
		{"privileged", "privileged: true", true, func(c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)}
		}},
		{"SYS_ADMIN", "capabilities NET_ADMIN", true, add("CHOWN", "SYS_ADMIN")},
		{"SYS_PTRACE", "capabilities NET_ADMIN", true, add("SYS_PTRACE")},
		{"NET_ADMIN", "capabilities NET_ADMIN", true, add("NET_ADMIN")},
		{"ALL", "capabilities NET_ADMIN", true, add("ALL")},
		{"with the kernel's prefix", "capabilities NET_ADMIN", true, add("CAP_SYS_ADMIN")},
		{"in lower case", "capabilities NET_ADMIN", true, add("cap_net_admin")},
		{"liveness httpGet", "probes are sent", false, func(c *corev1.Container) { c.LivenessProbe = probe(httpGet) }},
		{"liveness tcpSocket", "probes are sent", false, func(c *corev1.Container) { c.LivenessProbe = probe(tcp) }},
		{"liveness grpc", "probes are sent", false, func(c *corev1.Container) { c.LivenessProbe = probe(grpc) }},
		{"readiness httpGet", "probes are sent", false, func(c *corev1.Container) { c.ReadinessProbe = probe(httpGet) }},
		{"readiness tcpSocket", "probes are sent", false, func(c *corev1.Container) { c.ReadinessProbe = probe(tcp) }},
		{"readiness grpc", "probes are sent", false, func(c *corev1.Container) { c.ReadinessProbe = probe(grpc) }},
		{"startup httpGet", "probes are sent", false, func(c *corev1.Container) { c.StartupProbe = probe(httpGet) }},
		{"startup tcpSocket", "probes are sent", false, func(c *corev1.Container) { c.StartupProbe = probe(tcp) }},
		{"startup grpc", "probes are sent", false, func(c *corev1.Container) { c.StartupProbe = probe(grpc) }},
		{"postStart httpGet", "lifecycle hooks", false, func(c *corev1.Container) { c.Lifecycle = &corev1.Lifecycle{PostStart: hookHTTP} }},
		{"postStart tcpSocket", "lifecycle hooks", false, func(c *corev1.Container) { c.Lifecycle = &corev1.Lifecycle{PostStart: hookTCP} }},
		{"preStop httpGet", "lifecycle hooks", false, func(c *corev1.Container) { c.Lifecycle = &corev1.Lifecycle{PreStop: hookHTTP} }},
		{"preStop tcpSocket", "lifecycle hooks", false, func(c *corev1.Container) { c.Lifecycle = &corev1.Lifecycle{PreStop: hookTCP} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			inContainer := func(p *corev1.Pod) { test.edit(&p.Spec.Containers[1]) }
			inInit := func(p *corev1.Pod) {
				c := &p.Spec.InitContainers[1]
				c.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways) // only these may have probes and hooks
				test.edit(c)
			}
			for _, makeHermetic := range []func(*corev1.Pod){hermetic, multus} {
				for _, where := range []func(*corev1.Pod){inContainer, inInit} {
					_, err := s.tryCreate(t, s.ns, pod(makeHermetic, where))
					s.wantRefused(t, err, policy, test.rule)
				}
				if test.ephemeral {
					s.wantRefused(t, s.debug(t, s.create(t, s.ns, pod(makeHermetic)), test.edit), policy, test.rule)
				}
			}
			s.create(t, s.ns, pod(inContainer))
			s.create(t, s.ns, pod(inInit))
			if test.ephemeral {
				if err := s.debug(t, s.create(t, s.ns, pod()), test.edit); err != nil {
					t.Errorf("in an ephemeral container of a pod that is not hermetic: %v", err)
				}
			}
		})
	}
}

// testKubectlDebug runs what the message about capabilities advises.
func (s *suite) testKubectlDebug(t *testing.T) {
	p := s.create(t, s.ns, pod(hermetic))
	debug := func(profile string) (string, error) {
		return s.Kubectl("debug", "-n", s.ns, p.Name, "--image=busybox", "--profile="+profile, "--", "true")
	}
	if out, err := debug("general"); err == nil || !strings.Contains(out, "for kubectl debug use --profile=restricted") {
		t.Errorf("general: %v\n%s", err, out)
	}
	if out, err := debug("restricted"); err != nil {
		t.Errorf("restricted: %v\n%s", err, out)
	}
}

// debug adds an ephemeral container to a pod.
func (s *suite) debug(t *testing.T, p *corev1.Pod, edit func(*corev1.Container)) error {
	t.Helper()
	p = p.DeepCopy()
	for _, name := range []string{"d0", "d1"} {
		c := container(name)
		if name == "d1" {
			edit(&c)
		}
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers,
			corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: c.Name, Image: c.Image, SecurityContext: c.SecurityContext,
				ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePolicy: corev1.TerminationMessageReadFile}})
	}
	_, err := s.CoreV1().Pods(p.Namespace).UpdateEphemeralContainers(t.Context(), p.Name, p, metav1.UpdateOptions{})
	return err
}

// testAllowed has what the messages recommend, and what only looks like ours.
func (s *suite) testAllowed(t *testing.T) {
	exec := &corev1.ExecAction{Command: []string{"true"}}
	useful := func(p *corev1.Pod) {
		p.Spec.ShareProcessNamespace = ptr(true)
		p.Spec.HostUsers = ptr(false)
		p.Spec.HostAliases = []corev1.HostAlias{{IP: "127.0.0.1", Hostnames: []string{"me"}}}
		p.Spec.DNSConfig.Options = []corev1.PodDNSConfigOption{{Name: "attempts", Value: ptr("1")}}
		p.Labels[ambientKey] = "none"
		p.Spec.Volumes = []corev1.Volume{
			{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
			{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		}
		c := &p.Spec.Containers[1]
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80}}
		c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: exec}}
		c.ReadinessProbe = c.LivenessProbe
		c.StartupProbe = c.LivenessProbe
		c.Lifecycle = &corev1.Lifecycle{
			PostStart: &corev1.LifecycleHandler{Exec: exec},
			PreStop:   &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 1}},
		}
		c.SecurityContext = &corev1.SecurityContext{
			Privileged: ptr(false),
			Capabilities: &corev1.Capabilities{
				Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}},
		}
	}
	for name, makeHermetic := range map[string]func(*corev1.Pod){
		"RuntimeClass airgap": hermetic, "RuntimeClass airgap-other": hermeticOther, "Multus": multus,
		"Multus, another name": annotate(defaultKey, "kube-system/airgap-lab"),
	} {
		t.Run(name, func(t *testing.T) {
			p := s.create(t, s.ns, pod(makeHermetic, useful))
			restricted := func(c *corev1.Container) {
				c.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
			}
			if err := s.debug(t, p, restricted); err != nil {
				t.Errorf("an ephemeral container: %v", err)
			}
		})
	}
	for name, edit := range map[string]func(*corev1.Pod){
		"RuntimeClass airgapped":           func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr("airgapped") },
		"Multus network airgapped":         annotate(defaultKey, "kube-system/airgapped"),
		"Multus network of namespace":      annotate(defaultKey, "airgap/lab"),
		"Multus network not-airgap":        annotate(defaultKey, "kube-system/not-airgap"),
		"JSON that names another network":  annotate(defaultKey, `[{"name":"lab","namespace":"kube-system"}]`),
		"no annotations, no labels at all": func(p *corev1.Pod) { p.Annotations, p.Labels = nil, nil },
	} {
		t.Run("not ours: "+name, func(t *testing.T) {
			s.create(t, s.ns, pod(edit, hostNetwork))
		})
	}
}

// testNamespaceDecides has the rules that look at the pod's namespace, and the one
// that does not look at its ServiceAccount.
func (s *suite) testNamespaceDecides(t *testing.T) {
	ambient := s.namespace(t, "ambient", map[string]string{ambientKey: "ambient"})
	_, err := s.tryCreate(t, ambient, pod(hermetic))
	s.wantRefused(t, err, "cni-none-hermetic-pods", "ambient mode")
	s.create(t, ambient, pod(hermetic, label(ambientKey, "none")))
	s.create(t, ambient, pod())

	s.create(t, s.namespace(t, "claims", map[string]string{"cni-none.dev/allow-resource-claims": "true"}), pod(hermetic, claim))
	_, err = s.tryCreate(t, s.namespace(t, "no-claims", map[string]string{"cni-none.dev/allow-resource-claims": "false"}), pod(hermetic, claim))
	s.wantRefused(t, err, "cni-none-hermetic-pods", "resourceClaims can")

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

// testUpdate changes pods that exist, through each door: the pod and its status.
func (s *suite) testUpdate(t *testing.T) {
	const (
		policy   = "cni-none-hermetic-pods-update"
		networks = networksKey + " cannot"
		network  = defaultKey + " cannot"
		mesh     = "a mesh cannot"
	)
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
	const networks, mesh = "its networks", "into a mesh"
	for _, test := range []struct{ annotation, label, rule string }{
		{networksKey, "", networks},
		{defaultKey, "", networks},
		{linkerdKey, "", mesh},
		{"", sidecarKey, mesh},
		{"", ambientKey, mesh},
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

func (s *suite) testHermeticOnly(t *testing.T) {
	class := s.namespace(t, "only-class", map[string]string{"cni-none.dev/hermetic-only": "true"})
	any := s.namespace(t, "only-multus", map[string]string{"cni-none.dev/hermetic-only": "multus"})
	for _, test := range []struct {
		name string
		ns   string
		edit func(*corev1.Pod)
		ok   bool
	}{
		{"RuntimeClass", class, hermetic, true},
		{"another RuntimeClass of ours", class, hermeticOther, true},
		{"RuntimeClass airgapped", class, func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr("airgapped") }, false},
		{"ordinary", class, func(*corev1.Pod) {}, false},
		{"Multus", class, multus, false},
		{"multus: RuntimeClass", any, hermetic, true},
		{"multus: Multus", any, multus, true},
		{"multus: ordinary", any, func(*corev1.Pod) {}, false},
		{"multus: another network", any, annotate(defaultKey, "kube-system/other"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := s.tryCreate(t, test.ns, pod(test.edit))
			if !test.ok {
				s.wantRefused(t, err, "cni-none-hermetic-only", "hermetic pods only")
			} else if err != nil {
				t.Error(err)
			}
		})
	}
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
	open := s.namespace(t, "exec", map[string]string{"cni-none.dev/no-exec": "false"})
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
