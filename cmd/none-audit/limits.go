package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// One user can make more mounts and open files than a walk has time for: mounts
// in a user namespace of its own, a million descriptors that hundreds of
// processes share. What is looked at is bounded for each user, so that it costs
// others nothing, and what goes beyond is reported. Root outside containers could
// end this program, and is not counted.
const (
	maxMounts = 20_000
	maxFiles  = 100_000
	freeFiles = 64 // a process with no more is not asked whose it is
)

// owner is who answers for what is found. Below our own user namespace that is
// the user who made the outermost one: users in there cost nothing. If root made
// it, for a pod with users of its own, the namespace itself answers.
type owner struct {
	uid       uint32
	users     uint64 // a user namespace that root made, or 0
	container string
}

func (o owner) String() string {
	s := "uid " + strconv.Itoa(int(o.uid))
	if o.users != 0 {
		s += fmt.Sprintf(" in user:[%d]", o.users)
	}
	if o.container != "" {
		s += " in container " + o.container[:min(12, len(o.container))]
	}
	return s
}

func (o owner) trusted() bool { return o == owner{} }

// limits counts what each owner has.
type limits struct {
	fs     *procfs          // its own, as what a walker reads is still in use
	users  uint64           // our own user namespace
	makers map[uint64]owner // of user namespaces
	used   map[string]int
	over   map[string]bool // what is more
}

func newLimits() limits {
	l := limits{fs: &procfs{text: make([]byte, 256)}, makers: map[uint64]owner{}, used: map[string]int{}, over: map[string]bool{}}
	if link, err := l.fs.link(unix.AT_FDCWD, "/proc/self/ns/user"); err == nil {
		l.users, _ = inodeOf(link, "user")
	}
	return l
}

func (l *limits) exceed(what string) { l.over[what] = true }

// exceeded says what was not looked at.
func (l *limits) exceeded() []string { return slices.Sorted(maps.Keys(l.over)) }

// tally counts things of one kind that an owner has.
type tally struct {
	limits          *limits
	dir             int
	thread, id      string
	limit, n        int
	what            string
	known, trusting bool
	owner           owner
}

func (l *limits) tally(dir int, thread, id string, limit int, what string) *tally {
	return &tally{limits: l, dir: dir, thread: thread, id: id, limit: limit, what: what}
}

// another counts one more and says whether it is to be looked at.
func (t *tally) another() bool {
	t.n++
	if t.trusting || t.what == "open files" && t.n <= freeFiles {
		return true
	}
	if !t.known {
		t.known = true
		t.owner = t.limits.owner(t.dir, t.thread, t.id)
		if t.trusting = t.owner.trusted(); t.trusting {
			return true
		}
	}
	key := t.owner.String() + t.what
	if t.limits.used[key]++; t.limits.used[key] <= t.limit {
		return true
	}
	t.limits.exceed(fmt.Sprintf("more than %d %s by %v", t.limit, t.what, t.owner))
	return false
}

// owner finds out whose a process is.
func (l *limits) owner(dir int, thread, id string) owner {
	var users uint64
	if link, err := l.fs.link(dir, thread+"/ns/user"); err == nil {
		users, _ = inodeOf(link, "user")
	}
	if users != l.users && users != 0 {
		if maker, ok := l.maker(dir, thread, users); ok {
			return maker
		}
	}
	var st unix.Stat_t
	// The directory's owner is the effective user, also where the process may not
	// be traced (fs/proc/base.c, task_dump_owner).
	if unix.Fstat(dir, &st) != nil {
		return owner{uid: ^uint32(0)}
	}
	return owner{uid: st.Uid, container: id}
}

// maker returns who made the user namespace of a thread.
func (l *limits) maker(dir int, thread string, users uint64) (owner, bool) {
	if maker, ok := l.makers[users]; ok {
		return maker, true
	}
	fd, err := openAt(dir, thread+"/ns/user", unix.O_RDONLY)
	if err != nil {
		return owner{}, false
	}
	maker, err := makerOf(fd, l.users)
	if err != nil {
		return owner{}, false
	}
	l.makers[users] = maker
	return maker, true
}

// makerOf goes from a user namespace, whose descriptor it closes, to the last
// one below ours (ioctl_ns(2)), and says who made that.
func makerOf(fd int, ours uint64) (owner, error) {
	defer func() { unix.Close(fd) }()
	for {
		parent, err := unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		if err != nil { // EPERM: it is outside of what we may know
			return ownerOf(fd)
		}
		inode, err := inodeOfFD(parent)
		if err != nil || inode == ours {
			unix.Close(parent)
			return ownerOf(fd)
		}
		unix.Close(fd)
		fd = parent
	}
}

func ownerOf(fd int) (owner, error) {
	uid, err := unix.IoctlGetUint32(fd, unix.NS_GET_OWNER_UID)
	if err != nil || uid != 0 {
		return owner{uid: uid}, err
	}
	inode, err := inodeOfFD(fd)
	return owner{users: inode}, err
}

func inodeOfFD(fd int) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Ino, err
}
