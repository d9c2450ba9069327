package kubernetes

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/harness"
)

// ids are what differs from one pod to the next in a message.
var ids = regexp.MustCompile(`[0-9a-f]{64}`)

// refused waits for a pod whose sandbox cannot be made and compares the Event
// that tells the user: the ids in it are replaced by ID.
func (c *node) refused(t *testing.T, name, want string) {
	t.Helper()
	harness.Poll(t, name+" is refused with\n"+want+"\n", func() (bool, string) {
		events := ids.ReplaceAllString(c.Events(t, name), "ID")
		return strings.Contains(events, "Warning FailedCreatePodSandBox Failed to create pod sandbox: "+want+"\n"), events
	})
	if p := c.Pod(t, name); p.Status.Phase != "Pending" {
		t.Errorf("%s: want it Pending", p)
	}
}

// failures are the mistakes that are likely, and what the user is told.
func (c *node) failures(t *testing.T) {
	for _, tt := range []struct {
		name, handler string
		pairs         []string
		prepare       func(t *testing.T)
		want          string
	}{
		{
			name: "empty", handler: "airgap-empty",
			want: `rpc error: code = Unknown desc = failed to setup network for sandbox "ID": failed to find network info for sandbox "ID"`,
		},
		{
			name: "gone", handler: "airgap-gone",
			prepare: func(t *testing.T) {
				if err := os.Remove("/etc/cni/gone.d/10-airgap.conflist"); err != nil {
					t.Fatal(err)
				}
			},
			want: `rpc error: code = Unknown desc = failed to setup network for sandbox "ID": cni plugin not initialized`,
		},
		{
			name: "wrong-directory", handler: "airgap-typo",
			want: `rpc error: code = Unknown desc = failed to setup network for sandbox "ID": cni plugin not initialized`,
		},
		{
			name: "unknown", handler: "no-such-handler",
			want: `rpc error: code = Unknown desc = unable to get OCI runtime for sandbox "ID": no runtime for "no-such-handler" is configured`,
		},
		{
			name: "host-port", handler: "airgap",
			pairs: []string{"      image: docker.io/library/busybox:1.35.0\n", "      image: docker.io/library/busybox:1.35.0\n      ports: [{containerPort: 80, hostPort: 8080}]\n"},
			want:  `rpc error: code = Unknown desc = failed to setup network for sandbox "ID": plugin type="none" failed (add): runtimeConfig.portMappings: [{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}] cannot be honoured: a container on this network cannot be reached; publish no port, or use another network`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			name := "failure-" + tt.name
			if tt.prepare != nil {
				tt.prepare(t)
			}
			c.Apply(t, class(name, tt.handler))
			defer c.Remove(t, "runtimeclass", name)
			c.Apply(t, c.sample(t, "pod.yaml", name, name, tt.pairs...))
			defer c.Remove(t, "pod", name)
			c.refused(t, name, tt.want)
		})
	}
}

// noNode is a class whose nodes do not exist: the same as a label that was forgotten.
func (c *node) noNode(t *testing.T) {
	const name = "no-node"
	c.Apply(t, class(name, "airgap")+`scheduling: {nodeSelector: {cni-none.dev/ready: elsewhere}}`)
	defer c.Remove(t, "runtimeclass", name)
	c.Apply(t, c.sample(t, "pod.yaml", name, name))
	defer c.Remove(t, "pod", name)
	harness.Poll(t, "the scheduler finds no node", func() (bool, string) {
		events := c.Events(t, name)
		return strings.Contains(events, "Warning FailedScheduling 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."), events
	})
}

// pluginGone takes the binary away: the pod that runs is unaffected, a new
// one is refused and can be deleted. Deleting the one that runs stops it, and
// completes when the plugin is back: containerd wants every network it set up to
// be taken down by the plugin that did it.
func (c *node) pluginGone(t *testing.T) {
	const running, fresh = "gone-running", "gone-fresh"
	c.Apply(t, c.sample(t, "pod.yaml", running, "airgap"))
	was := c.Ready(t, running)

	plugin := filepath.Join(cniBin, "none")
	if err := os.Rename(plugin, plugin+".away"); err != nil {
		t.Fatal(err)
	}
	back := func() {
		if err := os.Rename(plugin+".away", plugin); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	}
	defer back()
	c.Apply(t, c.sample(t, "pod.yaml", fresh, "airgap"))
	c.refused(t, fresh, `rpc error: code = Unknown desc = failed to setup network for sandbox "ID": plugin type="none" failed (add): failed to find plugin "none" in path [/opt/cni/bin]`)
	c.Remove(t, "pod", fresh)

	if p := c.Pod(t, running); !p.Ready() || p.Status.ContainerStatuses[0].RestartCount != 0 || p.Metadata.UID != was.Metadata.UID {
		t.Errorf("the pod that was running: %s", p)
	}
	if got := c.Exec(t, running, "ip", "address"); strings.TrimSpace(got) != view {
		t.Errorf("the pod that was running sees\n%s", got)
	}
	c.MustKubectl(t, "delete", "pod", running, "--grace-period=1", "--wait=false")
	want := `failed to destroy network for sandbox \"ID\": plugin type=\"none\" failed (delete): failed to find plugin \"none\" in path [/opt/cni/bin]`
	harness.Poll(t, "the user is told why the pod stays", func() (bool, string) {
		events := ids.ReplaceAllString(c.Events(t, running), "ID")
		return strings.Contains(events, "Warning FailedKillPod") && strings.Contains(events, want), events
	})
	back()
	c.Remove(t, "pod", running)
}

