package main

import "strings"

// nodeState is the state that a node can be in.
type nodeState string

const (
	notInstalled   nodeState = "not-installed"
	installed      nodeState = "installed" // everything is in place and loaded; no sandbox was tried
	pendingRestart nodeState = "pending-restart"
	ready          nodeState = "ready" // a sandbox was tried, and had a loopback interface only
	degraded       nodeState = "degraded"
)

// exitPending means, of every command, that a restart of the runtime is missing
// and nothing else.
const exitPending = 3

// exit is the exit status of a command that found the node so.
func (s nodeState) exit() int {
	switch s {
	case ready, installed:
		return 0
	case pendingRestart:
		return exitPending
	case notInstalled:
		return 4
	}
	return 1
}

// condition is the status and the reason of the node's condition.
func (s nodeState) condition() (status, reason string) {
	if s == ready {
		return "True", reasonOf(s)
	}
	return "False", reasonOf(s)
}

// reasonOf makes a condition's reason of a state: pending-restart, PendingRestart.
func reasonOf(s nodeState) string {
	var b strings.Builder
	for part := range strings.SplitSeq(string(s), "-") {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

// Error makes a state that is not in order what a command ends with.
func (s nodeState) Error() string { return string(s) }

// errPending means that only a restart of the runtime is missing.
const errPending = pendingRestart

// report is a node's state with the reasons for it.
type report struct {
	State    nodeState `json:"state"`
	Version  string    `json:"version,omitempty"` // of the plugin that is installed
	Handlers []string  `json:"handlers,omitempty"`
	Ready    []string  `json:"ready,omitempty"` // the handlers of which a sandbox was tried
	Reasons  []string  `json:"reasons,omitempty"`

	sound []string // the handlers at which nothing is wrong
}

func (r report) String() string {
	s := string(r.State)
	if len(r.Reasons) > 0 {
		s += ": " + strings.Join(r.Reasons, "; ")
	}
	return s
}
