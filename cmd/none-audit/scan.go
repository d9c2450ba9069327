package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
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

	ways []way // ways in, the first that works will do
}

// A process has at least one thread in the namespace.
type process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
}

// scan is what a walk through /proc found.
type scan struct {
	nsfs        [2]uint32 // the device number of the file system that all namespaces are in
	namespaces  map[uint64]*namespace
	inContainer map[string][]uint64 // container id, by cgroup: the namespaces of its processes
	mountPoints map[string]uint64   // bind mounts by the path that a runtime would call them
	unreadable  []int               // processes that this one may not look at
}

// A way leads to a namespace: a file below the root directory of a process.
// Everything found under another process's root is somebody else's to move
// about, so the way is checked again when it is walked.
type way struct {
	root  string // "/proc/PID/root", or "" for a path of our own
	path  string
	mount bool // it leads over a bind mount
}

const (
	maxWays  = 4       // ways of each kind to remember; processes end between the walk and the look
	maxState = 8 << 20 // no record or state file that belongs to a container is longer
)

// openNamespace opens what the way leads to if it is a network namespace. It
// opens nothing else: an O_PATH descriptor calls no driver and no fifo blocks it.
func (w way) openNamespace() (f *os.File, inode uint64, err error) {
	fd, err := w.find()
	if err != nil {
		return nil, 0, err
	}
	defer unix.Close(fd)
	ns, err := netns.FromFD(fd)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", w.path, err)
	}
	return os.NewFile(uintptr(ns.FD()), w.path), ns.ID().Ino, nil
}

const resolveCached = 0x20 // RESOLVE_CACHED, include/uapi/linux/openat2.h