// wrongHandler gives the samples a class whose handler leads to the cluster's
// network: no plugin of ours is asked, and still none of them starts.
func (c *node) wrongHandler(t *testing.T) {
	for _, handler := range []string{"airgap-nodir", "airgap-key"} {
		t.Run(handler, func(t *testing.T) {
			t.Parallel()
			c.Apply(t, class(handler, handler))
			defer c.Remove(t, "runtimeclass", handler)
			c.samplesRefuse(t, handler, handler)
		})
	}
}

// classMadeAgain deletes the class and makes it again with the handler of all
// other pods. `handler` cannot be changed, but that is not needed.
func (c *node) classMadeAgain(t *testing.T) {
	c.Remove(t, "runtimeclass", "airgap")
	c.Apply(t, class("airgap", "runc"))
	defer func() {
		c.Remove(t, "runtimeclass", "airgap")
		c.MustKubectl(t, "apply", "-f", "deploy/kubernetes/runtimeclass.yaml")
	}()
	c.samplesRefuse(t, "made-again", "airgap")
}

// samplesRefuse runs all samples in a class that is not what it should be.
func (c *node) samplesRefuse(t *testing.T, name, class string) {
	t.Helper()
	label := "refuse-" + name
	for _, kind := range []string{"pod", "deployment", "job"} {
		app := "app: hermetic"
		if kind != "pod" {
			app += "-" + kind
		}
		c.Apply(t, c.sample(t, kind+".yaml", name+"-"+kind, class, app+"\n", "app: "+label+"\n"))
	}
	defer func() {
		for _, kind := range []string{"pod", "deployment", "job"} {
			c.Remove(t, kind, name+"-"+kind, "--grace-period=1")
		}
	}()
	var pods []cluster.Pod
	harness.Poll(t, "the init container of all five pods has ended", func() (bool, string) {
		pods = c.Pods(t, "-l", "app="+label)
		ended := 0
		state := ""
		for _, p := range pods {
			state += p.String() + "\n"
			for _, init := range p.Status.InitContainerStatuses {
				if init.State.Terminated != nil || init.LastState.Terminated != nil {
					ended++
				}
			}
		}
		return len(pods) == 5 && ended == 5, state
	})
	for _, p := range pods {
		init := p.Status.InitContainerStatuses[0]
		end := init.State.Terminated
		if end == nil {
			end = init.LastState.Terminated
		}
		if end.ExitCode != 1 {
			t.Errorf("none-audit ended with %d, want 1: %s", end.ExitCode, p)
		}
		if main := p.Status.ContainerStatuses[0].State; main.Waiting == nil || main.Waiting.Reason != "PodInitializing" {
			t.Errorf("the container proper is not held back: %s", p)
		}
		if strings.Contains(c.Events(t, p.Metadata.Name), "Started container main") {
			t.Errorf("%s ran:\n%s", p.Metadata.Name, c.Events(t, p.Metadata.Name))
		}
		// A try that is being cleaned away has no log for a moment.
		harness.Poll(t, "none-audit in "+p.Metadata.Name+" names what is wrong", func() (bool, string) {
			got, err := c.Kubectl("logs", p.Metadata.Name, "-c", "none-audit")
			return err == nil && strings.Contains(got, "eth0"), got
		})
	}
	harness.Poll(t, "the Job has given up", func() (bool, string) {
		got, err := c.Kubectl("get", "job", name+"-job", "-o", `jsonpath={.status.conditions[?(@.type=="Failed")].reason}`)
		return err == nil && got == "PodFailurePolicy", got
	})
}

// secondRuntime is a handler with another runtime binary and the same directory.
func (c *node) secondRuntime(t *testing.T) {
	const name = "airgap-other"
	c.Apply(t, class(name, name))
	defer c.Remove(t, "runtimeclass", name)
	c.Apply(t, c.sample(t, "pod.yaml", name, name))
	p := c.Ready(t, name)
	defer c.Remove(t, "pod", name, "--grace-period=1")
	if got := c.Exec(t, name, "ip", "address"); strings.TrimSpace(got) != view {
		t.Errorf("the pod sees\n%s\nwant\n%s", got, view)
	}
	log, err := os.ReadFile("/run/other.log")
	if err != nil {
		t.Fatal(err)
	}
	if id := c.sandbox(t, p.Metadata.UID); !strings.Contains(string(log), "create --bundle /run/containerd/io.containerd.runtime.v2.task/k8s.io/"+id) {
		t.Errorf("the other binary did not run sandbox %s:\n%s", id, log)
	}
}
