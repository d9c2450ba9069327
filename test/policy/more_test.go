package policy

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// testRuntimeClasses goes last: it deletes the class that the other tests use.
func (s *suite) testRuntimeClasses(t *testing.T) {
	const policy = "cni-none-runtimeclasses"
	classes := s.NodeV1().RuntimeClasses()
	create := func(name, handler string) error {
		_, err := classes.Create(t.Context(), &nodev1.RuntimeClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler}, metav1.CreateOptions{})
		return err
	}
	annotate := func(name, value string) {
		t.Helper()
		patch := fmt.Sprintf(`{"metadata":{"annotations":{"cni-none.dev/allow-delete":%q}}}`, value)
		if _, err := classes.Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	for name, handler := range map[string]string{"airgap-gvisor": "airgap-gvisor", "other": "airgap", "airgapped2": "runc"} {
		if err := create(name, handler); err != nil {
			t.Errorf("class %s, handler %s: %v", name, handler, err)
		}
	}
	for name, handler := range map[string]string{"airgap-kata": "kata", "airgap-kata2": "airgap"} {
		s.wantRefused(t, create(name, handler), policy, "handler of its own name")
	}
	if err := classes.Delete(t.Context(), "other", metav1.DeleteOptions{}); err != nil {
		t.Errorf("delete a class that is not ours: %v", err)
	}

	// The API itself keeps the handler of a class that exists.
	_, err := classes.Patch(t.Context(), "airgap", types.MergePatchType, []byte(`{"handler":"runc"}`), metav1.PatchOptions{})
	if err == nil || !strings.Contains(err.Error(), "immutable") {
		t.Errorf("change the handler: %v", err)
	}

	s.wantRefused(t, classes.Delete(t.Context(), "airgap", metav1.DeleteOptions{}), policy, "allow-delete=true")
	annotate("airgap", "false")
	s.wantRefused(t, classes.Delete(t.Context(), "airgap", metav1.DeleteOptions{}), policy, "allow-delete=true")
	err = classes.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=airgap"})
	s.wantRefused(t, err, policy, "allow-delete=true")
	if _, err := classes.Get(t.Context(), "airgap", metav1.GetOptions{}); err != nil {
		t.Errorf("after all that: %v", err)
	}

	annotate("airgap", "true")
	if err := classes.Delete(t.Context(), "airgap", metav1.DeleteOptions{}); err != nil {
		t.Errorf("with the annotation: %v", err)
	}
	s.wantRefused(t, create("airgap", "runc"), policy, "handler of its own name")
	if err := create("airgap", "airgap"); err != nil {
		t.Error(err)
	}
}

