package main

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/cni-none/cni-none/internal/netns"
	"golang.org/x/sys/unix"
)

// A namespace is a network namespace and all that was seen to hold it.
type namespace struct {
	inode      uint64 // as in net:[4026531833]; unique while the namespace lives
	host       bool   // the machine's own
	processes  []process
	mounts     []string // bind mounts, as the mount namespace that has them calls them
	files      []string // open files that hold it, as /proc/PID/fd/N
	containers []*container
	claimed    string // why it ought to be isolated, or ""

	ways []way     // ways in, the first that works will do
	held *netns.NS // what was open once, of a namespace that may not be found again
	lost bool      // it could not be kept: what was seen to hold it has ended, or is about to
}

// A process has at least one thread in the namespace.
type process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
}

// scan is what a walk through /proc found.
type scan struct {
	namespaces  map[uint64]*namespace
	inContainer map[string]map[uint64]bool   // container id, by cgroup: the namespaces of its processes
	pods        map[string]*pod              // by container id
	names       map[string][]string          // container ids by the name that a runtime's records give
	mountPoints map[uint32]map[string]uint64 // bind mounts, by the user whose runtimes call them by that path
	ofPID       map[int][]uint64             // where the threads of a process are
	unreadable  []int                        // processes that this one may not look at
	skipped     []string                     // what was more than a walk looks at, and whose it is
}

// walker makes a scan.
type walker struct {
	*scan
	*procfs
	limits
	proc       int       // the directory /proc
	self       int       // our own pid, as this /proc counts
	nsfs       [2]uint32 // the device number of the file system that all namespaces are in
	ownMounts  uint64
	hostMounts uint64
	hostNet    uint64
	mountsSeen map[uint64]bool // mount namespaces
	namesSeen  map[mountName]bool
	pids       map[int]bool
	late       bool // not the first pass
	missed     bool // a process ended before it was looked at
	fresh      bool // a namespace that was not known
}

type mountName struct {
	inode uint64
	path  string
}

// scanMachine walks /proc: the threads of every process, its open files, and the
// mounts of every mount namespace. The caller closes the scan.
func scanMachine() (*scan, error) {
	w, err := newWalker()
	if err != nil {
		return nil, err
	}
	defer unix.Close(w.proc)
	w.markHost()
	if err := w.pass(make([]byte, 32<<10)); err != nil {
		return nil, err
	}
	if err := w.catchUp(); err != nil {
		return nil, err
	}
	for _, what := range w.exceeded() {
		w.skip(what)
	}
	return w.scan, nil
}

func newWalker() (*walker, error) {
	proc, err := openAt(unix.AT_FDCWD, "/proc", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("open /proc: %w", err)
	}
	w := &walker{
		scan: &scan{
			namespaces: map[uint64]*namespace{}, inContainer: map[string]map[uint64]bool{}, names: map[string][]string{}, pods: map[string]*pod{},
			mountPoints: map[uint32]map[string]uint64{}, ofPID: map[int][]uint64{},
		},
		procfs: newProcfs(), proc: proc,
		mountsSeen: map[uint64]bool{}, namesSeen: map[mountName]bool{}, pids: map[int]bool{},
	}
	w.limits = newLimits()
	self, err := w.link(proc, "self") // os.Getpid, as this /proc counts
	if err == nil {
		w.self, err = strconv.Atoi(string(self))
	}
	var st unix.Statx_t
	if err == nil {
		err = unix.Statx(proc, "self/ns/net", 0, unix.STATX_INO, &st)
	}
	if err != nil {
		unix.Close(proc)
		return nil, fmt.Errorf("read /proc: %w", err)
	}
	w.nsfs = [2]uint32{st.Dev_major, st.Dev_minor}
	w.ownMounts = w.inode(proc, "self/ns/mnt", "mnt")
	w.hostMounts = w.inode(proc, "1/ns/mnt", "mnt")
	return w, nil
}

// close lets go of what the scan keeps open.
func (s *scan) close() {
	for _, ns := range s.namespaces {
		ns.letGo()
	}
}

