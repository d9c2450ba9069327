package kubernetes

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// workloads runs the Deployment and the Job of the samples.
func (c *node) workloads(t *testing.T) {
	c.MustKubectl(t, "apply", "-f", "deploy/kubernetes/deployment.yaml", "-f", "deploy/kubernetes/job.yaml")
	defer c.Remove(t, "-f", "deploy/kubernetes/deployment.yaml", "-f", "deploy/kubernetes/job.yaml")
	c.MustKubectl(t, "wait", "--for=condition=Complete", "job/hermetic", "--timeout=180s")
	c.MustKubectl(t, "rollout", "status", "deployment/hermetic", "--timeout=180s")
	// echo hermetic | sha256sum
	if got, want := c.MustKubectl(t, "logs", "job/hermetic", "-c", "main"), "575135d1ae8f62cbf576f9bf48367d8f0ed1590cd5d0ba7cfdf9c9ceeda5ef26  -"; got != want {
		t.Errorf("the Job says %q, want %q", got, want)
	}
	pods := c.Pods(t, "-l", "app=hermetic-deployment")
	if len(pods) != 3 {
		t.Fatalf("%d pods of the Deployment, want 3", len(pods))
	}
	seen := map[string]string{}
	for _, p := range pods {
		name := p.Metadata.Name
		if got := c.Exec(t, name, "ip", "address"); strings.TrimSpace(got) != view {
			t.Errorf("%s sees\n%s\nwant\n%s", name, got, view)
		}
		for _, what := range []string{c.Exec(t, name, "readlink", "/proc/self/ns/net"), p.Status.PodIP} {
			if seen[what] != "" {
				t.Errorf("%s and %s share %s", seen[what], name, what)
			}
			seen[what] = name
		}
	}
}

// fifty starts many pods at once, on no network and on a bridge.
func (c *node) fifty(t *testing.T) {
	const n = 50
	// Two pods that differ in their network only: the sample has an init container more.
	pod := func(kind string) func(i int) string {
		return func(i int) string {
			text := plain(fmt.Sprintf("fifty-%s-%d", kind, i), "fifty: "+kind)
			if kind == "airgap" {
				text = strings.Replace(text, "spec:\n", "spec:\n  runtimeClassName: airgap\n", 1)
			}
			return text
		}
	}
	took := map[string]time.Duration{}
	for _, kind := range []string{"airgap", "bridge"} {
		var manifest strings.Builder
		for i := range n {
			manifest.WriteString(pod(kind)(i) + "---")
		}
		start := time.Now()
		c.Apply(t, manifest.String())
		harness.Poll(t, fmt.Sprintf("%d pods run on %s", n, kind), func() (bool, string) {
			out, err := c.Kubectl("get", "pods", "-l", "fifty="+kind, "-o", "jsonpath={.items[*].status.phase}")
			running := strings.Count(out, "Running")
			return err == nil && running == n, fmt.Sprintf("%d running", running)
		})
		took[kind] = time.Since(start)
		for _, p := range c.Pods(t, "-l", "fifty="+kind) {
			if p.Status.ContainerStatuses[0].RestartCount != 0 {
				t.Errorf("%s was restarted", p)
			}
			if kind == "airgap" {
				c.sandbox(t, p.Metadata.UID)
			}
		}
		c.Remove(t, "pod", "-l", "fifty="+kind, "--grace-period=1")
	}
	t.Logf("time until %d pods were Running: airgap %.1f s, bridge %.1f s", n, took["airgap"].Seconds(), took["bridge"].Seconds())
}

// nothingLeft deletes every pod and looks for what they might have left on the node.
func (c *node) nothingLeft(t *testing.T) {
	hierarchy := "/sys/fs/cgroup" // one for all controllers, or one for each
	if _, err := os.Stat(hierarchy + "/cgroup.controllers"); err != nil {
		hierarchy += "/*"
	}
	traces := func() map[string][]string {
		left := map[string][]string{}
		for where, pattern := range map[string]string{
			"namespaces": "/run/netns/*",
			"volumes":    "/var/lib/kubelet/pods/*",
			"tasks":      "/run/containerd/io.containerd.runtime.v2.task/k8s.io/*",
			"cgroups":    hierarchy + cgroup() + "/kubepods/*/pod*",
		} {
			found, err := filepath.Glob(pattern)
			if err != nil {
				t.Fatal(err)
			}
			left[where] = found
		}
		left["CNI"] = nil
		if err := filepath.WalkDir("/var/lib/cni", func(path string, d fs.DirEntry, err error) error {
			// What host-local keeps for its network whatever happens is not ours.
			if err == nil && !d.IsDir() && d.Name() != "lock" && d.Name() != "last_reserved_ip.0" {
				left["CNI"] = append(left["CNI"], path)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		left["mounts"] = slices.DeleteFunc(mounts(t), func(m string) bool { return slices.Contains(c.mounts, m) })
		own, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		left["processes"] = nil
		processes, err := filepath.Glob("/proc/[0-9]*/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range processes {
			// A process may end while we look.
			if ns, err := os.Readlink(path); err == nil && ns != own {
				left["processes"] = append(left["processes"], path)
			}
		}
		return left
	}
	for where, found := range traces() {
		if len(found) == 0 {
			t.Errorf("%s shows nothing while pods run: it cannot show that nothing is left either", where)
		}
	}
	c.Remove(t, "deployments,jobs,pods", "--all", "--grace-period=1")
	harness.Poll(t, "nothing is left on the node", func() (bool, string) {
		state := ""
		for where, found := range traces() {
			if len(found) > 0 {
				state += fmt.Sprintf("%s: %q\n", where, found)
			}
		}
		return state == "", state
	})
}

// mounts lists the mount points of this node.
func mounts(t testing.TB) []string {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(info)) {
		list = append(list, strings.Fields(line)[4])
	}
	return list
}
