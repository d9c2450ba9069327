package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// defaultsDir is the overlay for this version.
func (s *suite) defaultsDir() string {
	if s.Version == "134" {
		return policyDir + "/defaults-v1beta1"
	}
	return policyDir + "/defaults"
}

// bare is a pod whose author, or chart, does not know the rules.
func bare(edits ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "bare-"},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{container("i0")},
			Containers:     []corev1.Container{container("c0"), container("c1")},
		},
	}
	for _, edit := range edits {
		edit(p)
	}
	return p
}

// bareAnnotated is one line in the metadata.
func bareAnnotated(pairs ...string) *corev1.Pod {
	p := bare()
	p.Annotations = map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		p.Annotations[pairs[i]] = pairs[i+1]
	}
	return p
}

// testDefaults has the overlay: with it, one line makes a hermetic pod, or none.
func (s *suite) testDefaults(t *testing.T) {
	if s.Version == "134" {
		out, err := s.Kubectl("apply", "-k", policyDir+"/defaults")
		if err == nil || !strings.Contains(out, `no matches for kind "MutatingAdmissionPolicy"`) {
			t.Errorf("the overlay for 1.36: %v\n%s", err, out)
		}
	}
	if out, err := s.Kubectl("apply", "-k", s.defaultsDir()); err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
	harness.Eventually(t, "the defaults to be set", func() error {
		_, err := s.tryCreate(t, s.ns, bare(hermetic))
		return err
	})
	t.Run("not asked", s.testNotAsked)
	t.Run("filled in", s.testFilledIn)
	t.Run("own name", s.testOwnName)
	t.Run("said otherwise", s.testSaidOtherwise)
}

// testNotAsked wants an ordinary pod to stay as the API server makes it.
func (s *suite) testNotAsked(t *testing.T) {
	everything := pod(func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "mine", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		// Lists with doubles, which the API allows.
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}}
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80}, {ContainerPort: 80}}
	})
	for name, p := range map[string]*corev1.Pod{"bare": bare(), "annotated": bareAnnotated("a", "b"), "with everything": everything} {
		got := s.create(t, s.ns, p)
		if got.Spec.RuntimeClassName != nil || got.Spec.Hostname != "" || got.Spec.HostAliases != nil || len(got.Spec.Tolerations) != 2 ||
			len(got.Annotations) != len(p.Annotations) || len(got.Labels) != len(p.Labels) || len(got.Spec.Containers[0].Env) != len(p.Spec.Containers[0].Env) {
			t.Errorf("%s: %+v", name, got)
		}
		if name != "with everything" && (got.Spec.DNSPolicy != corev1.DNSClusterFirst || !*got.Spec.EnableServiceLinks ||
			len(mounts(got)) != 3 || got.Spec.SecurityContext.SeccompProfile != nil) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// testFilledIn asks in every way, with nothing but that.
func (s *suite) testFilledIn(t *testing.T) {
	withMore := func(p *corev1.Pod) {
		p.Labels, p.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
		p.Spec.DNSConfig = &corev1.PodDNSConfig{Searches: []string{"lan"}}
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(1))}
		p.Spec.Volumes = []corev1.Volume{{Name: "mine", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: "/mine"}}
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "1"}}
	}
	handled := "handled" // testAsking made it
	for _, test := range []struct {
		name, ns string
		pod      *corev1.Pod
		class    string // empty: through Multus
	}{
		{"class", s.ns, bare(hermetic), "airgap"},
		{"class of a handler", s.ns, bare(hermeticOther), "airgap-other"},
		{"annotation", s.ns, bareAnnotated(networkKey, "none"), "airgap"},
		{"annotation and handler", s.ns, bareAnnotated(networkKey, "none", handlerKey, "other"), "airgap-other"},
		{"label", s.labelled, bare(), "airgap"},
		{"label, and the pod's handler", s.labelled, bareAnnotated(handlerKey, "other"), "airgap-other"},
		{"label and handler", handled, bare(), "airgap-other"},
		{"handler only, asked", "handler-only", bareAnnotated(networkKey, "none"), "airgap-other"},
		{"with more", s.labelled, bare(withMore), "airgap"},
		{"all said already", s.ns, pod(hermetic, label(ambientKey, "none")), "airgap"},
		{"Multus", s.ns, bareAnnotated(defaultKey, "kube-system/airgap"), ""},
		{"label multus", s.multus, bare(), ""},
		{"label multus, annotation", s.multus, bareAnnotated(networkKey, "none"), ""},
		{"label multus, another name", s.multus, bareAnnotated(defaultKey, "kube-system/airgap-lab"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := s.create(t, test.ns, test.pod)
			s.wantFilledIn(t, got, test.class)
			if test.class == "" && !strings.HasPrefix(got.Annotations[defaultKey], "kube-system/airgap") {
				t.Errorf("annotations %v", got.Annotations)
			}
			if test.name == "with more" && (got.Labels["a"] != "b" || got.Annotations["c"] != "d" || *got.Spec.SecurityContext.RunAsUser != 1 ||
				fmt.Sprint(got.Spec.DNSConfig.Searches) != "[lan]" || fmt.Sprint(mounts(got)) != "[mine]" || got.Spec.Containers[0].Env[0].Value != "1") {
				t.Errorf("something of the pod's own is gone: %+v", got)
			}
		})
	}
}

