package policy

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// testPods breaks one rule at a time in the pod itself. The same pod is accepted
// when it is not hermetic: it is the rule that refuses it, not the API.
func (s *suite) testPods(t *testing.T) {
	for _, test := range []struct {
		name, rule string
		edit       func(*corev1.Pod)
	}{
		{"host network", "hostNetwork: true", hostNetwork},
		{"host PID", "hostPID: true", func(p *corev1.Pod) { p.Spec.HostPID = true }},
		{"host IPC", "hostIPC: true", func(p *corev1.Pod) { p.Spec.HostIPC = true }},
		{"windowsOptions", "windowsOptions:", func(p *corev1.Pod) {
			p.Spec.SecurityContext.WindowsOptions = &corev1.WindowsSecurityContextOptions{RunAsUserName: ptr("user")}
		}},
		{"seccompProfile left out", "seccompProfile:", func(p *corev1.Pod) { p.Spec.SecurityContext.SeccompProfile = nil }},
		{"seccompProfile Unconfined", "seccompProfile:", func(p *corev1.Pod) {
			p.Spec.SecurityContext.SeccompProfile.Type = corev1.SeccompProfileTypeUnconfined
		}},
		{"seccompProfile of all containers but one", "seccompProfile:", func(p *corev1.Pod) {
			profile := p.Spec.SecurityContext
			p.Spec.SecurityContext = nil
			for _, c := range []*corev1.Container{&p.Spec.InitContainers[0], &p.Spec.InitContainers[1], &p.Spec.Containers[0]} {
				c.SecurityContext = &corev1.SecurityContext{SeccompProfile: profile.SeccompProfile}
			}
		}},
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
			for _, way := range s.ways() {
				if test.name == "default network is another" && way.ns == s.multus {
					continue // there, asking.yaml refuses it as well
				}
				_, err := s.tryCreate(t, way.ns, pod(way.edit, test.edit))
				s.wantRefused(t, err, "cni-none-hermetic-pods", test.rule, "(this pod is hermetic because of "+way.says+")")
				if way.viaMultus() && strings.Contains(fmt.Sprint(err), "untimeClass") {
					t.Errorf("a Multus pod is told about a RuntimeClass: %v", err)
				}
				if t.Failed() {
					t.Fatal("with", way.says)
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

// way is how a pod asks to be hermetic, and what a refusal says of it.
type way struct {
	ns   string
	edit func(*corev1.Pod)
	says string
}

func (w way) viaMultus() bool { return pod(w.edit).Spec.RuntimeClassName == nil }

// ways are all of them. Nothing fills in the class here: defaults_test.go has that.
func (s *suite) ways() []way {
	return []way{
		{s.ns, hermetic, "runtimeClassName: airgap"},
		{s.ns, hermeticOther, "runtimeClassName: airgap-other"},
		{s.ns, multus, "its annotation " + defaultKey},
		{s.ns, func(p *corev1.Pod) { hermetic(p); p.Annotations[networkKey] = "none" }, "its annotation " + networkKey},
		{s.labelled, hermetic, "the label " + labelKey + " of its namespace"},
		{s.multus, multus, "the label " + labelKey + " of its namespace"},
	}
}

func claim(p *corev1.Pod) {
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "nic", ResourceClaimTemplateName: ptr("nic")}}
}

// kinds are the places where a pod has containers.
var kinds = map[string]func(*corev1.Pod) *corev1.Container{
	"container": func(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[1] },
	"init":      func(p *corev1.Pod) *corev1.Container { return &p.Spec.InitContainers[1] },
	"sidecar": func(p *corev1.Pod) *corev1.Container {
		c := &p.Spec.InitContainers[1]
		c.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
		return c
	},
}

// testContainers breaks one rule at a time in one container of every kind that the
// API lets have such a field.
func (s *suite) testContainers(t *testing.T) {
	const policy = "cni-none-hermetic-pods"
	web := intstr.FromInt32(80)
	probe := func(h corev1.ProbeHandler) *corev1.Probe { return &corev1.Probe{ProbeHandler: h} }
	httpGet := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: web}}
	tcp := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: web}}
	grpc := corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 80}}
	hookHTTP := &corev1.LifecycleHandler{HTTPGet: httpGet.HTTPGet}
	hookTCP := &corev1.LifecycleHandler{TCPSocket: tcp.TCPSocket}

	const (
		noInit      = 1 << iota // an init container that is no sidecar has no such field
		noEphemeral             // an ephemeral container neither
	)
	for _, test := range []struct {
		name, rule string
		not        int
		edit       func(*corev1.Container)
	}{
		{"hostPort", "hostPort:", noEphemeral, func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 79}, {ContainerPort: 80, HostPort: 80}}
		}},
		{"privileged", "privileged: true", 0, func(c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)}
		}},
		{"procMount", "procMount: Unmasked", 0, func(c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{ProcMount: ptr(corev1.UnmaskedProcMount)}
		}},
		{"windowsOptions", "windowsOptions:", 0, func(c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{WindowsOptions: &corev1.WindowsSecurityContextOptions{RunAsUserName: ptr("user")}}
		}},
		{"seccomp", "seccompProfile:", 0, func(c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}}
		}},
		{"extended resource", "resources example.com/nic:", noEphemeral, func(c *corev1.Container) {
			c.Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("1"), "example.com/nic": resource.MustParse("1")}
		}},
		{"capability", "capabilities SYS_ADMIN:", 0, add("CHOWN", "SYS_ADMIN")},
		{"capabilities", "capabilities NET_ADMIN, BPF:", 0, add("NET_ADMIN", "NET_RAW", "BPF")},
		{"all capabilities", "capabilities ALL:", 0, add("ALL")},
		{"with the kernel's prefix", "capabilities CAP_SYS_ADMIN:", 0, add("CAP_SYS_ADMIN")},
		{"in lower case", "capabilities cap_net_admin:", 0, add("cap_net_admin")},
		{"no capability at all", "capabilities CHOWN_NET_ADMIN:", 0, add("CHOWN_NET_ADMIN")},
		{"liveness httpGet", "probes are sent", noInit | noEphemeral, func(c *corev1.Container) { c.LivenessProbe = probe(httpGet) }},
		{"liveness tcpSocket", "probes are sent", noInit | noEphemeral, func(c *corev1.Container) { c.LivenessProbe = probe(tcp) }},
		{"liveness grpc", "probes are sent", noInit | noEphemeral, func(c *corev1.Container) { c.LivenessProbe = probe(grpc) }},
		{"readiness httpGet", "probes are sent", noInit | noEphemeral, func(c *corev1.Container) { c.ReadinessProbe = probe(httpGet) }},
		{"readiness tcpSocket", "probes are sent", noInit | noEphemeral, func(c *corev1.Container) { c.ReadinessProbe = probe(tcp) }},
		{"readiness grpc", "probes are sent", noInit | noEphemeral, func(c *corev1.Container) { c.ReadinessProbe = probe(grpc) }},
		{"startup httpGet", "probes are sent", noInit | noEphemeral, func(c *corev1.Container) { c.StartupProbe = probe(httpGet) }},
		{"startup tcpSocket", "probes are sent", noInit | noEphemeral, func(c *corev1.Container) { c.StartupProbe = probe(tcp) }},
		{"startup grpc", "probes are sent", noInit | noEphemeral, func(c *corev1.Container) { c.StartupProbe = probe(grpc) }},
		{"postStart httpGet", "lifecycle hooks", noInit | noEphemeral, func(c *corev1.Container) { c.Lifecycle = &corev1.Lifecycle{PostStart: hookHTTP} }},
		{"postStart tcpSocket", "lifecycle hooks", noInit | noEphemeral, func(c *corev1.Container) { c.Lifecycle = &corev1.Lifecycle{PostStart: hookTCP} }},
		{"preStop httpGet", "lifecycle hooks", noInit | noEphemeral, func(c *corev1.Container) { c.Lifecycle = &corev1.Lifecycle{PreStop: hookHTTP} }},
		{"preStop tcpSocket", "lifecycle hooks", noInit | noEphemeral, func(c *corev1.Container) { c.Lifecycle = &corev1.Lifecycle{PreStop: hookTCP} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			// What of the message is the rule's, and what it makes of the pod.
			rule, made := test.rule, test.rule
			switch {
			case strings.HasPrefix(rule, "capabilities"):
				rule = "are known to make and enter no network"
			case strings.HasPrefix(rule, "resources"):
				rule = "an extended resource can be"
			}
			userNamespace := func(p *corev1.Pod) { // the API lets only these have procMount
				if test.name == "procMount" {
					p.Spec.HostUsers = ptr(false)
				}
			}
			for _, makeHermetic := range []func(*corev1.Pod){hermetic, multus} {
				for kind, pick := range kinds {
					if kind == "init" && test.not&noInit != 0 {
						continue
					}
					edit := func(p *corev1.Pod) { test.edit(pick(p)) }
					_, err := s.tryCreate(t, s.ns, pod(makeHermetic, userNamespace, edit))
					s.wantRefused(t, err, policy, rule, made)
					s.create(t, s.ns, pod(userNamespace, edit))
				}
				if test.not&noEphemeral == 0 {
					s.wantRefused(t, s.debug(t, s.create(t, s.ns, pod(makeHermetic, userNamespace)), test.edit), policy, rule, made)
				}
			}
			if test.not&noEphemeral == 0 {
				if err := s.debug(t, s.create(t, s.ns, pod(userNamespace)), test.edit); err != nil {
					t.Errorf("in an ephemeral container of a pod that is not hermetic: %v", err)
				}
			}
		})
	}
}

