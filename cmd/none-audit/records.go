package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxRecord  = 8 << 20     // bytes of a record or state file that belongs to a container
	maxRecords = 20_000      // in one directory
	patient    = time.Second // with a directory that takes long to answer
)

// record is a file that another program wrote.
type record struct {
	path    string
	text    []byte
	written time.Time
	uid     uint32
}

// readRecord reads a regular file. What else may lie there is not opened, since
// opening a device may do anything.
func readRecord(path string) (*record, error) {
	name, err := openAt(unix.AT_FDCWD, path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer unix.Close(name)
	var st unix.Stat_t
	if err := unix.Fstat(name, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxRecord {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, maxRecord)
	}
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecord))
	return &record{path, text, time.Unix(st.Mtim.Unix()), st.Uid}, err
}

// files remembers the records of one kind between two looks.
type files[T any] struct {
	read  func(*record) (T, error)
	known map[string]*cached[T]
}

// A cached file is read again when it has changed.
type cached[T any] struct {
	size    int64
	written time.Time
	value   T
	seen    bool
}

// load returns what the files that match the patterns say. A file that cannot
// be read is left out: it is being written, or gone, or not what it seems.
func (f *files[T]) load(patterns []string, skip func(what string)) []T {
	if f.known == nil {
		f.known = map[string]*cached[T]{}
	}
	for _, c := range f.known {
		c.seen = false
	}
	var all []T
	for _, pattern := range patterns {
		paths, _ := filepath.Glob(pattern)
		if len(paths) > maxRecords {
			paths = paths[:maxRecords]
			skip(fmt.Sprintf("more than %d files %s", maxRecords, pattern))
		}
		for _, path := range paths {
			if value, ok := f.one(path); ok {
				all = append(all, value)
			}
		}
	}
	for path, c := range f.known {
		if !c.seen {
			delete(f.known, path)
		}
	}
	return all
}

func (f *files[T]) one(path string) (value T, ok bool) {
	st, err := os.Lstat(path)
	if err != nil {
		return value, false
	}
	c := f.known[path]
	if c == nil || c.size != st.Size() || !c.written.Equal(st.ModTime()) {
		r, err := readRecord(path)
		if err != nil {
			return value, false
		}
		if value, err = f.read(r); err != nil {
			return value, false
		}
		c = &cached[T]{size: st.Size(), written: st.ModTime(), value: value}
		f.known[path] = c
	}
	c.seen = true
	return c.value, true
}

// found is what the records say.
type found struct {
	states      []*runcState
	attachments []*attachment
	skipped     []string
}

// reader reads the records below some directories again and again. It does so
// on the side: a directory may be on a file server that does not answer, and one
// of a user's may be made so that it never does.
type reader struct {
	runc, caches []string // patterns
	states       files[*runcState]
	attachments  files[*attachment]
	last         found
	busy         chan found
}

func newReader(runc, caches []string) *reader {
	return &reader{runc: runc, caches: caches, states: files[*runcState]{read: readRunc}, attachments: files[*attachment]{read: readAttachment}}
}

// read returns what the records say or, where that takes long, what they said
// before, and then says so.
func (r *reader) read(skip func(string)) found {
	if r.busy == nil {
		r.busy = make(chan found, 1)
		go func(done chan<- found) {
			var f found
			note := func(what string) { f.skipped = append(f.skipped, what) }
			f.states = r.states.load(r.runc, note)
			f.attachments = r.attachments.load(r.caches, note)
			done <- f
		}(r.busy)
	}
	late := time.NewTimer(patient)
	defer late.Stop()
	select {
	case r.last = <-r.busy:
		r.busy = nil
	case <-late.C:
		skip("records that take longer than " + patient.String() + " to read: " + strings.Join(append(slices.Clone(r.caches), r.runc...), ", "))
	}
	for _, what := range r.last.skipped {
		skip(what)
	}
	return r.last
}

// sources is where the records lie that give a namespace the name of its
// container and pod. None of them is needed for a verdict.
type sources struct {
	caches []string // of the CNI library, beside the ones that are there by default
	runc   []string
}

// The places where runc keeps a folder per container for docker, containerd
// (one more level, by containerd's namespace), podman, CRI-O and by itself; and
// where the CNI library (or Multus) keeps its results.
var (
	runcRoots = []string{"/run/runc", "/run/containerd/runc/*", "/run/docker/runtime-runc/*"}
	cniCaches = []string{"/var/lib/cni", "/var/lib/cni/multus"}
)

// The same for a user without root, below /run/user/UID and below the home
// directory: podman's and containerd's runc, podman's network namespace for all
// of a user's containers, and what nerdctl mounts as /var/lib/cni.
var (
	userRunc   = []string{"runc", "containerd/runc/*"}
	userCaches = []string{"libpod/tmp/rootless-netns/var/lib/cni", "containers/networks/rootless-netns/var/lib/cni"}
	homeRunc   = []string{".local/share/containers/runc"}
	homeCaches = []string{".local/share/cni", ".config/cni"}
)

// readers returns a reader for what is root's, and one for each user.
func (s *sources) readers() []*reader {
	runc := append(slices.Clone(runcRoots), s.runc...)
	all := []*reader{newReader(below(runc, "*/state.json"), append(below(cniCaches, "results/*"), below(s.caches, "*")...))}
	for _, u := range users() {
		r, h := filepath.Join("/run/user", u.uid), u.home
		all = append(all, newReader(
			append(below(under(r, userRunc), "*/state.json"), below(under(h, homeRunc), "*/state.json")...),
			append(below(under(r, userCaches), "results/*"), below(under(h, homeCaches), "results/*")...)))
	}
	return all
}

func below(dirs []string, name string) []string {
	all := make([]string, len(dirs))
	for i, dir := range dirs {
		all[i] = filepath.Join(dir, name)
	}
	return all
}

func under(dir string, names []string) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = filepath.Join(dir, name)
	}
	return all
}

type user struct{ uid, home string }

// users lists who has an account or a session on this machine. Accounts from
// elsewhere (LDAP) are known by their session.
func users() []user {
	homes := map[string]string{}
	if f, err := os.Open("/etc/passwd"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			// name:password:uid:gid:comment:home:shell (passwd(5))
			fields := strings.Split(lines.Text(), ":")
			if len(fields) == 7 && !strings.HasSuffix(fields[6], "/nologin") && !strings.HasSuffix(fields[6], "/false") && fields[5] != "/" {
				homes[fields[2]] = fields[5]
			}
		}
	}
	sessions, _ := os.ReadDir("/run/user")
	for _, s := range sessions {
		if homes[s.Name()] == "" {
			homes[s.Name()] = "/nonexistent"
		}
	}
	var all []user
	for uid, home := range homes {
		all = append(all, user{uid, home})
	}
	slices.SortFunc(all, func(a, b user) int { return strings.Compare(a.uid, b.uid) })
	return all
}