// wantFilledIn looks at everything that the defaults set, and at what the API server
// adds for the class.
func (s *suite) wantFilledIn(t *testing.T, got *corev1.Pod, class string) {
	t.Helper()
	spec := got.Spec
	switch name := spec.RuntimeClassName; {
	case class == "" && name != nil:
		t.Errorf("class %s", *name)
	case class == "":
	case name == nil || *name != class:
		t.Errorf("no class %s: %+v", class, got)
	default:
		tolerated := slices.ContainsFunc(spec.Tolerations, func(t corev1.Toleration) bool { return t.Key == class })
		if spec.NodeSelector["cni-none.dev/"+class] != "true" || !tolerated || spec.Overhead.Memory().String() != "7Mi" {
			t.Errorf("what RuntimeClass %s adds is missing: nodes %v, %v, overhead %v", class, spec.NodeSelector, spec.Tolerations, spec.Overhead)
		}
	}
	if spec.DNSPolicy != corev1.DNSNone || spec.DNSConfig == nil || fmt.Sprint(spec.DNSConfig.Nameservers) != "[127.0.0.1]" {
		t.Errorf("dnsPolicy %s, %+v", spec.DNSPolicy, spec.DNSConfig)
	}
	if *spec.EnableServiceLinks || spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		t.Error("service links or token")
	}
	if got.Labels[sidecarKey] != "false" || got.Labels[ambientKey] != "none" || got.Annotations[linkerdKey] != "disabled" {
		t.Errorf("labels %v, annotations %v", got.Labels, got.Annotations)
	}
	if p := spec.SecurityContext.SeccompProfile; p == nil || p.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("seccompProfile %v", p)
	}
	if len(spec.HostAliases) != 1 || spec.HostAliases[0].IP != "127.0.0.1" || fmt.Sprint(spec.HostAliases[0].Hostnames) != "["+spec.Hostname+"]" {
		t.Errorf("hostname %q, aliases %v", spec.Hostname, spec.HostAliases)
	}
	for _, c := range append(slices.Clone(spec.InitContainers), spec.Containers...) {
		if !slices.Contains(c.Env, corev1.EnvVar{Name: "RESOLV_MULTI", Value: "on"}) {
			t.Errorf("%s has the environment %v", c.Name, c.Env)
		}
	}
	for _, v := range spec.Volumes {
		if v.Name != "mine" {
			t.Errorf("volume %s", v.Name)
		}
	}
	for _, m := range mounts(got) {
		if m != "mine" {
			t.Errorf("mount of %s", m)
		}
	}
}

func mounts(p *corev1.Pod) (names []string) {
	for _, c := range append(slices.Clone(p.Spec.InitContainers), p.Spec.Containers...) {
		for _, m := range c.VolumeMounts {
			names = append(names, m.Name)
		}
	}
	return names
}