// add gives a container capabilities.
func add(names ...corev1.Capability) func(*corev1.Container) {
	return func(c *corev1.Container) {
		c.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: names}}
	}
}

// testKubectlDebug runs what the message about capabilities advises, and the default.
func (s *suite) testKubectlDebug(t *testing.T) {
	p := s.create(t, s.ns, pod(hermetic))
	for _, flags := range [][]string{nil, {"--profile=general"}, {"--profile=restricted"}} {
		args := append([]string{"debug", "-n", s.ns, p.Name, "--image=busybox"}, flags...)
		if out, err := s.Kubectl(append(args, "--", "true")...); err != nil {
			t.Errorf("kubectl %q: %v\n%s", args, err, out)
		}
	}
	for profile, says := range map[string]string{"netadmin": "capabilities NET_ADMIN: only", "sysadmin": "privileged: true lets"} {
		out, err := s.Kubectl("debug", "-n", s.ns, p.Name, "--image=busybox", "--profile="+profile, "--", "true")
		if err == nil || !strings.Contains(out, says) {
			t.Errorf("%s: %v\n%s", profile, err, out)
		}
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
				Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE", "CAP_NET_RAW", "sys_ptrace"}},
		}
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{
			Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("airgap.json")}}
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("1"), "hugepages-2Mi": resource.MustParse("2Mi")}
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
