package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/cni-none/cni-none/internal/netns"
)

// lister is the list without a command, or of what is asked for.
type lister struct {
	from              *sources
	asJSON, noHeaders bool
	stderr            io.Writer

	scan   *scan
	rows   []row
	listed map[uint64]bool
	status int
}

func listSetup(fs *flag.FlagSet) func(context.Context, []string, io.Writer, io.Writer) int {
	l := &lister{from: sourceFlags(fs), rows: []row{}, listed: map[uint64]bool{}}
	fs.BoolVar(&l.asJSON, "json", false, "print JSON")
	fs.BoolVar(&l.noHeaders, "no-headers", false, "print the table without its first line")
	return func(_ context.Context, args []string, stdout, stderr io.Writer) int {
		l.stderr = stderr
		return l.run(args, stdout)
	}
}

func (l *lister) run(args []string, stdout io.Writer) int {
	var err error
	if l.scan, err = scanMachine(); err != nil {
		return fail(l.stderr, "%v", err)
	}
	defer l.scan.close()
	newRecords(l.from).annotate(l.scan)

	var asked []uint64
	if len(args) == 0 {
		l.worse(warnUnseen(l.scan, l.stderr))
	}
	for _, target := range args {
		inodes, err := l.scan.find(target)
		if err != nil {
			l.worse(fail(l.stderr, "%s: %v%s", printable(target), err, program.DidYouMean(target)))
		}
		asked = append(asked, inodes...)
	}
	err = netns.Visit(func(enter func(*netns.NS) error) error {
		if len(args) == 0 {
			l.see(l.scan.inodes(), false, enter)
		}
		l.see(asked, true, enter)
		return nil
	})
	if err != nil {
		return fail(l.stderr, "%v", err)
	}

	if l.asJSON {
		err = writeJSON(stdout, struct {
			Namespaces []row    `json:"namespaces"`
			Unreadable []int    `json:"unreadable,omitempty"`  // processes whose namespace may be any of these, or another
			NotLooked  []string `json:"notLookedAt,omitempty"` // what there was too much of
		}{l.rows, l.scan.unreadable, l.scan.skipped}, "  ")
	} else if len(l.rows) > 0 {
		err = writeTable(stdout, l.rows, !l.noHeaders)
	}
	if err != nil {
		return fail(l.stderr, "%v", err)
	}
	return l.status
}

// see looks at namespaces that were asked for, or at all that there are.
func (l *lister) see(inodes []uint64, asked bool, enter func(*netns.NS) error) {
	for _, inode := range inodes {
		if l.listed[inode] {
			continue
		}
		r, err := look(l.scan.namespaces[inode], enter)
		if err != nil && !asked {
			continue // it has ended
		}
		l.listed[inode] = true
		l.rows = append(l.rows, r)
		switch {
		case err != nil || r.Verdict == unknown:
			l.worse(exitUnknown)
		case r.Verdict == notIsolated && (asked || r.Violated):
			l.worse(exitViolated)
		}
	}
}

// worse combines exit statuses: if both apply, a violation that was seen counts
// for more than what could not be.
func (l *lister) worse(status int) {
	if l.status == exitViolated || status == exitViolated {
		l.status = exitViolated
		return
	}
	l.status = max(l.status, status)
}

// hidden counts the processes that may not be looked at. Process 1 alone does not
// make a list incomplete: it is where the machine's own namespace is.
func (s *scan) hidden() int {
	n := len(s.unreadable)
	if slices.Contains(s.unreadable, 1) {
		n--
	}
	return n
}

// warnUnseen says how much could not be seen.
func warnUnseen(s *scan, stderr io.Writer) int {
	status := exitOK
	for _, what := range s.skipped {
		status = fail(stderr, "not looked at: %s", printable(what))
	}
	if s.hidden() == 0 {
		return status
	}
	hint := ""
	if os.Geteuid() != 0 {
		hint = ": run it as root"
	}
	return fail(stderr, "%d processes may not be looked at, so namespaces may be missing%s", s.hidden(), hint)
}

func fail(stderr io.Writer, format string, args ...any) int {
	fmt.Fprintln(stderr, strings.TrimRight("none-audit: "+fmt.Sprintf(format, args...), "\n"))
	return exitUnknown
}
