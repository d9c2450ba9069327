package main

import (
	"container/heap"
	"time"
)

// agenda says when to look at what. An entry counts only while it says what the
// namespace itself says.
type agenda []entry

type entry struct {
	when time.Time
	k    *watched
}

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].when.Before(a[j].when) }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(entry)) }
func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	(*a)[len(*a)-1] = entry{}
	*a = (*a)[:len(*a)-1]
	return last
}

// at plans a look, unless an earlier one is planned.
func (a *agenda) at(k *watched, when time.Time) {
	if k.due.IsZero() || when.Before(k.due) {
		k.due = when
		heap.Push(a, entry{when, k})
	}
}

// take returns the next look that is due, or nil.
func (a *agenda) take(now time.Time) *watched {
	for len(*a) > 0 && !(*a)[0].when.After(now) {
		e := heap.Pop(a).(entry)
		if e.k.due.Equal(e.when) && !e.k.forgotten {
			e.k.due = time.Time{}
			return e.k
		}
	}
	return nil
}
