package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cni-none/cni-none/pkg/loopback"
)

// A verdict is what a look into a network namespace showed.
type verdict string

const (
	isolated    verdict = "isolated"
	notIsolated verdict = "not isolated"
	unknown     verdict = "unknown" // nobody could look
)

// maxReasons bounds what is kept and printed about one namespace: whoever owns
// a namespace may fill it with interfaces.
const maxReasons = 8

// judge says whether a namespace holds lo and nothing else: the reasons why it
// does not, and notes on what keeps lo from working but isolates all the same.
func judge(s *loopback.Survey) (v verdict, why, notes []string) {
	var f *loopback.Findings
	if !errors.As(s.Check(loopback.Exclusive), &f) {
		return isolated, nil, nil
	}
	for _, l := range f.Extra {
		state := "up"
		if !l.Up {
			state = "down"
		}
		why = append(why, fmt.Sprintf("%s (%s, %s)", printable(l.Name), printable(l.Kind), state))
	}
	if len(f.NSIDs) > 0 && len(f.Extra) == 0 { // an interface explains it
		why = append(why, "it has been connected to another namespace and still knows the way there (ip netns list-id)")
	}
	if f.LoMissing {
		why = append(why, "no loopback interface")
	}
	if f.Name != "" {
		why = append(why, "the loopback interface is called "+printable(f.Name))
	}
	for _, a := range f.NonLoopback {
		why = append(why, "lo has "+a.String())
	}
	if f.Down {
		notes = append(notes, "lo is down")
	} else if len(f.Missing) > 0 {
		for _, a := range f.Missing {
			notes = append(notes, "lo lacks "+a.String())
		}
	}
	if len(why) == 0 {
		return isolated, nil, notes
	}
	return notIsolated, atMost(maxReasons, why), notes
}

// atMost shortens items to n and says how many are left out.
func atMost(n int, items []string) []string {
	if len(items) <= n {
		return items
	}
	return append(items[:n:n], fmt.Sprintf("and %d more", len(items)-n))
}

// sentence puts a verdict and its reasons into a line.
func sentence(v verdict, why, notes []string) string {
	s := string(v)
	if all := append(why[:len(why):len(why)], notes...); len(all) > 0 {
		s += ": " + strings.Join(all, ", ")
	}
	return s
}
