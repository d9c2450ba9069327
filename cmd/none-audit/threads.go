package main

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// visit is a look at one process.
type visit struct {
	*walker
	dir    int    // its directory in /proc
	path   string // and what that is called
	pid    int
	living string // below dir: a thread that has not ended, "." or "task/TID"
	found  process
	id     string // of its container
}

// addThreads notes where the threads of a process are, and what they see
// mounted. Mostly they are all in one namespace; a program that works on several
// has them in several, and the main thread may have ended. Our own other threads
// do not count: they are where they look.
func (v *visit) addThreads() error {
	var st unix.Stat_t
	if err := unix.Fstatat(v.dir, "task", &st, 0); err != nil {
		return err
	}
	// A directory for each thread, beside "." and ".." (fs/proc/base.c,
	// proc_task_getattr): mostly the question is answered by that.
	if st.Nlink == 3 || v.pid == v.self {
		return v.addThread(".")
	}
	var failed error
	err := v.numbersIn(v.dir, "task", func(tid int) {
		thread := "task/" + strconv.Itoa(tid)
		if tid == v.pid {
			thread = "."
		}
		if err := v.addThread(thread); err != nil && !gone(err) {
			failed = err
		}
	})
	if err == nil && v.living == "" {
		err = failed
	}
	return err
}

func (v *visit) addThread(thread string) error {
	link, err := v.link(v.dir, thread+"/ns/net")
	if err != nil {
		return err
	}
	inode, ok := inodeOf(link, "net")
	if !ok {
		return nil
	}
	if v.living == "" {
		v.living = thread
		v.identify()
	}
	if v.noteThread(inode) {
		ns := v.at(inode, way{path: v.name(thread + "/ns/net"), link: true})
		ns.processes = append(ns.processes, v.found)
		if v.late && !ns.host && !ns.keep(v.dir, thread+"/ns/net") {
			v.missed = true
		}
	}
	return v.addMounts(thread)
}

// name is what a file of the process is called.
func (v *visit) name(file string) string { return v.path + "/" + strings.TrimPrefix(file, "./") }

// identify finds out what the process is called and which container it is in.
func (v *visit) identify() {
	comm, _ := v.file(v.dir, "comm")
	v.found = process{v.pid, strings.TrimSuffix(string(comm), "\n")}
	if cgroups, err := v.file(v.dir, "cgroup"); err == nil {
		v.id = containerID(string(cgroups))
	}
}

// noteThread says whether it is the first of the process in that namespace.
func (v *visit) noteThread(inode uint64) bool {
	for _, seen := range v.ofPID[v.pid] {
		if seen == inode {
			return false
		}
	}
	v.ofPID[v.pid] = append(v.ofPID[v.pid], inode)
	if v.id != "" {
		v.hold(v.id, inode)
	}
	return true
}

// hold notes that a container has a process in a namespace.
func (s *scan) hold(id string, inode uint64) {
	if s.inContainer[id] == nil {
		s.inContainer[id] = map[uint64]bool{}
	}
	s.inContainer[id][inode] = true
}
