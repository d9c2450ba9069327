package main

import (
	"errors"

	"github.com/cni-none/cni-none/internal/netns"
	"github.com/cni-none/cni-none/pkg/loopback"
)

// A row is what is reported about one namespace. Names in it are as their
// owners wrote them; Why and Notes are fit for a terminal.
type row struct {
	Inode      uint64       `json:"inode,omitempty"`
	Verdict    verdict      `json:"verdict,omitempty"`
	Why        []string     `json:"why,omitempty"`
	Notes      []string     `json:"notes,omitempty"`
	Host       bool         `json:"host,omitempty"`
	Expected   string       `json:"expected,omitempty"` // why it ought to be isolated
	Violated   bool         `json:"violated,omitempty"` // it ought to be, and is not
	Containers []*container `json:"containers,omitempty"`
	Processes  []process    `json:"processes,omitempty"`
	Mounts     []string     `json:"mounts,omitempty"`
	Files      []string     `json:"files,omitempty"`
}

// look opens the namespace, enters it and judges it. The error is one that gone
// knows where the namespace has ended meanwhile.
func look(ns *namespace, enter func(*netns.NS) error) (row, error) {
	r := row{
		Inode: ns.inode, Host: ns.host, Expected: ns.claimed,
		Containers: ns.containers, Processes: ns.processes, Mounts: ns.mounts, Files: ns.files,
	}
	n, err := ns.open()
	if err != nil && gone(err) {
		return r, err
	}
	if err == nil {
		r.Verdict, r.Why, r.Notes, err = inspect(n, enter)
	}
	if err != nil {
		r.Verdict, r.Why = unknown, []string{printable(err.Error())}
	}
	if r.Host {
		// Even with no interface but lo: every service of the machine is there.
		r.Verdict, r.Why = notIsolated, append([]string{"the machine's own"}, r.Why...)
	}
	r.Violated = r.Expected != "" && r.Verdict == notIsolated
	return r, nil
}

// inspect judges an open namespace, which it enters and closes. While a file is
// open over a mount, umount(2) without MNT_DETACH fails with EBUSY, and an audit
// must not stand in the way of a runtime that cleans up: the thread that is inside
// keeps the namespace, not the mount.
func inspect(n *netns.NS, enter func(*netns.NS) error) (v verdict, why, notes []string, err error) {
	err = enter(n)
	n.Close()
	if err != nil {
		return unknown, nil, nil, err
	}
	survey, err := loopback.InspectSelf()
	if err == nil && survey.NoNSIDs {
		err = errNoNSIDs
	}
	return judgeWhat(survey, err)
}

var errNoNSIDs = errors.New("this kernel has no namespace ids, which could tell of a connection")