func (w way) find() (int, error) {
	if w.root == "" {
		return retryOpen(func() (int, error) { return unix.Open(w.path, unix.O_PATH|unix.O_CLOEXEC, 0) })
	}
	root, err := retryOpen(func() (int, error) {
		return unix.Open(w.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	// The kernel names mount points without links, and has what is on the way to
	// one in its cache: no server needs to be asked, nor the FUSE program of
	// somebody who would like us to wait.
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | resolveCached,
	}
	fd, err := retryOpen(func() (int, error) { return unix.Openat2(root, w.path, &how) })
	if errors.Is(err, unix.EINVAL) { // RESOLVE_CACHED came with Linux 5.12
		how.Resolve &^= resolveCached
		fd, err = retryOpen(func() (int, error) { return unix.Openat2(root, w.path, &how) })
	}
	return fd, err
}

// retryOpen repeats what was interrupted, or raced with a rename (openat2(2), EAGAIN).
func retryOpen(open func() (int, error)) (fd int, err error) {
	for range 16 {
		fd, err = open()
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return fd, err
}

// netInode reads a link as the kernel writes it: "net:[4026531833]".
func netInode(link string) (uint64, bool) {
	s, ok := strings.CutPrefix(link, "net:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return n, err == nil
}

// gone says that an error means no more than that a process has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// scanMachine walks /proc once: the threads of every process, its open files,
// and the mounts of every mount namespace.
func scanMachine() (*scan, error) {
	self, err := os.Readlink("/proc/self") // os.Getpid, as this /proc counts
	if err != nil {
		return nil, fmt.Errorf("read /proc: %w", err)
	}
	entries, err := readNames("/proc")
	if err != nil {
		return nil, err
	}
	s := &scan{namespaces: map[uint64]*namespace{}, inContainer: map[string][]uint64{}, mountPoints: map[string]uint64{}}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, "/proc/self/ns/net", 0, unix.STATX_INO, &st); err != nil {
		return nil, fmt.Errorf("stat /proc/self/ns/net: %w", err)
	}
	s.nsfs = [2]uint32{st.Dev_major, st.Dev_minor}
	mountsSeen := map[string]bool{}
	own, _ := os.Readlink("/proc/self/ns/mnt")
	first, _ := os.Readlink("/proc/1/ns/mnt")
	for _, name := range entries {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		dir := "/proc/" + name
		err = s.addThreads(dir, pid, name == self)
		if err == nil && name != self {
			err = s.addFiles(dir)
		}
		if mnt, linkErr := os.Readlink(dir + "/ns/mnt"); err == nil && linkErr == nil && !mountsSeen[mnt] {
			if err = s.addMounts(dir, mnt == own || mnt == first); err == nil {
				mountsSeen[mnt] = true
			}
		}
		if err != nil && !gone(err) {
			s.unreadable = append(s.unreadable, pid)
		}
	}
	s.markHost()
	return s, nil
}

// at returns the namespace with this number, and remembers a way to it.
func (s *scan) at(inode uint64, w way) *namespace {
	ns := s.namespaces[inode]
	if ns == nil {
		ns = &namespace{inode: inode}
		s.namespaces[inode] = ns
	}
	alike := 0
	for _, other := range ns.ways {
		if other.mount == w.mount {
			alike++
		}
	}
	switch {
	case alike >= maxWays:
	case w.mount:
		ns.ways = append(ns.ways, w)
	default: // before the mounts, see unpin
		ns.ways = append([]way{w}, ns.ways...)
	}
	return ns
}

// addThreads notes where the threads of a process are. Mostly they are all in
// one namespace; a program that works on several has them in several, and the
// main thread may have ended. Our own other threads do not count: they are
// where they look.
func (s *scan) addThreads(dir string, pid int, self bool) error {
	var tids []string
	if self {
		tids = []string{strconv.Itoa(pid)}
	} else {
		var err error
		if tids, err = readNames(dir + "/task"); err != nil {
			return err
		}
	}
	var p process
	var id string
	var failed error
	seen := map[uint64]bool{}
	for _, tid := range tids {
		path := dir + "/task/" + tid + "/ns/net"
		link, err := os.Readlink(path)
		if err != nil {
			if !gone(err) {
				failed = err
			}
			continue
		}
		inode, ok := netInode(link)
		if !ok || seen[inode] {
			continue
		}
		seen[inode] = true
		if p.PID == 0 {
			comm, _ := os.ReadFile(dir + "/comm")
			p = process{pid, strings.TrimSuffix(string(comm), "\n")}
			id = cgroupContainer(dir)
		}
		ns := s.at(inode, way{path: path})
		ns.processes = append(ns.processes, p)
		if id != "" && !slices.Contains(s.inContainer[id], inode) {
			s.inContainer[id] = append(s.inContainer[id], inode)
		}
	}
	if p.PID == 0 {
		return failed
	}
	return nil
}

// addFiles notes the namespaces that a process keeps open.
func (s *scan) addFiles(dir string) error {
	fds, err := readNames(dir + "/fd")
	if err != nil {
		return err
	}
	for _, fd := range fds {
		path := dir + "/fd/" + fd
		link, err := os.Readlink(path)
		if err != nil {
			continue
		}
		inode, ok := netInode(link)
		if !ok && strings.HasPrefix(link, "/") {
			inode, ok = s.mountedInode(dir, fd)
		}
		if ok {
			ns := s.at(inode, way{path: path})
			ns.files = append(ns.files, path)
		}
	}
	return nil
}

// firstInode is the lowest inode number of a namespace: the initial ones are
// just below PROC_DYNAMIC_FIRST, all others above (include/uapi/linux/nsfs.h,
// fs/proc/generic.c).
const firstInode = 0xeffffff0

// mountedInode is for a file that was opened by the path of a bind mount and is
// called by it. Most files that have a path are no namespaces, and one may be on
// a server that does not answer, which even stat(2) through /proc would wait for.
// So the number comes first, from where nobody is asked (proc_pid_fdinfo(5)).
func (s *scan) mountedInode(dir, fd string) (uint64, bool) {
	info, err := os.ReadFile(dir + "/fdinfo/" + fd)
	if err != nil {
		return 0, false
	}
	_, after, ok := strings.Cut(string(info), "\nino:\t") // since Linux 5.14
	number, _, _ := strings.Cut(after, "\n")
	if n, err := strconv.ParseUint(number, 10, 64); ok && (err != nil || n < firstInode || n > math.MaxUint32) {
		return 0, false
	}
	path := dir + "/fd/" + fd
	var st unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_INO, &st)
	if err != nil || st.Dev_major != s.nsfs[0] || st.Dev_minor != s.nsfs[1] {
		return 0, false
	}
	f, inode, err := way{path: path}.openNamespace()
	if err != nil {
		return 0, false
	}
	f.Close()
	return inode, true
}

// addMounts notes the namespaces that are bind-mounted where this process sees
// them. A mount namespace can be another than ours: a container's, a service's
// with private mounts, or the one of rootless podman. Only in ours and process
// 1's do paths mean what a runtime's records mean by them.
func (s *scan) addMounts(dir string, seenByRuntimes bool) error {
	f, err := os.Open(dir + "/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		inode, path, ok := nsfsMount(lines.Text())
		if !ok {
			continue
		}
		if seenByRuntimes {
			s.mountPoints[path] = inode
		}
		ns := s.at(inode, way{root: dir + "/root", path: path, mount: true})
		if !slices.Contains(ns.mounts, path) {
			ns.mounts = append(ns.mounts, path)
		}
	}
	return lines.Err()
}

// nsfsMount reads a line of mountinfo (proc_pid_mountinfo(5)):
//
//	ID PARENT MAJOR:MINOR net:[4026532245] /run/netns/x rw shared:4 - nsfs nsfs rw
func nsfsMount(line string) (inode uint64, path string, ok bool) {
	before, after, _ := strings.Cut(line, " - ")
	if !strings.HasPrefix(after, "nsfs ") {
		return 0, "", false
	}
	fields := strings.Fields(before)
	if len(fields) < 5 {
		return 0, "", false
	}
	inode, ok = netInode(fields[3])
	return inode, unescapeMount(fields[4]), ok
}

// unescapeMount undoes the kernel's \040 for a space, a tab, a newline and a
// backslash (fs/proc_namespace.c, show_mountinfo).
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// markHost finds the machine's own namespace: process 1's or, where that may
// not be read, the one that this program was started in.
func (s *scan) markHost() {
	for _, path := range []string{"/proc/1/ns/net", "/proc/self/ns/net"} {
		link, err := os.Readlink(path)
		if err != nil {
			continue
		}
		if inode, ok := netInode(link); ok {
			s.at(inode, way{path: path}).host = true
			return
		}
	}
}

// open opens the namespace by the first way that still leads there. The error
// is one that gone knows where nothing leads there any more.
func (ns *namespace) open() (*os.File, error) {
	err := error(fs.ErrNotExist)
	for _, w := range ns.ways {
		f, inode, openErr := w.openNamespace()
		switch {
		case openErr != nil:
			if !gone(openErr) {
				err = openErr
			}
		case inode != ns.inode: // the process moved on, or the pid is another's
			f.Close()
		case w.mount:
			return unpin(f), nil
		default:
			return f, nil
		}
	}
	return nil, err
}

// unpin lets go of the mount that a namespace was opened over. While a file is
// open over it, umount(2) without MNT_DETACH fails with EBUSY, and an audit must
// not stand in the way of a runtime that cleans up. A file that was opened
// through a thread in the namespace is on no mount that anybody can unmount.
// Where this is not allowed, the survey will not be either, and will say so.
func unpin(f *os.File) *os.File {
	ns, err := netns.FromFD(int(f.Fd()))
	if err != nil {
		return f
	}
	defer ns.Close()
	free := f
	_ = ns.Do(func() error {
		if g, err := os.Open("/proc/thread-self/ns/net"); err == nil {
			free = g
			f.Close()
		}
		return nil
	})
	return free
}

// readNames lists a directory without a stat for each entry.
func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// readBounded reads a file that another program wrote.
func readBounded(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxState {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, maxState)
	}
	return io.ReadAll(io.LimitReader(f, maxState))
}
