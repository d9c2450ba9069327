package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/harness"
)

// sealed is a namespace whose label makes its pods hermetic.
const sealed = "sealed"

// asked has the admission policies on the node. Pods that were not written for this
// project ask by an annotation, or by a label of their namespace, and are hermetic: none-audit
// inside says so. They come from a pod, a chart, a StatefulSet and a CronJob.
func (c *node) asked(t *testing.T) {
	c.MustKubectl(t, "create", "namespace", sealed)
	c.MustKubectl(t, "label", "namespace", sealed, "cni-none.dev/hermetic=true")
	t.Cleanup(func() { c.Remove(t, "namespace", sealed) })
	c.Apply(t, class("airgap-other", "airgap-other")+"---"+class("airgap-nodir", "airgap-nodir"))
	policies := c.policies(t)
	c.Apply(t, policies)
	t.Cleanup(func() {
		c.deleteManifest(t, policies)
		c.Remove(t, "runtimeclass", "airgap-other", "airgap-nodir")
	})
	harness.Poll(t, "the policies are in force", func() (bool, string) {
		out, err := c.kubectlStdin(minimalPod("force", "", "busybox:1.35.0"), "create", "--dry-run=server", "-n", sealed, "-o", "jsonpath={.spec.initContainers[0].name}", "-f", "-")
		return err == nil && out == "none-audit", out
	})
	for name, f := range map[string]func(*testing.T){
		"annotation":    c.askedByAnnotation,
		"handler":       c.askedForHandler,
		"chart":         c.askedByChart,
		"stateful set":  c.askedByStatefulSet,
		"cron job":      c.askedByCronJob,
		"own name":      c.ownName,
		"wrong handler": c.askedInVain,
		"refused":       c.askedAndRefused,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t)
		})
	}
}

