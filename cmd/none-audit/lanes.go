package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
)

// lanes let looks run side by side, so that none waits for another user's: a
// namespace with 100,000 addresses takes long to look at, one whose owner changes
// it all the time may not be looked at at all, and a user can have thousands of
// such. There is one lane for each user, or for each namespace that root made, and
// one look at a time in a lane.
type lanes struct {
	look    func(*watched, *namespace) looked
	waiting map[lane][]*watched
	turn    []lane // those where a look waits and none is under way
	busy    map[lane]time.Time
	done    chan looked
}

// lane is who made the user namespace that a network namespace belongs to or,
// where that is the machine's own or not known yet, the namespace alone.
type lane struct {
	owner
	inode uint64
}

func (l lane) String() string {
	if l.inode != 0 {
		return fmt.Sprintf("net:[%d]", l.inode)
	}
	return l.owner.String()
}

const (
	width     = 4                     // looks at a time, beside slow ones
	slowAfter = 50 * time.Millisecond // a thousand times what most take
	maxSlow   = 64
)

func newLanes(look func(*watched, *namespace) looked) *lanes {
	return &lanes{look: look, waiting: map[lane][]*watched{}, busy: map[lane]time.Time{}, done: make(chan looked, maxSlow)}
}

// add queues a look. One that waits or is under way is not queued again.
func (l *lanes) add(k *watched) {
	if k.queued {
		return
	}
	k.queued = true
	l.waiting[k.lane] = append(l.waiting[k.lane], k)
	if _, busy := l.busy[k.lane]; !busy && len(l.waiting[k.lane]) == 1 {
		l.turn = append(l.turn, k.lane)
	}
}

// start starts the looks whose turn it is.
func (l *lanes) start(now time.Time) {
	for len(l.turn) > 0 && len(l.busy) < maxSlow && l.quick(now) < width {
		lane := l.turn[0]
		l.turn = l.turn[1:]
		k := l.waiting[lane][0]
		if l.waiting[lane] = l.waiting[lane][1:]; len(l.waiting[lane]) == 0 {
			delete(l.waiting, lane)
		}
		l.busy[lane] = now
		k.queued, k.looking, k.last = false, true, now
		go func(ns *namespace) {
			r := l.look(k, ns)
			r.k, r.ns, r.from = k, ns, lane
			l.done <- r
		}(k.ns)
	}
}

func (l *lanes) quick(now time.Time) int {
	n := 0
	for _, since := range l.busy {
		if now.Sub(since) < slowAfter {
			n++
		}
	}
	return n
}

// ended notes that a look in a lane is over.
func (l *lanes) ended(from lane) {
	delete(l.busy, from)
	if len(l.waiting[from]) > 0 {
		l.turn = append(l.turn, from)
	}
}

// looked is what a look has shown.
type looked struct {
	k    *watched
	ns   *namespace
	from lane

	err    error // there is no way in
	id     int   // see events
	noID   error
	lane   lane
	judged bool // else it belongs into another lane
	row    row
}

// laneOf finds out who made a network namespace.
func laneOf(n *netns.NS, ours uint64) lane {
	alone := lane{inode: n.ID().Ino}
	users, err := unix.IoctlRetInt(n.FD(), unix.NS_GET_USERNS)
	if err != nil {
		return alone
	}
	if inode, err := inodeOfFD(users); err != nil || inode == ours {
		unix.Close(users)
		return alone
	}
	maker, err := makerOf(users, ours)
	if err != nil {
		return alone
	}
	return lane{owner: maker}
}
