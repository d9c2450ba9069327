package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// maxListed bounds the processes, mounts and so on that the table names.
const maxListed = 3

func writeTable(out io.Writer, rows []row, header bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if header {
		fmt.Fprintln(w, "NAMESPACE\tVERDICT\tWHO\tWHY")
	}
	for _, r := range rows {
		v := string(r.Verdict)
		if r.Violated {
			v = "VIOLATED"
		}
		why := strings.Join(append(r.Why[:len(r.Why):len(r.Why)], r.Notes...), "; ")
		if why == "" {
			why = "lo only"
		}
		if r.Expected != "" {
			why += " (" + printable(r.Expected) + ")"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", r.Inode, v, r.who(), why)
	}
	return w.Flush()
}

// who names the pod or the container, the processes, and where there are none,
// what else holds the namespace.
func (r *row) who() string {
	var who []string
	who = append(who, named(r.Containers, (*container).String)...)
	who = append(who, named(r.Processes, func(p process) string {
		return fmt.Sprintf("%s[%d]", printable(p.Command), p.PID)
	})...)
	if len(r.Processes) == 0 {
		who = append(who, named(r.Mounts, printable)...)
		who = append(who, named(r.Files, printable)...)
	}
	return strings.Join(who, " ")
}

// named names the first few of the items, each once.
func named[T any](items []T, name func(T) string) []string {
	var names []string
	for i, item := range items {
		if len(names) == maxListed {
			return append(names, fmt.Sprintf("and %d more", len(items)-i))
		}
		if n := name(item); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}