// inode reads the number in a link to a namespace, or 0.
func (w *walker) inode(dir int, name, kind string) uint64 {
	link, err := w.link(dir, name)
	if err != nil {
		return 0
	}
	n, _ := inodeOf(link, kind)
	return n
}

// pass visits the processes that were not seen before, and those that could not be
// looked at: Linux 7.3 refuses that also for one that is about to end. The buffer bounds
// how many are named before they are visited.
func (w *walker) pass(buffer []byte) error {
	for _, pid := range w.unreadable {
		delete(w.pids, pid)
	}
	w.unreadable = nil
	if _, err := unix.Seek(w.proc, 0, unix.SEEK_SET); err != nil {
		return fmt.Errorf("rewind /proc: %w", err)
	}
	w.missed, w.fresh = false, false
	err := w.numbers(w.proc, buffer, func(pid int) {
		if !w.pids[pid] {
			w.pids[pid] = true
			w.visit(pid)
		}
	})
	if err != nil {
		return fmt.Errorf("list /proc: %w", err)
	}
	return nil
}

// maxPasses bounds how often /proc is read again for the sake of processes that
// end before they are looked at.
const maxPasses = 64

// catchUp visits what the first pass has missed: processes that are new, and one
// that forks and exits all the time, which no single pass meets. What is found
// now is kept open, since it may not be found again. Few names at a time make it
// short from the name to the visit.
func (w *walker) catchUp() error {
	w.late = true
	few := make([]byte, 1<<10)
	for range maxPasses {
		before := w.unreadable
		if err := w.pass(few); err != nil {
			return err
		}
		if !w.missed && !w.fresh && slices.Equal(w.unreadable, before) && w.secure() {
			return nil
		}
	}
	if w.missed {
		w.skip("processes that end before they can be looked at")
	}
	return nil
}

// maxSecured bounds the files that secure keeps open.
const maxSecured = 256

// secure keeps the namespaces that only processes hold: the last one may end before
// the look, and leave its namespace to a child that no pass has met. It says whether
// all could be kept. One that could not is left to the next pass, once.
func (w *walker) secure() bool {
	kept, all := 0, true
	for _, ns := range w.namespaces {
		if ns.host || ns.held != nil || ns.lost || len(ns.mounts)+len(ns.files) > 0 {
			continue
		}
		if kept++; kept > maxSecured {
			break
		}
		if n, err := ns.open(); err == nil {
			ns.held = n
		} else {
			ns.lost, all = true, false
		}
	}
	return all
}

// visit looks at a process.
func (w *walker) visit(pid int) {
	name := strconv.Itoa(pid)
	dir, err := openAt(w.proc, name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		w.missed = true
		return
	}
	defer unix.Close(dir)
	v := visit{walker: w, dir: dir, path: "/proc/" + name, pid: pid}
	err = v.addThreads()
	if err == nil && pid != w.self {
		err = v.addFiles()
	}
	switch {
	case err != nil && !gone(err):
		w.unreadable = append(w.unreadable, pid)
	case err != nil || v.living == "":
		w.missed = true // it has ended, and may have left a child that was not there yet
	}
}

// at returns the namespace with this number, and remembers a way to it.
func (w *walker) at(inode uint64, path way) *namespace {
	ns := w.namespaces[inode]
	if ns == nil {
		ns = &namespace{inode: inode, host: inode == w.hostNet}
		w.namespaces[inode] = ns
		w.fresh = true
	}
	ns.addWay(path)
	return ns
}

// markHost finds the machine's own namespace: process 1's or, where that may
// not be read, the one that this program was started in.
func (w *walker) markHost() {
	for _, path := range []string{"1/ns/net", "self/ns/net"} {
		if inode := w.inode(w.proc, path, "net"); inode != 0 {
			w.hostNet = inode
			w.at(inode, way{path: "/proc/" + path, link: true})
			return
		}
	}
}

// inodes returns the namespaces in the order to list them: the machine's own,
// then by number.
func (s *scan) inodes() []uint64 {
	var host, all []uint64
	for inode, ns := range s.namespaces {
		if ns.host {
			host = append(host, inode)
		} else {
			all = append(all, inode)
		}
	}
	slices.Sort(all)
	return append(host, all...)
}
