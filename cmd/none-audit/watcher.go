package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/cni-none/cni-none/internal/netns"
)

const (
	pause   = 100 * time.Millisecond // between two looks at a namespace that changes all the time
	recount = 100 * time.Millisecond // between two counts for the metrics
	relook  = 500 * time.Millisecond // between two looks at everything known, when events get lost all the time
	overdue = time.Second            // a look that takes longer is reported
)

// A watched namespace, and what was last said about it. What is kept of it does
// not grow with what its owner puts in.
type watched struct {
	inode    uint64
	id       int  // see events; -1 as long as there is none
	lane     lane // whose it is
	sorted   bool // the lane is known
	ns       *namespace
	expected string    // why it ought to be isolated, or ""
	since    time.Time // isolated, and with a process in it, since
	missed   int       // walks in a row that did not find it
	row      row

	due, last       time.Time // the next look and the one before
	queued, looking bool
	forgotten       bool
}

// watcher has all its state in one goroutine, which never waits for a namespace,
// for /proc or for a file: walks and looks run beside it and send what they saw.
type watcher struct {
	interval, settle    time.Duration
	claimedOnly, asJSON bool
	out, err            io.Writer

	events  *events
	records *records
	users   uint64              // our own user namespace
	known   map[uint64]*watched // by inode
	byID    map[int]*watched
	agenda  agenda
	lanes   *lanes
	metrics metrics

	walk     walk              // the last one,
	pending  map[*watched]bool // and what is still to be looked at after it
	skipped  []string          // what was not looked at
	relooked time.Time
	counted  time.Time
	dirty    bool // something is to be counted
}

func newWatcher() *watcher {
	w := &watcher{known: map[uint64]*watched{}, byID: map[int]*watched{}, pending: map[*watched]bool{}}
	w.lanes = newLanes(w.look)
	return w
}

func (w *watcher) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l := newLimits()
	w.users = l.users
	walks := make(chan walk)
	go w.walkAlways(ctx, walks)
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		next.Reset(w.wait(time.Now()))
		var err error
		select {
		case <-ctx.Done():
			return nil
		case found := <-walks:
			err = w.update(found)
		case <-w.events.wake:
			err = w.handle(w.events.drain())
		case r := <-w.lanes.done:
			err = w.evaluate(r)
		case <-next.C:
		}
		if err == nil {
			err = w.goOn(time.Now())
		}
		if err != nil {
			return err
		}
	}
}

// goOn starts what is due.
func (w *watcher) goOn(now time.Time) error {
	for k := w.agenda.take(now); k != nil; k = w.agenda.take(now) {
		if k.looking {
			w.agenda.at(k, now.Add(pause)) // again, since it began before
		} else {
			w.lanes.add(k)
		}
	}
	w.lanes.start(now)
	if w.walk.scan != nil && (len(w.pending) == 0 || now.Sub(w.walk.start) > w.interval+overdue) {
		if err := w.finish(); err != nil {
			return err
		}
	}
	if w.dirty && now.Sub(w.counted) >= recount {
		w.metrics.count(w.known, w.skipped)
		w.dirty, w.counted = false, now
	}
	return nil
}

// wait says how long there is nothing to do, unless something happens.
func (w *watcher) wait(now time.Time) time.Duration {
	wait := time.Hour
	if len(w.agenda) > 0 {
		wait = w.agenda[0].when.Sub(now)
	}
	if len(w.lanes.turn) > 0 {
		wait = min(wait, slowAfter)
	}
	if w.walk.scan != nil {
		wait = min(wait, overdue)
	}
	if w.dirty {
		wait = min(wait, recount)
	}
	return max(wait, time.Millisecond)
}

// handle plans looks where something has happened.
func (w *watcher) handle(h heard) error {
	if h.err != nil {
		return fmt.Errorf("listen to netlink events: %w", h.err)
	}
	for id := range h.ended {
		if k := w.byID[id]; k != nil {
			if err := w.forget(k); err != nil {
				return err
			}
		}
	}
	for id := range h.changed {
		if k := w.byID[id]; k != nil {
			w.agenda.at(k, k.last.Add(pause))
		}
	}
	if h.lost {
		now := time.Now()
		when := w.relooked.Add(relook)
		if when.Before(now) {
			when = now
		}
		w.relooked = when
		for _, k := range w.known {
			w.agenda.at(k, when)
		}
	}
	return nil
}

// look looks at a namespace, beside everything else. Whose it is, is known once
// it is open: what turns out to be a user's goes into that user's lane.
func (w *watcher) look(k *watched, ns *namespace) (r looked) {
	var n *netns.NS
	if n, r.err = ns.open(); r.err != nil {
		return r
	}
	r.id, r.noID = w.events.track(n)
	if r.noID != nil {
		r.id = -1
	}
	r.lane = k.lane
	if !k.sorted {
		if r.lane = laneOf(n, w.users); r.lane != k.lane {
			n.Close()
			return r
		}
	}
	r.judged = true
	err := netns.Visit(func(enter func(*netns.NS) error) (err error) {
		r.row.Verdict, r.row.Why, r.row.Notes, err = inspect(n, enter)
		return err
	})
	if err != nil {
		r.row.Verdict, r.row.Why = unknown, []string{printable(err.Error())}
	}
	return r
}

// evaluate takes in what a look has shown.
func (w *watcher) evaluate(r looked) error {
	k := r.k
	k.looking = false
	w.lanes.ended(r.from)
	if r.ns != k.ns || r.judged || r.err != nil || k.forgotten {
		r.ns.letGo()
	}
	if k.forgotten {
		return nil
	}
	if r.err != nil {
		delete(w.pending, k)
		return w.noWayIn(k, r.err)
	}
	if k.id >= 0 && r.id != k.id { // another namespace with the same number
		if err := w.forget(k); err != nil {
			return err
		}
		k = &watched{inode: k.inode, ns: k.ns, lane: lane{inode: k.inode}}
		w.known[k.inode] = k
		r.lane, r.judged = k.lane, false
	}
	if k.id != r.id {
		k.id = r.id
		w.byID[k.id] = k
	}
	if r.noID != nil {
		fmt.Fprintf(w.err, "none-audit: net:[%d] gets no events: %v\n", k.inode, r.noID)
		delete(w.byID, -1)
	}
	if !r.judged {
		k.sorted = r.lane != k.lane
		k.lane = r.lane
		w.agenda.at(k, time.Now())
		return nil
	}
	k.sorted = true
	delete(w.pending, k)
	return w.judge(k, r.row)
}

// noWayIn is for a namespace that could not be opened: mostly its processes have
// ended, and the next walk will tell.
func (w *watcher) noWayIn(k *watched, err error) error {
	k.since = time.Time{}
	if gone(err) {
		if k.row.Verdict == "" { // it was never seen
			delete(w.known, k.inode)
			k.forgotten = true
		}
		return nil
	}
	return w.judge(k, row{Verdict: unknown, Why: []string{printable(err.Error())}})
}
