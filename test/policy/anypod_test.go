package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// testAnyPod makes pods of several of the fields at once. What is accepted has no way
// out by wayOut, which does not use the policy's code; and a pod without a way out is
// accepted.
func (s *suite) testAnyPod(t *testing.T) {
	const pods = 300
	random := harness.Random(t)
	all := slices.DeleteFunc(fields(), func(f field) bool { return s.unknown[f.name] })
	var fine []field
	for _, f := range all {
		if f.rule == "" {
			fine = append(fine, f)
		}
	}
	places := []string{"container", "init", "sidecar"}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	accepted, refused := 0, 0
	for i := range pods {
		from := fine // every other pod shall have a chance
		if i%2 == 0 {
			from = all
		}
		p := pod(hermetic)
		var names []string
		for range 1 + random.IntN(5) {
			f, place := from[random.IntN(len(from))], places[random.IntN(len(places))]
			f.edit(p, kinds[place](p))
			names = append(names, f.name+" in "+place)
		}
		leads := wayOut(p)
		got, err := s.CoreV1().Pods(s.ns).Create(t.Context(), p, dry)
		switch {
		case err == nil:
			accepted++
			if leads := wayOut(got); len(leads) > 0 {
				t.Errorf("accepted with %q: %q", leads, names)
			}
		case strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'cni-none-hermetic-pods'"):
			refused++
			if len(leads) == 0 {
				t.Errorf("refused for nothing, %q: %v", names, err)
			}
		case apierrors.IsInvalid(err): // two fields that the API does not let go together
		default:
			t.Errorf("%q: %v", names, err)
		}
	}
	t.Logf("%d accepted, %d refused, %d invalid", accepted, refused, pods-accepted-refused)
	if accepted < pods/10 || refused < pods/10 {
		t.Errorf("of %d pods %d were accepted and %d refused: that shows little", pods, accepted, refused)
	}
}

// wayOut lists what of a pod leads out of its network namespace, or may, or does not
// work without a network.
func wayOut(p *corev1.Pod) (leads []string) {
	add := func(lead string, is bool) {
		if is {
			leads = append(leads, lead)
		}
	}
	spec := p.Spec
	add("a host namespace", spec.HostNetwork || spec.HostPID || spec.HostIPC)
	add("a device", len(spec.ResourceClaims) > 0)
	add("Windows", spec.SecurityContext.WindowsOptions != nil)
	add("a name server", spec.DNSPolicy != corev1.DNSNone)
	add("links", *spec.EnableServiceLinks)
	add("a token", *spec.AutomountServiceAccountToken)
	for _, v := range spec.Volumes {
		source := reflect.ValueOf(v.VolumeSource)
		for i := range source.NumField() {
			kind := source.Type().Field(i).Name
			add("a volume of kind "+kind, !source.Field(i).IsNil() && !slices.Contains(harmless, kind))
		}
		if v.Projected != nil {
			for _, source := range v.Projected.Sources {
				add("a credential", source.ServiceAccountToken != nil || source.PodCertificate != nil)
			}
		}
	}
	for _, c := range append(slices.Clone(spec.InitContainers), spec.Containers...) {
		leads = append(leads, containerWayOut(c, spec.SecurityContext.SeccompProfile)...)
	}
	return leads
}

func containerWayOut(c corev1.Container, seccomp *corev1.SeccompProfile) (leads []string) {
	add := func(lead string, is bool) {
		if is {
			leads = append(leads, lead)
		}
	}
	for _, port := range c.Ports {
		add("a port of the node", port.HostPort != 0)
	}
	for name := range c.Resources.Limits {
		add("a device", strings.Contains(string(name), "/"))
	}
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		add("a probe from outside", probe != nil && probe.Exec == nil)
	}
	if c.Lifecycle != nil {
		for _, hook := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			add("a hook from outside", hook != nil && hook.Exec == nil && hook.Sleep == nil)
		}
	}
	if s := c.SecurityContext; s != nil {
		add("privileged", s.Privileged != nil && *s.Privileged)
		add("procMount", s.ProcMount != nil && *s.ProcMount != corev1.DefaultProcMount)
		add("Windows", s.WindowsOptions != nil)
		if s.Capabilities != nil {
			for _, name := range s.Capabilities.Add {
				add(string(name), !slices.Contains(mayHave, string(name)))
			}
		}
		if s.SeccompProfile != nil {
			seccomp = s.SeccompProfile
		}
	}
	add("no seccomp profile", seccomp == nil || seccomp.Type == corev1.SeccompProfileTypeUnconfined)
	return leads
}
