package main

import (
	"testing"
	"time"
)

// A look that does not end holds up that user's others and nothing else, even
// when there are more of them than run at a time.
func TestLanes(t *testing.T) {
	release := make(chan struct{})
	l := newLanes(func(k *watched, _ *namespace) looked {
		if k.lane.uid != 0 {
			<-release
		}
		return looked{}
	})
	defer close(release)
	now := time.Now()
	for uid := uint32(1); uid <= 2*width; uid++ {
		for range 3 {
			l.add(&watched{lane: lane{owner: owner{uid: uid}}})
		}
	}
	others := map[*watched]bool{}
	for i := range 10 {
		k := &watched{lane: lane{inode: uint64(1 + i)}}
		others[k] = true
		l.add(k)
		l.add(k) // once is enough
	}
	for deadline := now.Add(patience); len(others) > 0; now = now.Add(slowAfter) {
		l.start(now)
		if busy := len(l.busy); busy > maxSlow {
			t.Fatalf("%d looks under way", busy)
		}
		for quiet := false; !quiet; {
			select {
			case r := <-l.done:
				if !others[r.k] {
					t.Fatalf("looked twice, or at one that is held up: %+v", r.k)
				}
				delete(others, r.k)
				l.ended(r.from)
			case <-time.After(time.Millisecond):
				quiet = true
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d others are held up", len(others))
		}
	}
	for of, waiting := range l.waiting {
		if _, busy := l.busy[of]; of.uid == 0 || !busy || len(waiting) != 2 {
			t.Errorf("%v: %d wait, under way: %v", of, len(waiting), busy)
		}
	}
}
