package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/cni-none/cni-none/pkg/loopback"
)

// A row is what is reported about one namespace. Names in it are as their
// owners wrote them; Why and Notes are fit for a terminal.
type row struct {
	Inode      uint64       `json:"inode"`
	Verdict    verdict      `json:"verdict"`
	Why        []string     `json:"why,omitempty"`
	Notes      []string     `json:"notes,omitempty"`
	Host       bool         `json:"host,omitempty"`
	Expected   string       `json:"expected,omitempty"` // why it ought to be isolated
	Violated   bool         `json:"violated,omitempty"` // it ought to be, and is not
	Containers []*container `json:"containers,omitempty"`
	Processes  []process    `json:"processes,omitempty"`
	Mounts     []string     `json:"mounts,omitempty"`
	Files      []string     `json:"files,omitempty"`
}

// look opens the namespace and judges it. The error is one that gone knows
// where the namespace has ended meanwhile.
func look(ns *namespace) (row, error) {
	r := row{
		Inode: ns.inode, Host: ns.host, Expected: ns.claimed,
		Containers: ns.containers, Processes: ns.processes, Mounts: ns.mounts, Files: ns.files,
	}
	f, err := ns.open()
	if err == nil {
		defer f.Close()
		r.Verdict, r.Why, r.Notes, err = inspect(f)
	}
	if err != nil {
		if gone(err) {
			return r, err
		}
		r.Verdict, r.Why = unknown, []string{printable(err.Error())}
	}
	if r.Host {
		// Even with no interface but lo: every service of the machine is there.
		r.Verdict, r.Why = notIsolated, append([]string{"the machine's own"}, r.Why...)
	}
	r.Violated = r.Expected != "" && r.Verdict == notIsolated
	return r, nil
}

// inspect judges an open namespace.
func inspect(f *os.File) (v verdict, why, notes []string, err error) {
	survey, err := loopback.Inspect(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return unknown, nil, nil, err
	}
	v, why, notes = judge(survey)
	return v, why, notes, nil
}

func list(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("none-audit", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, usage); fs.PrintDefaults() }
	from := sourceFlags(fs)
	asJSON := fs.Bool("json", false, "print JSON")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK
		}
		return exitUnknown
	}

	s, err := scanMachine()
	if err != nil {
		return fail(stderr, "%v", err)
	}
	newRecords(from).annotate(s)

	status := exitOK
	rows := []row{}
	see := func(inodes []uint64, asked bool) {
		for _, inode := range inodes {
			if slices.ContainsFunc(rows, func(r row) bool { return r.Inode == inode }) {
				continue
			}
			r, err := look(s.namespaces[inode])
			if err != nil && !asked {
				continue // it has ended
			}
			rows = append(rows, r)
			switch {
			case err != nil || r.Verdict == unknown:
				status = worse(status, exitUnknown)
			case r.Verdict == notIsolated && (asked || r.Violated):
				status = worse(status, exitViolated)
			}
		}
	}
	if fs.NArg() == 0 {
		see(s.inodes(), false)
		status = worse(status, warnUnreadable(s, stderr))
	}
	for _, target := range fs.Args() {
		inodes, err := s.find(target)
		if err != nil {
			status = worse(status, fail(stderr, "%s: %v", printable(target), err))
			continue
		}
		see(inodes, true)
	}

	if *asJSON {
		err = writeJSON(stdout, struct {
			Namespaces []row `json:"namespaces"`
			Unreadable []int `json:"unreadable,omitempty"` // processes whose namespace may be any of these, or another
		}{rows, s.unreadable}, "  ")
	} else if len(rows) > 0 {
		err = writeTable(stdout, rows)
	}
	if err != nil {
		return fail(stderr, "%v", err)
	}
	return status
}

// worse combines two exit statuses.
func worse(a, b int) int {
	if a == exitViolated || b == exitViolated {
		return exitViolated
	}
	return max(a, b)
}