// testSamples creates what deploy/kubernetes shows: the pods, and pods from the
// templates of what makes pods. A controller's pods pass where these do.
func (s *suite) testSamples(t *testing.T) {
	files, err := filepath.Glob(harness.Repo("deploy/kubernetes/*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		harness.Skip(t, "no samples in deploy/kubernetes")
	}
	ns := s.namespace(t, "samples", map[string]string{labelKey: "true"})
	pods := 0
	for _, file := range files {
		for _, object := range documents(t, file) {
			p := &corev1.Pod{}
			switch o := object.(type) {
			case *nodev1.RuntimeClass:
				o.Name += "-sample" // ours exists
				o.Handler = o.Name
				if _, err := s.NodeV1().RuntimeClasses().Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
					t.Errorf("%s: %v", file, err)
				}
				continue
			case *corev1.Pod:
				p = o
			case *appsv1.Deployment:
				p.ObjectMeta, p.Spec = o.Spec.Template.ObjectMeta, o.Spec.Template.Spec
			case *appsv1.StatefulSet:
				p.ObjectMeta, p.Spec = o.Spec.Template.ObjectMeta, o.Spec.Template.Spec
				p.Spec.Containers[0].VolumeMounts = nil // its controller adds the volumes
			case *batchv1.Job:
				p.ObjectMeta, p.Spec = o.Spec.Template.ObjectMeta, o.Spec.Template.Spec
			case *batchv1.CronJob:
				p.ObjectMeta, p.Spec = o.Spec.JobTemplate.Spec.Template.ObjectMeta, o.Spec.JobTemplate.Spec.Template.Spec
			default:
				continue
			}
			pods++
			p.Name, p.Namespace, p.GenerateName = "", "", "sample-"
			into := ns
			if p.Spec.RuntimeClassName == nil {
				into = s.multus
			}
			if _, err := s.tryCreate(t, into, p); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	if pods == 0 {
		t.Error("no pod in deploy/kubernetes/*.yaml")
	}
}

// testFindServices runs the script on a namespace with Services of every sort.
func (s *suite) testFindServices(t *testing.T) {
	script := harness.Repo("deploy/kubernetes/find-services.sh")
	find := func(args ...string) (string, string) {
		b, err := s.Command(append([]string{script}, args...)...).CombinedOutput()
		out := string(b)
		code := "0"
		if err != nil {
			code = strings.TrimPrefix(err.Error(), "exit status ")
		}
		return out, code
	}
	named := func(name, app string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Name, p.Labels["app"] = name, app }
	}
	service := func(ns, name string, selector map[string]string, edit func(*corev1.ServiceSpec)) {
		t.Helper()
		spec := corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}}
		if edit != nil {
			edit(&spec)
		}
		_, err := s.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	a, b := s.namespace(t, "services-a", nil), s.namespace(t, "services-b", nil)
	s.create(t, a, pod(hermetic, named("classed", "mixed")))
	s.create(t, a, pod(multus, named("multused", "mixed")))
	s.create(t, a, pod(named("ordinary", "mixed")))
	s.create(t, a, pod(named("lookalike", "other"), annotate(defaultKey, "kube-system/airgapped")))
	s.create(t, b, pod(named("ordinary", "mixed")))

	service(a, "other", map[string]string{"app": "other"}, nil)
	service(a, "nothing", map[string]string{"app": "mixed", "tier": "none"}, nil)
	service(a, "no-selector", nil, nil)
	service(b, "elsewhere", map[string]string{"app": "mixed"}, nil)
	if out, code := find("-n", a); out != "" || code != "0" {
		t.Errorf("no Service selects a hermetic pod, exit %s:\n%s", code, out)
	}

	service(a, "both", map[string]string{"app": "mixed"}, nil)
	service(a, "headless", map[string]string{"app": "mixed", sidecarKey: "false"}, func(s *corev1.ServiceSpec) {
		s.ClusterIP, s.PublishNotReadyAddresses = "None", true
	})
	service(a, "external", map[string]string{"app": "mixed"}, func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalName, s.Ports = corev1.ServiceTypeExternalName, "example.com", nil
	})
	want := "services-a/both\tIPv4\tclassed multused\n" +
		"services-a/external\t\tclassed multused\n" +
		"services-a/headless\tIPv4\tclassed multused\n"
	for _, args := range [][]string{{"-n", a}, {"--namespace=" + a}, nil} {
		if out, code := find(args...); out != want || code != "1" {
			t.Errorf("%q: exit %s, got\n%swant\n%s", args, code, out, want)
		}
	}
	if out, code := find("-n", b); out != "" || code != "0" {
		t.Errorf("the other namespace: exit %s:\n%s", code, out)
	}
	if out, code := find("--token=wrong"); code != "2" {
		t.Errorf("without the right to look: exit %s:\n%s", code, out)
	}
}

// testLargePod wants the rules to stay within the cost that the API server grants
// them, for pods far larger than any in use: beyond it, a pod is refused.
func (s *suite) testLargePod(t *testing.T) {
	p := s.create(t, s.ns, pod(hermetic, largePod(200)))
	if err := s.patch(t, p, `[{"op":"replace","path":"/spec/containers/0/image","value":"other"}]`); err != nil {
		t.Errorf("an update of a large pod: %v", err)
	}
}

// largePod adds containers with something in every field that a rule reads.
func largePod(containers int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for i := range containers {
			c := container(fmt.Sprint("large", i))
			c.Ports = make([]corev1.ContainerPort, 10)
			for j := range c.Ports {
				c.Ports[j].ContainerPort = int32(10*i + j + 1)
			}
			c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
			c.ReadinessProbe, c.StartupProbe = c.LivenessProbe, c.LivenessProbe
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: c.LivenessProbe.Exec}}
			c.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{
				Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"CHOWN", "FOWNER", "SETUID", "SETGID", "KILL"}}}
			p.Spec.Containers = append(p.Spec.Containers, c)
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: fmt.Sprint("v", i),
				VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		}
	}
}

// testRemove takes the policies away again, as a user does.
func (s *suite) testRemove(t *testing.T) {
	if out, err := s.Kubectl("delete", "-k", policyDir); err != nil {
		t.Fatalf("kubectl delete: %v\n%s", err, out)
	}
	if out, err := s.Kubectl("delete", "--ignore-not-found", "-k", s.defaultsDir()); err != nil {
		t.Fatalf("kubectl delete: %v\n%s", err, out)
	}
	harness.Eventually(t, "the policies to be gone", func() error {
		_, err := s.tryCreate(t, s.ns, pod(hermetic, hostNetwork))
		return err
	})
}
