package main

import (
	"testing"
	"time"
)

// TestNextRestart: pauses grow, and after three within an hour there is none.
func TestNextRestart(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	ago := func(minutes ...int) (l restartLog) {
		for _, m := range minutes {
			l.Times = append(l.Times, now.Add(-time.Duration(m)*time.Minute))
		}
		return l
	}
	for _, c := range []struct {
		log  restartLog
		says string
		done bool
	}{
		{ago(), "", false},
		{ago(1), "the runtime was restarted at 11:59:00; not again before 12:01:00", false},
		{ago(3), "", false},
		{ago(13, 9), "the runtime was restarted at 11:51:00; not again before 12:01:00", false},
		{ago(30, 11), "", false},
		{ago(40, 30, 20), "the runtime was restarted 3 times within an hour, last at 11:40:00; not again before 12:20:00", true},
	} {
		why := c.log.next(now)
		if (why == nil) != (c.says == "") || why != nil && (why.why != c.says || why.done != c.done) {
			t.Errorf("after %v: %+v, want %q %v", c.log.Times, why, c.says, c.done)
		}
	}
}