// testOwnName has the name that leads to 127.0.0.1, for every way to be named.
func (s *suite) testOwnName(t *testing.T) {
	named := func(name, generate, hostname string) *corev1.Pod {
		p := bare(hermetic)
		p.Name, p.GenerateName, p.Spec.Hostname = name, generate, hostname
		return p
	}
	long := strings.Repeat("a", 70)
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"named":            {named("own-name", "", ""), "own-name"},
		"generated":        {named("", "web-5d4f8-", ""), "web-5d4f8"},
		"set by others":    {named("", "set-", "set-0"), "set-0"},
		"with dots":        {named("own.name.example", "", ""), "own"},
		"long":             {named(long, "", ""), long[:63]},
		"long, with a dot": {named("", long+".x-", ""), long[:63]},
		"cut at a dash":    {named("", strings.Repeat("b", 62)+"--x-", ""), strings.Repeat("b", 62)},
	} {
		t.Run(name, func(t *testing.T) {
			got := s.create(t, s.ns, test.pod)
			if got.Spec.Hostname != test.want || len(got.Spec.HostAliases) != 1 || got.Spec.HostAliases[0].Hostnames[0] != test.want {
				t.Errorf("hostname %q, aliases %v, want %q", got.Spec.Hostname, got.Spec.HostAliases, test.want)
			}
		})
	}
	t.Run("aliases of its own", func(t *testing.T) {
		p := bare(hermetic)
		p.Spec.HostAliases = []corev1.HostAlias{{IP: "127.0.0.2", Hostnames: []string{"db"}}}
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "RESOLV_MULTI", Value: "off"}}
		got := s.create(t, s.ns, p)
		if got.Spec.Hostname != "" || len(got.Spec.HostAliases) != 1 || len(got.Spec.Containers[0].Env) != 1 {
			t.Errorf("hostname %q, aliases %v, environment %v", got.Spec.Hostname, got.Spec.HostAliases, got.Spec.Containers[0].Env)
		}
	})
}

// testSaidOtherwise wants what a pod says to stay, and to be refused.
func (s *suite) testSaidOtherwise(t *testing.T) {
	for rule, edit := range map[string]func(*corev1.Pod){
		"no DNS server":     func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault },
		"its token":         func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = ptr(true) },
		"an Istio sidecar":  func(p *corev1.Pod) { p.Labels = map[string]string{sidecarKey: "true"} },
		"ambient mode":      func(p *corev1.Pod) { p.Labels = map[string]string{ambientKey: "ambient"} },
		"a Linkerd proxy":   func(p *corev1.Pod) { p.Annotations = map[string]string{linkerdKey: "enabled"} },
		"hostNetwork: true": hostNetwork,
		"seccompProfile:": func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}}
		},
	} {
		t.Run(rule, func(t *testing.T) {
			for _, way := range []way{{s.ns, hermetic, "runtimeClassName: airgap"}, {s.labelled, func(*corev1.Pod) {}, "the label " + labelKey}} {
				_, err := s.tryCreate(t, way.ns, bare(way.edit, edit))
				s.wantRefused(t, err, "cni-none-hermetic-pods", rule, way.says)
				if apierrors.IsInternalError(err) {
					t.Error("the defaults failed instead")
				}
			}
		})
	}
	for _, test := range []struct{ name, ns, class, more string }{
		{"another class", s.labelled, "airgapped", "runtimeClassName: airgapped has a network"},
		{"another class, multus", s.multus, "airgapped", ""},
		{"a class that is not there", s.ns, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			switch test.class {
			case "":
				_, err := s.tryCreate(t, test.ns, bareAnnotated(networkKey, "none", handlerKey, "nowhere"))
				if err == nil || !strings.Contains(err.Error(), `RuntimeClass "airgap-nowhere" not found`) {
					t.Errorf("got %v", err)
				}
			default:
				got, err := s.tryCreate(t, test.ns, bare(class(test.class)))
				if test.more != "" {
					s.wantRefused(t, err, "cni-none-asking", "this pod is to be hermetic", test.more)
				} else if err != nil || got.Annotations[defaultKey] != "kube-system/airgap" {
					t.Errorf("got %v, %v", got, err)
				}
			}
		})
	}
	for _, value := range []string{"None", "off", ""} {
		_, err := s.tryCreate(t, s.labelled, bareAnnotated(networkKey, value))
		s.wantRefused(t, err, "cni-none-asking", "has a value that means nothing")
	}
}
