package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// judge compares a look with the one before and prints the change, if there is one.
func (w *watcher) judge(k *watched, now row) error {
	was, wasExpected := k.row, k.expected
	if now.Verdict == unknown && was.Violated {
		// What cannot be looked at for a while has not become better meanwhile.
		now.Verdict, now.Why, now.Notes = was.Verdict, was.Why, []string{"cannot be looked at now: " + strings.Join(now.Why, "; ")}
	}
	now.Inode, now.Containers, now.Processes, now.Mounts, now.Files = k.inode, k.ns.containers, k.ns.processes, k.ns.mounts, k.ns.files
	w.expect(k, now.Verdict)
	now.Expected = k.expected
	now.Violated = k.expected != "" && now.Verdict == notIsolated
	k.row, w.dirty = now, true

	switch same := was.Verdict == now.Verdict && slices.Equal(was.Why, now.Why); {
	case k.expected != "" && (wasExpected == "" || !same):
		if now.Violated && !was.Violated {
			w.metrics.violation()
		}
		return w.print(k, was)
	case k.expected == "" && was.Verdict == isolated && now.Verdict == notIsolated && len(was.Processes) > 0:
		return w.print(k, was)
	}
	return nil
}

// expect decides whether a namespace ought to be isolated. A process that has
// run isolated for a while relies on it, whatever made its namespace. Isolated
// for a moment is every container that is just being connected to a network,
// and a namespace without a process is still being made. Once expected is
// expected for good: the record of a violated namespace may vanish, and the
// violation remains.
func (w *watcher) expect(k *watched, v verdict) {
	switch {
	case k.ns.claimed != "":
		k.expected = k.ns.claimed
	case k.expected != "":
	case v != isolated || len(k.ns.processes) == 0:
		k.since = time.Time{}
	case k.since.IsZero():
		k.since = time.Now()
		if !w.claimedOnly {
			w.agenda.at(k, k.since.Add(w.settle))
		}
	case w.claimedOnly:
	case time.Since(k.since) >= w.settle:
		k.expected = "was isolated for " + w.settle.String()
	default:
		w.agenda.at(k, k.since.Add(w.settle))
	}
}

// gonePast is no verdict: the namespace has ended, or nothing that can be seen
// holds it.
const gonePast verdict = "gone"

// state is a verdict in the light of what was expected.
func (r *row) state() string {
	if r.Violated {
		return "violated"
	}
	return string(r.Verdict)
}

// event is a line of JSON.
type event struct {
	Time  time.Time `json:"time"`
	State string    `json:"state"`
	Was   string    `json:"was,omitempty"`
	row
}

// print reports a change as one line.
func (w *watcher) print(k *watched, was row) error {
	now := time.Now().UTC()
	if w.asJSON {
		return writeJSON(w.out, event{now, k.row.state(), was.state(), k.row}, "")
	}
	line := fmt.Sprintf("%s %s net:[%d] %s", stamp(now), k.row.state(), k.row.Inode, k.row.who())
	if why := append(k.row.Why[:len(k.row.Why):len(k.row.Why)], k.row.Notes...); len(why) > 0 {
		line += ": " + strings.Join(why, "; ")
	}
	if k.row.Expected != "" {
		line += " (" + printable(k.row.Expected) + ")"
	}
	_, err := fmt.Fprintln(w.out, line)
	return err
}

// printSkipped reports that there is more than can be looked at.
func (w *watcher) printSkipped(what string) error {
	now := time.Now().UTC()
	if w.asJSON {
		return writeJSON(w.out, event{now, "not looked at", "", row{Why: []string{what}}}, "")
	}
	_, err := fmt.Fprintf(w.out, "%s not looked at: %s\n", stamp(now), what)
	return err
}

func stamp(t time.Time) string { return t.Format("2006-01-02T15:04:05.000Z") }