// policies are the policies with their defaults and the proof, from a kustomization as
// a user writes it.
func (c *node) policies(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	rel, err := filepath.Rel(dir, harness.Repo("deploy/kubernetes/policy"))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("resources: [%[1]s, %[1]s/defaults-v1beta1]\ncomponents: [%[1]s/proof]\n", rel)
	if err := os.WriteFile(dir+"/kustomization.yaml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return c.MustKubectl(t, "kustomize", dir)
}

func (c *node) kubectlStdin(stdin string, args ...string) (string, error) {
	cmd := c.Command(append([]string{c.Program("kubectl")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (c *node) deleteManifest(t *testing.T, manifest string) {
	t.Helper()
	if out, err := c.kubectlStdin(manifest, "delete", "-f", "-"); err != nil {
		t.Errorf("kubectl delete: %v\n%s", err, out)
	}
}

// minimalPod is a pod whose author does not know this project. Its annotations are
// the only thing that may say something.
func minimalPod(name, annotations, image string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, annotations: {%s}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "%s", command: [sleep, infinity]}]
`, name, annotations, image)
}

const askingAnnotation = "cni-none.dev/network: none"

// wantHermetic looks at a pod that runs from inside, and at what the proof said.
func (c *node) wantHermetic(t *testing.T, ns, pod, class string) {
	t.Helper()
	in := func(command ...string) string {
		return c.MustKubectl(t, append([]string{"exec", "-n", ns, pod, "-c", "main", "--"}, command...)...)
	}
	if got := in("ip", "address"); got != view {
		t.Errorf("%s sees\n%s\nwant\n%s", pod, got, view)
	}
	if got := in("sh", "-c", "test -e /var/run/secrets || echo no token"); got != "no token" {
		t.Errorf("%s has a token", pod)
	}
	if got := c.MustKubectl(t, "logs", "-n", ns, pod, "-c", "none-audit"); !strings.HasPrefix(got, "isolated") {
		t.Errorf("%s: none-audit says %q", pod, got)
	}
	if got := c.MustKubectl(t, "get", "pod", "-n", ns, pod, "-o", "jsonpath={.spec.runtimeClassName}"); got != class {
		t.Errorf("%s has the class %q, want %q", pod, got, class)
	}
}

func (c *node) askedByAnnotation(t *testing.T) {
	c.Apply(t, minimalPod("asked", askingAnnotation, "busybox:1.35.0"))
	defer c.Remove(t, "pod", "asked", "--grace-period=1")
	c.Ready(t, "asked")
	c.wantHermetic(t, "default", "asked", "airgap")
	// The control: the same pod without the annotation is on the cluster's network.
	c.Apply(t, minimalPod("not-asked", "", "busybox:1.35.0"))
	defer c.Remove(t, "pod", "not-asked", "--grace-period=1")
	c.Ready(t, "not-asked")
	if got := c.Exec(t, "not-asked", "ip", "address"); !strings.Contains(got, "eth0") {
		t.Errorf("the pod that did not ask has no eth0:\n%s", got)
	}
}

func (c *node) askedForHandler(t *testing.T) {
	c.Apply(t, minimalPod("asked-other", askingAnnotation+", cni-none.dev/handler: other", "busybox:1.35.0"))
	defer c.Remove(t, "pod", "asked-other", "--grace-period=1")
	p := c.Ready(t, "asked-other")
	c.wantHermetic(t, "default", "asked-other", "airgap-other")
	if id := c.sandbox(t, p.Metadata.UID); !strings.Contains(harness.Read(t, "/run/other.log"), id) {
		t.Errorf("the other binary did not run sandbox %s", id)
	}
}

// askedByChart installs a chart as it is into the namespace.
func (c *node) askedByChart(t *testing.T) {
	helm := c.Command(harness.Bin("helm/helm"), "install", "web", harness.Repo("test/kubernetes/testdata/chart"), "--namespace="+sealed, "--wait", "--timeout=180s")
	if out, err := helm.CombinedOutput(); err != nil {
		t.Fatalf("helm install: %v\n%s", err, out)
	}
	pods := c.Pods(t, "-n", sealed, "-l", "app.kubernetes.io/name=web")
	if len(pods) != 2 {
		t.Errorf("%d pods, want 2", len(pods))
	}
	for _, p := range pods {
		name := p.Metadata.Name
		c.wantHermetic(t, sealed, name, "airgap")
		if got := c.MustKubectl(t, "exec", "-n", sealed, name, "-c", "main", "--", "wget", "-qO-", "http://127.0.0.1:8080/"); got != "from the chart" {
			t.Errorf("%s serves %q", name, got)
		}
		if got := c.MustKubectl(t, "exec", "-n", sealed, name, "-c", "main", "--", "perl", "-we", ownName); got != "127.0.0.1" {
			t.Errorf("the name of %s led to %q", name, got)
		}
	}
}

// askedByStatefulSet runs the sample in the namespace, on volumes of the node.
func (c *node) askedByStatefulSet(t *testing.T) {
	for i := range 2 {
		c.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: asked-%[1]d}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  claimRef: {namespace: %[2]s, name: data-hermetic-%[1]d}
  hostPath: {path: /var/lib/asked-%[1]d, type: DirectoryOrCreate}
`, i, sealed))
		defer c.Remove(t, "persistentvolume", fmt.Sprint("asked-", i), "--wait=false")
	}
	c.MustKubectl(t, "apply", "-n", sealed, "-f", "deploy/kubernetes/statefulset.yaml")
	c.MustKubectl(t, "rollout", "status", "-n", sealed, "statefulset/hermetic", "--timeout=180s")
	for _, name := range []string{"hermetic-0", "hermetic-1"} {
		c.wantHermetic(t, sealed, name, "airgap")
		if got := c.MustKubectl(t, "exec", "-n", sealed, name, "-c", "main", "--", "perl", "-we", ownName); got != "127.0.0.1" {
			t.Errorf("the name of %s led to %q", name, got)
		}
	}
}

