package main

import (
	"errors"
	"strings"

	"github.com/cni-none/cni-none/pkg/loopback"
)

// A verdict is what a look into a network namespace showed.
type verdict string

const (
	isolated    verdict = "isolated"
	notIsolated verdict = "not isolated"
	unknown     verdict = "unknown" // it could not be looked at
)

// maxReasons bounds what is kept about one namespace, which its owner may fill.
const maxReasons = 8

// judge says whether a namespace holds lo and nothing else: why it does not, and
// what keeps lo from working but isolates all the same.
func judge(s *loopback.Survey) (v verdict, why, notes []string) {
	var f *loopback.Findings
	if !errors.As(s.Check(loopback.Exclusive), &f) {
		return isolated, nil, nil
	}
	if len(f.Extra) > 0 {
		f.NSIDs = nil // the interface explains them
	}
	if why = f.Violations(); len(why) > 0 {
		return notIsolated, why, f.Faults()
	}
	return isolated, nil, f.Faults()
}

// judgeWhat is judge for a survey that may have ended early: an interface beside
// lo is one, whatever would have followed.
func judgeWhat(s *loopback.Survey, err error) (v verdict, why, notes []string, _ error) {
	if s != nil && (err == nil || len(s.Others()) > 0) {
		v, why, notes = judge(s)
		return v, why, notes, nil
	}
	return unknown, nil, nil, err
}

// sentence puts a verdict and its reasons into a line.
func sentence(v verdict, why, notes []string) string {
	s := string(v)
	if all := append(why[:len(why):len(why)], notes...); len(all) > 0 {
		s += ": " + strings.Join(all, "; ")
	}
	return s
}
