package main

import (
	"fmt"
	"io"

	"github.com/cni-none/cni-none/pkg/loopback"
)

// self judges the namespace that this process runs in. It needs no privilege
// and no file: one netlink socket, which no container is denied by default.
func self(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		return fail(stderr, "self takes no arguments")
	}
	survey, err := loopback.InspectSelf()
	if err != nil {
		fmt.Fprintln(stdout, "unknown:", err)
		return exitUnknown
	}
	v, why, notes := judge(survey)
	fmt.Fprintln(stdout, sentence(v, why, notes))
	if v != isolated {
		return exitViolated
	}
	return exitOK
}
