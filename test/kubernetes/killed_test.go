package kubernetes

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// killed runs 60 completions of the sample Job while containerd and kubelet are killed
// three times: what dies with them is tried again, and the Job completes.
func (c *node) killed(t *testing.T) {
	const completions = 60
	c.Apply(t, c.sample(t, "job.yaml", "killed", "airgap",
		"  backoffLimit: 20\n", fmt.Sprintf("  backoffLimit: 20\n  completions: %d\n  parallelism: 6\n", completions),
		"hermetic | sha256sum\"", "hermetic | sha256sum; sleep 1\"", "app: hermetic-job\n", "app: killed\n"))
	defer c.Remove(t, "job", "killed")
	type status struct {
		Active, Succeeded, Failed int
		Conditions                []struct{ Type, Status, Message string }
	}
	look := func() (s status) {
		out, err := c.Kubectl("get", "job", "killed", "-o", "jsonpath={.status}")
		if err == nil {
			err = json.Unmarshal([]byte(out), &s)
		}
		if err != nil {
			t.Logf("%v: %s", err, out)
		}
		return s
	}
	for round := range 3 {
		harness.Poll(t, "the Job is under way", func() (bool, string) {
			s := look()
			return s.Succeeded >= completions/4*(round+1) && s.Active > 0, fmt.Sprintf("%+v", s)
		})
		t.Logf("round %d: %+v", round, look())
		c.containerd.Daemon.Kill()
		c.kubelet.Kill()
		c.containerd.Daemon.Start(t)
		// kubelet ends where the CRI does not answer yet, as it does after containerd's
		// other services, and there is no systemd here to start it again.
		c.containerd.WaitReady(t, cri.RuntimeReady)
		c.kubelet.Start(t)
	}
	var s status
	harness.Poll(t, "the Job has ended", func() (bool, string) {
		s = look()
		for _, condition := range s.Conditions {
			if (condition.Type == "Complete" || condition.Type == "Failed") && condition.Status == "True" {
				return true, ""
			}
		}
		return false, fmt.Sprintf("%+v", s)
	})
	if s.Succeeded != completions || strings.Contains(fmt.Sprint(s.Conditions), "Failed") {
		t.Errorf("the Job ended with %+v, want %d completions", s, completions)
	}
	t.Logf("%d pods were tried again", s.Failed)
}
