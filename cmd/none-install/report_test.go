package main

import "testing"

func TestNodeState(t *testing.T) {
	for _, c := range []struct {
		state          nodeState
		exit           int
		status, reason string
	}{
		{ready, 0, "True", "Ready"},
		{installed, 0, "False", "Installed"},
		{degraded, 1, "False", "Degraded"},
		{pendingRestart, 3, "False", "PendingRestart"},
		{notInstalled, 4, "False", "NotInstalled"},
	} {
		status, reason := c.state.condition()
		if c.state.exit() != c.exit || status != c.status || reason != c.reason {
			t.Errorf("%s: exit status %d, condition %s %s", c.state, c.state.exit(), status, reason)
		}
	}
}
