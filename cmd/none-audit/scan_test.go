package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// A namespace that cannot be kept may be about to end, and is left to another pass:
// once, since the reason may stay.
func TestSecureLooksAgain(t *testing.T) {
	loop := filepath.Join(t.TempDir(), "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	w := newTestWalker(t)
	ns := w.at(1, way{path: loop, link: true})
	if _, err := ns.open(); err == nil || gone(err) {
		t.Fatalf("control: it opens with %v", err)
	}
	if w.secure() {
		t.Error("a namespace that cannot be opened counts as kept")
	}
	if !w.secure() {
		t.Error("it is tried for ever")
	}
}

// A process that could not be looked at is visited again, and is forgotten when it
// has ended.
func TestUnreadableIsVisitedAgain(t *testing.T) {
	w := newTestWalker(t)
	const ended = 1 << 22 // PID_MAX_LIMIT: no process has it
	w.unreadable = []int{w.self, ended}
	w.pids[w.self] = true
	if err := w.pass(make([]byte, 1<<10)); err != nil {
		t.Fatal(err)
	}
	if len(w.ofPID[w.self]) == 0 {
		t.Error("a process that could not be looked at is not visited again")
	}
	if slices.Contains(w.unreadable, ended) || slices.Contains(w.unreadable, w.self) {
		t.Errorf("unreadable are %v", w.unreadable)
	}
}

func newTestWalker(t *testing.T) *walker {
	t.Helper()
	w, err := newWalker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.close()
		unix.Close(w.proc)
	})
	return w
}
