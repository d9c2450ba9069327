package main

import (
	"fmt"
	"slices"
	"strings"
)

// records reads the sources again and again.
type records struct {
	from    *sources
	readers map[string]*reader // by what they read
}

func newRecords(from *sources) *records {
	return &records{from: from, readers: map[string]*reader{}}
}

// annotate gives the namespaces of a scan their containers and pods, and marks
// those that ought to be isolated.
func (r *records) annotate(s *scan) {
	now := map[string]*reader{}
	for _, fresh := range r.from.readers() { // users come and go
		key := fmt.Sprint(fresh.runc, fresh.caches)
		if now[key] = r.readers[key]; now[key] == nil {
			now[key] = fresh
		}
	}
	r.readers = now
	for _, reader := range now {
		f := reader.read(s.skip)
		for _, st := range f.states {
			s.addState(st)
		}
		for _, a := range f.attachments {
			s.addAttachment(a)
		}
	}
	slices.Sort(s.skipped)
	for id, inodes := range s.inContainer {
		for inode := range inodes {
			if ns := s.namespaces[inode]; ns != nil {
				ns.containers = append(ns.containers, &container{id, s.pods[id]})
			}
		}
	}
	for _, ns := range s.namespaces {
		slices.SortFunc(ns.containers, func(a, b *container) int { return strings.Compare(a.ID, b.ID) })
		slices.SortFunc(ns.processes, func(a, b process) int { return a.PID - b.PID })
	}
}

func (s *scan) skip(what string) {
	if !slices.Contains(s.skipped, what) {
		s.skipped = append(s.skipped, what)
	}
}

func (s *scan) addState(st *runcState) {
	// The annotations are true of the container whatever became of its first process.
	if p := podOf(st.label); p != nil {
		s.pods[st.ID] = p
	}
	if name := st.label("nerdctl/name"); name != "" {
		s.name(st.ID, name)
	}
	if inode := st.inode(); inode != 0 {
		s.hold(st.ID, inode)
	}
}

func (s *scan) addAttachment(a *attachment) {
	if a.pod != nil && s.pods[a.container] == nil {
		s.pods[a.container] = a.pod
	}
	ns := s.namespaces[a.find(s)]
	if ns == nil || ns.host {
		return
	}
	s.hold(a.container, ns.inode)
	if a.none {
		ns.claimed = "network " + a.network
	}
}

// name notes what a container is called.
func (s *scan) name(id, name string) {
	if !slices.Contains(s.names[name], id) {
		s.names[name] = append(s.names[name], id)
	}
}
