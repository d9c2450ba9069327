package main

import (
	"errors"
	"fmt"
	"slices"
)

// step is one change of the node. What do returns takes it back; nil where it
// changed nothing.
type step struct {
	name string
	do   func() (undo func() error, err error)
}

// transaction is a list of steps that were done and can be taken back together.
type transaction struct{ done []done }

type done struct {
	name string
	undo func() error
}

// errKeep is the error of an undo before which nothing may be taken back: the
// runtime stands on it.
var errKeep = errors.New("what it stands on stays")

// run does the steps in turn. When one fails, everything that the transaction
// has done so far is taken back.
func (t *transaction) run(steps ...step) error {
	for _, s := range steps {
		undo, err := s.do()
		if undo != nil {
			t.done = append(t.done, done{s.name, undo})
		}
		if err != nil {
			return t.rollback(err)
		}
	}
	return nil
}

func (t *transaction) rollback(err error) error {
	steps := t.done
	t.done = nil
	for _, s := range slices.Backward(steps) {
		if uerr := s.undo(); uerr != nil {
			err = fmt.Errorf("%w\nand while undoing it (%s): %w", err, s.name, uerr)
			if errors.Is(uerr, errKeep) {
				return err
			}
		}
	}
	return err
}

// changed says whether there is anything to take back.
func (t *transaction) changed() bool { return len(t.done) > 0 }
