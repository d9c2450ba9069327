package policy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// testProof has the component: none-audit comes first in every hermetic pod, and
// nothing that only looks like it will do.
func (s *suite) testProof(t *testing.T) {
	s.removeDefaults(t)
	// A person's own kustomization, which has to name folders by a relative path.
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(of string) string {
		abs, err := filepath.Abs(of)
		if err != nil {
			t.Fatal(err)
		}
		if abs, err = filepath.Rel(dir, abs); err != nil {
			t.Fatal(err)
		}
		return abs
	}
	if err := os.WriteFile(dir+"/kustomization.yaml", []byte("resources: ["+at(s.defaultsDir())+"]\ncomponents: ["+at(policyDir+"/proof")+"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	manifest := s.render(t, dir)
	s.Apply(t, manifest)
	defer s.deleteManifest(t, manifest)
	s.loadFiles(t, policyDir+"/proof/demand.yaml")

	harness.Eventually(t, "none-audit to be first", func() error {
		_, err := s.tryCreate(t, s.ns, pod(hermetic, initContainer("none-audit", "busybox")))
		if err == nil {
			return os.ErrNotExist
		}
		return nil
	})
	harness.Eventually(t, "none-audit to be put there", func() error {
		_, err := s.tryCreate(t, s.ns, bare(hermetic))
		return err
	})
	if got := s.create(t, s.ns, bare()); slices.ContainsFunc(got.Spec.InitContainers, isProof) {
		t.Error("none-audit is in an ordinary pod")
	}
	noInit := func(p *corev1.Pod) { p.Spec.InitContainers = nil }
	var proof corev1.Container
	for name, p := range map[string]*corev1.Pod{
		"class": bare(hermetic), "no init containers": bare(hermetic, noInit), "all said already": pod(hermetic),
		"annotation": bareAnnotated(networkKey, "none"), "Multus": bareAnnotated(defaultKey, "kube-system/airgap"),
	} {
		got := s.create(t, s.ns, p)
		inits := got.Spec.InitContainers
		if len(inits) != len(p.Spec.InitContainers)+1 || !isProof(inits[0]) {
			t.Fatalf("%s: %+v", name, inits)
		}
		proof = inits[0]
	}
	proof.TerminationMessagePath = ""
	if got := s.create(t, s.ns, pod(hermetic, func(p *corev1.Pod) {
		p.Spec.InitContainers = append([]corev1.Container{proof}, p.Spec.InitContainers...)
	})); len(got.Spec.InitContainers) != 3 {
		t.Errorf("a pod that has it already: %+v", got.Spec.InitContainers)
	}

	mine := []corev1.Volume{{Name: "mine", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	for name, edit := range map[string]func(*corev1.Container){
		"another image":   func(c *corev1.Container) { c.Image = "busybox" },
		"another program": func(c *corev1.Container) { c.Command = []string{"/none-audit"} },
		"more arguments":  func(c *corev1.Container) { c.Args = []string{"--help"} },
		"a sidecar":       func(c *corev1.Container) { c.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways) },
		"mounted over": func(c *corev1.Container) {
			c.VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: "/none-audit"}}
		},
		"an environment": func(c *corev1.Container) { c.Env = []corev1.EnvVar{{Name: "GODEBUG", Value: "x"}} },
	} {
		c := *proof.DeepCopy()
		edit(&c)
		_, err := s.tryCreate(t, s.ns, pod(hermetic, func(p *corev1.Pod) {
			p.Spec.Volumes, p.Spec.InitContainers = mine, append([]corev1.Container{c}, p.Spec.InitContainers...)
		}))
		s.wantRefused(t, err, "cni-none-proof", "is none-audit self")
		if t.Failed() {
			t.Fatal("with", name)
		}
	}
	_, err = s.tryCreate(t, s.ns, pod(hermetic, func(p *corev1.Pod) { p.Spec.InitContainers = append(p.Spec.InitContainers, proof) }))
	s.wantRefused(t, err, "cni-none-proof", "is none-audit self")
	err = s.patch(t, s.create(t, s.ns, bare(hermetic)), `[{"op":"replace","path":"/spec/initContainers/0/image","value":"busybox"}]`)
	s.wantRefused(t, err, "cni-none-proof", "is none-audit self")
}

func isProof(c corev1.Container) bool {
	return c.Name == "none-audit" && strings.HasPrefix(c.Image, "ghcr.io/cni-none/cni-none:") && slices.Equal(c.Command, []string{"/none-audit", "self"})
}

func initContainer(name, image string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: name, Image: image}}
	}
}
