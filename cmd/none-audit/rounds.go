package main

import (
	"fmt"
	"slices"
	"time"
)

// update takes in what a walk has found, and plans a look at all of it: what an
// event might have missed, this does not.
func (w *watcher) update(found walk) error {
	if found.err != nil {
		return found.err
	}
	if w.walk.scan != nil {
		if err := w.finish(); err != nil {
			return err
		}
	}
	w.walk = found
	for _, k := range w.known {
		k.missed++
	}
	for inode, ns := range found.scan.namespaces {
		if ns.host {
			ns.letGo()
			continue
		}
		k := w.known[inode]
		if k == nil {
			k = &watched{inode: inode, id: -1, lane: lane{inode: inode}}
			w.known[inode] = k
		}
		k.replace(ns)
		w.pending[k] = true
		w.agenda.at(k, found.start)
	}
	for _, k := range w.known {
		// One walk may miss a process that is just becoming another (execve(2)
		// from a thread). Most endings have been heard of long before. A violated
		// one stays violated for as long as it exists, seen or not.
		if k.missed > 1 && !(k.row.Violated && k.id >= 0 && w.events.alive(k.id)) {
			if err := w.forget(k); err != nil {
				return err
			}
		}
	}
	return nil
}

// replace takes what is known of a namespace from a new walk.
func (k *watched) replace(ns *namespace) {
	if k.ns != nil && !k.looking { // else it is let go of after the look
		k.ns.letGo()
	}
	ns.trim()
	k.ns, k.missed = ns, 0
}

// trim keeps of a namespace what there is room to keep.
func (ns *namespace) trim() {
	ns.processes = slices.Clone(ns.processes[:min(len(ns.processes), maxReasons)])
	ns.containers = slices.Clone(ns.containers[:min(len(ns.containers), maxReasons)])
	ns.mounts = slices.Clone(ns.mounts[:min(len(ns.mounts), 1)])
	ns.files = slices.Clone(ns.files[:min(len(ns.files), 1)])
}

// finish ends a walk: everything was looked at, or takes too long.
func (w *watcher) finish() error {
	skipped := slices.Clone(w.walk.scan.skipped)
	if w.walk.scan.hidden() > 0 {
		skipped = append(skipped, "processes that may not be looked at")
	}
	now := time.Now()
	for lane, since := range w.lanes.busy {
		if now.Sub(since) > overdue {
			skipped = append(skipped, fmt.Sprintf("network namespaces by %v: it takes more than %v", lane, overdue))
		}
	}
	for _, k := range w.known {
		if k.expected == "" && k.row.Verdict == unknown {
			skipped = append(skipped, fmt.Sprintf("network namespaces by %v: %s", k.lane, k.row.Why[0]))
		}
	}
	slices.Sort(skipped)
	skipped = slices.Compact(skipped)
	for _, what := range skipped {
		if !slices.Contains(w.skipped, what) {
			if err := w.printSkipped(what); err != nil {
				return err
			}
		}
	}
	w.metrics.scanned(w.walk.start, len(w.walk.scan.namespaces), len(w.walk.scan.unreadable))
	w.skipped, w.walk, w.dirty = skipped, walk{}, true
	clear(w.pending)
	return nil
}

func (w *watcher) forget(k *watched) error {
	k.forgotten, w.dirty = true, true
	delete(w.known, k.inode)
	delete(w.byID, k.id)
	delete(w.pending, k)
	if !k.looking {
		k.ns.letGo()
	}
	if k.expected == "" {
		return nil
	}
	was := k.row
	k.row.Verdict, k.row.Why, k.row.Notes, k.row.Violated = gonePast, nil, nil, false
	return w.print(k, was)
}