// warnUnreadable says how much could not be seen. Process 1 alone does not make
// the list incomplete: it is where the machine's own namespace is.
func warnUnreadable(s *scan, stderr io.Writer) int {
	others := slices.DeleteFunc(slices.Clone(s.unreadable), func(pid int) bool { return pid == 1 })
	if len(others) == 0 {
		return exitOK
	}
	hint := ""
	if os.Geteuid() != 0 {
		hint = ": run it as root"
	}
	return fail(stderr, "%d processes may not be looked at, so namespaces may be missing%s", len(others), hint)
}

// inodes returns the namespaces in the order to list them: the machine's own,
// then by number.
func (s *scan) inodes() []uint64 {
	all := make([]*namespace, 0, len(s.namespaces))
	for _, ns := range s.namespaces {
		all = append(all, ns)
	}
	slices.SortFunc(all, func(a, b *namespace) int {
		if a.host != b.host {
			if a.host {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.inode, b.inode)
	})
	inodes := make([]uint64, len(all))
	for i, ns := range all {
		inodes[i] = ns.inode
	}
	return inodes
}

// find returns the namespaces that a person means: one of a path, or all that a
// process's threads or a container's processes are in.
func (s *scan) find(target string) ([]uint64, error) {
	if strings.Contains(target, "/") {
		w := way{path: target, mount: true}
		f, inode, err := w.openNamespace()
		if err != nil {
			return nil, err
		}
		f.Close()
		s.at(inode, w)
		return []uint64{inode}, nil
	}
	// A pid has at most 7 digits (PID_MAX_LIMIT is 4194304).
	if pid, err := strconv.Atoi(target); err == nil && pid > 0 && len(target) <= 7 {
		return s.ofProcess(pid)
	}
	return s.ofContainer(target)
}

func (s *scan) ofProcess(pid int) ([]uint64, error) {
	if slices.Contains(s.unreadable, pid) {
		return nil, errors.New("this process may not be looked at")
	}
	var inodes []uint64
	for _, inode := range s.inodes() {
		if slices.ContainsFunc(s.namespaces[inode].processes, func(p process) bool { return p.PID == pid }) {
			inodes = append(inodes, inode)
		}
	}
	if len(inodes) == 0 {
		return nil, errors.New("no such process")
	}
	return inodes, nil
}

func (s *scan) ofContainer(target string) ([]uint64, error) {
	var ids []string
	var inodes []uint64
	for id, in := range s.inContainer {
		if id == target {
			return in, nil
		}
		if len(target) >= 4 && strings.HasPrefix(id, target) {
			ids, inodes = append(ids, id), in
		}
	}
	switch {
	case len(ids) > 1:
		return nil, fmt.Errorf("%d containers begin with that", len(ids))
	case len(ids) == 0:
		return nil, errors.New("no running container has this id")
	}
	return inodes, nil
}

// maxListed bounds the processes, mounts and so on that the table names.
const maxListed = 3

func writeTable(out io.Writer, rows []row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tVERDICT\tWHO\tWHY")
	for _, r := range rows {
		v := string(r.Verdict)
		if r.Violated {
			v = "VIOLATED"
		}
		why := strings.Join(append(r.Why[:len(r.Why):len(r.Why)], r.Notes...), ", ")
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
	add := func(n int, name func(i int) string) {
		var names []string
		for i := range n {
			if name := name(i); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		who = append(who, atMost(maxListed, names)...)
	}
	add(len(r.Containers), func(i int) string { return r.Containers[i].String() })
	add(len(r.Processes), func(i int) string {
		return fmt.Sprintf("%s[%d]", printable(r.Processes[i].Command), r.Processes[i].PID)
	})
	if len(r.Processes) == 0 {
		add(len(r.Mounts), func(i int) string { return printable(r.Mounts[i]) })
		add(len(r.Files), func(i int) string { return r.Files[i] })
	}
	return strings.Join(who, " ")
}

func (c *container) String() string {
	if c.Pod != nil {
		return "pod " + printable(c.Pod.Namespace+"/"+c.Pod.Name)
	}
	id := c.ID
	if containerCgroup.MatchString(id) {
		id = id[:12]
	}
	return "container " + printable(id)
}
