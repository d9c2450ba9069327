package cluster

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// Pod is what the API says of one, as far as the tests look.
type Pod struct {
	Metadata struct {
		Name, UID         string
		CreationTimestamp time.Time
	}
	Status struct {
		Phase, PodIP          string
		PodIPs                []struct{ IP string }
		Conditions            []Condition
		InitContainerStatuses []Container
		ContainerStatuses     []Container
	}
}

// Condition is one of a pod's.
type Condition struct {
	Type, Status       string
	LastTransitionTime time.Time
}

// Container is the state of one of a pod's.
type Container struct {
	Name, ContainerID string
	Ready             bool
	RestartCount      int
	State, LastState  struct {
		Running    *struct{ StartedAt time.Time }
		Waiting    *struct{ Reason, Message string }
		Terminated *struct {
			ExitCode int
			Reason   string
		}
	}
}

// Ready is the pod's condition of that name.
func (p Pod) Ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// String is for messages.
func (p Pod) String() string {
	out, _ := json.Marshal(p.Status) // plain data always encodes
	return p.Metadata.Name + " " + string(out)
}

// Pods lists the pods that flags of kubectl get pick.
func (c *Cluster) Pods(tb testing.TB, args ...string) []Pod {
	tb.Helper()
	out := c.MustKubectl(tb, append([]string{"get", "pods", "-o", "json"}, args...)...)
	var list struct{ Items []Pod }
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		tb.Fatal(err)
	}
	return list.Items
}

func (c *Cluster) Pod(tb testing.TB, name string) Pod {
	tb.Helper()
	all := c.Pods(tb, "--field-selector=metadata.name="+name)
	if len(all) != 1 {
		tb.Fatalf("%d pods are called %s", len(all), name)
	}
	return all[0]
}

// Ready waits for a pod to be Ready and returns it.
func (c *Cluster) Ready(tb testing.TB, name string) Pod {
	tb.Helper()
	var p Pod
	harness.Poll(tb, name+" is Ready", func() (bool, string) {
		p = c.Pod(tb, name)
		return p.Ready(), p.String() + "\n" + c.Events(tb, name)
	})
	return p
}

// Exec runs a command in a pod and returns its output.
func (c *Cluster) Exec(tb testing.TB, pod string, command ...string) string {
	tb.Helper()
	return c.MustKubectl(tb, append([]string{"exec", pod, "--"}, command...)...)
}

// TryExec is Exec for a command that may fail.
func (c *Cluster) TryExec(pod string, command ...string) (string, error) {
	return c.Kubectl(append([]string{"exec", pod, "--"}, command...)...)
}

// Events are what a user sees at the end of `kubectl describe`, one per line.
func (c *Cluster) Events(tb testing.TB, name string) string {
	tb.Helper()
	return c.MustKubectl(tb, "get", "events", "--field-selector=involvedObject.name="+name,
		"-o", `jsonpath={range .items[*]}{.type} {.reason} {.message}{"\n"}{end}`) + "\n"
}

// Remove deletes at once what a test made, and waits until it is gone.
func (c *Cluster) Remove(tb testing.TB, args ...string) {
	tb.Helper()
	c.MustKubectl(tb, append([]string{"delete", "--ignore-not-found", "--timeout=180s"}, args...)...)
}
