package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestTransaction: what fails is undone in reverse order, and an undo on whose
// work others stand stops it.
func TestTransaction(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name  string
		fail  string           // the step that fails
		undo  map[string]error // of undos that fail
		trace string
		says  string
	}{
		{name: "all done", trace: "+a +b +c"},
		{name: "the last fails", fail: "c", trace: "+a +b +c -b -a", says: "broken"},
		{name: "the first fails", fail: "a", trace: "+a", says: "broken"},
		{name: "an undo fails", fail: "c", undo: map[string]error{"b": errors.New("stuck")}, trace: "+a +b +c -b -a", says: "while undoing it (b): stuck"},
		{name: "an undo that keeps the rest", fail: "c", undo: map[string]error{"b": fmt.Errorf("it runs: %w", errKeep)}, trace: "+a +b +c -b", says: "stays"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var trace []string
			var steps []step
			for _, name := range []string{"a", "b", "c"} {
				steps = append(steps, step{name, func() (func() error, error) {
					trace = append(trace, "+"+name)
					if name == c.fail {
						return nil, broken
					}
					return func() error {
						trace = append(trace, "-"+name)
						return c.undo[name]
					}, nil
				}})
			}
			var tx transaction
			err := tx.run(steps[:2]...)
			if err == nil {
				err = tx.run(steps[2:]...)
			}
			if got := strings.Join(trace, " "); got != c.trace {
				t.Errorf("it did %s, want %s", got, c.trace)
			}
			switch {
			case c.says == "" && err != nil, c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("it says %v, want %q", err, c.says)
			case c.fail != "" && !errors.Is(err, broken):
				t.Errorf("%v does not wrap the error of the step", err)
			}
			if tx.changed() == (c.fail != "") {
				t.Errorf("it says of itself that it has changed something: %v", tx.changed())
			}
		})
	}
}
