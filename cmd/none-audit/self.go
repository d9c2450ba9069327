package main

import (
	"context"
	"flag"
	"fmt"
	"io"

	"github.com/cni-none/cni-none/pkg/loopback"
)

func selfSetup(fs *flag.FlagSet) func(context.Context, []string, io.Writer, io.Writer) int {
	asJSON := fs.Bool("json", false, "print JSON")
	return func(_ context.Context, args []string, stdout, stderr io.Writer) int {
		if len(args) > 0 {
			return fail(stderr, "self takes no arguments")
		}
		return self(*asJSON, stdout, stderr)
	}
}

// self judges the namespace that this process runs in. It needs no privilege
// and no file: one netlink socket, which no container is denied by default.
func self(asJSON bool, stdout, stderr io.Writer) int {
	survey, err := loopback.InspectSelf()
	v, why, notes, err := judgeWhat(survey, err)
	if err != nil {
		why = []string{printable(err.Error())}
	}
	kernel := ""
	if survey.NoNSIDs {
		kernel = "no namespace ids on this kernel"
	}
	if asJSON {
		if kernel != "" {
			notes = append(notes, kernel)
		}
		if err := writeJSON(stdout, row{Verdict: v, Why: why, Notes: notes}, ""); err != nil {
			return fail(stderr, "%v", err)
		}
	} else {
		if kernel != "" {
			kernel = " (" + kernel + ")"
		}
		fmt.Fprintln(stdout, sentence(verdict(string(v)+kernel), why, notes))
	}
	return status(v)
}

func status(v verdict) int {
	switch v {
	case isolated:
		return exitOK
	case notIsolated:
		return exitViolated
	}
	return exitUnknown
}