func (c *node) askedByCronJob(t *testing.T) {
	c.MustKubectl(t, "apply", "-n", sealed, "-f", "deploy/kubernetes/cronjob.yaml")
	c.MustKubectl(t, "create", "job", "-n", sealed, "now", "--from=cronjob/hermetic")
	c.MustKubectl(t, "wait", "-n", sealed, "--for=condition=Complete", "job/now", "--timeout=180s")
	if got := c.MustKubectl(t, "logs", "-n", sealed, "job/now", "-c", "none-audit"); !strings.HasPrefix(got, "isolated") {
		t.Errorf("none-audit says %q", got)
	}
}

// ownName wants a program that asks for its own host's name to listen there and to
// connect to it, in an image with /etc/host.conf and in one without.
func (c *node) ownName(t *testing.T) {
	for name, image := range map[string]string{"own-name": "busybox:1.35.0", "own-name-minimal": minimalImage} {
		c.Apply(t, minimalPod(name, askingAnnotation, image))
		defer c.Remove(t, "pod", name, "--grace-period=1")
		c.Ready(t, name)
		if got := c.Exec(t, name, "hostname"); got != name {
			t.Errorf("%s is called %q", name, got)
		}
		if got := c.Exec(t, name, "perl", "-we", ownName); got != "127.0.0.1" {
			t.Errorf("%s: its own name led to %q", name, got)
		}
	}
	// The control: without the environment, the image without host.conf gets the placeholder.
	if got, err := c.TryExec("own-name-minimal", "env", "-u", "RESOLV_MULTI", "perl", "-we", ownName); err == nil || !strings.Contains(got, "bind: Cannot assign requested address") {
		t.Errorf("without RESOLV_MULTI: %v, %s", err, got)
	}
}

// askedInVain gets a class whose handler leads to the cluster's network: the proof,
// which a policy put into the pod, stops it.
func (c *node) askedInVain(t *testing.T) {
	const name = "asked-in-vain"
	c.Apply(t, minimalPod(name, askingAnnotation+", cni-none.dev/handler: nodir", "busybox:1.35.0"))
	defer c.Remove(t, "pod", name, "--grace-period=1")
	var p cluster.Pod
	harness.Poll(t, "none-audit has ended", func() (bool, string) {
		p = c.Pod(t, name)
		inits := p.Status.InitContainerStatuses
		return len(inits) == 1 && (inits[0].State.Terminated != nil || inits[0].LastState.Terminated != nil), p.String()
	})
	end := p.Status.InitContainerStatuses[0].State.Terminated
	if end == nil {
		end = p.Status.InitContainerStatuses[0].LastState.Terminated
	}
	if end.ExitCode != 1 || strings.Contains(c.Events(t, name), "Started container main") {
		t.Errorf("none-audit ended with %d: %s", end.ExitCode, p)
	}
}

// askedAndRefused is what a user is told of a Deployment whose pods break a rule.
func (c *node) askedAndRefused(t *testing.T) {
	c.MustKubectl(t, "create", "deployment", "-n", sealed, "refused", "--image=busybox:1.35.0")
	c.MustKubectl(t, "patch", "deployment", "-n", sealed, "refused", "-p", `{"spec":{"template":{"spec":{"hostNetwork":true}}}}`)
	harness.Poll(t, "the ReplicaSet says why", func() (bool, string) {
		out := c.MustKubectl(t, "get", "events", "-n", sealed, "-o", "json")
		var events struct{ Items []struct{ Message string } }
		if err := json.Unmarshal([]byte(out), &events); err != nil {
			return false, err.Error()
		}
		for _, e := range events.Items {
			if strings.Contains(e.Message, "hostNetwork: true puts the pod on the node's network") && strings.Contains(e.Message, "the label cni-none.dev/hermetic of its namespace") {
				return true, ""
			}
		}
		return false, out
	})
}
