package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A container is known by what three kinds of record say: the cgroup of a
// process, runc's state, and the CNI cache. All of them are files, so that
// finding a pod's name needs neither a CRI client nor a socket that can do more
// than look.
type container struct {
	ID  string `json:"id"`
	Pod *pod   `json:"pod,omitempty"`
}

type pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
}

// The annotations by which containerd and CRI-O mark the containers of a pod
// (containerd pkg/cri/annotations, CRI-O pkg/annotations).
var podAnnotations = [][3]string{
	{"io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.sandbox-uid"},
	{"io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.pod.uid"},
}

func podOf(get func(key string) string) *pod {
	for _, keys := range podAnnotations {
		if name := get(keys[1]); name != "" {
			return &pod{get(keys[0]), name, get(keys[2])}
		}
	}
	return nil
}

// containerCgroup finds a container's id in a cgroup path, in the forms that
// docker, podman, CRI-O, containerd and nerdctl give it:
// /docker/ID, libpod-ID.scope, crio-ID.scope, /kubepods/podUID/ID,
// x.slice:cri-containerd:ID, nerdctl-ID.scope.
var containerCgroup = regexp.MustCompile(`(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?:/|$)`)

// cgroupContainer returns the id of the container that a process is in, or "".
func cgroupContainer(procDir string) string {
	b, err := os.ReadFile(procDir + "/cgroup")
	if err != nil {
		return ""
	}
	return containerID(string(b))
}

// containerID reads /proc/PID/cgroup (cgroups(7)). Where containers are nested,
// the innermost counts.
func containerID(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) < 3 {
			continue
		}
		elements := strings.Split(parts[2], "/")
		for _, e := range slices.Backward(elements) {
			// A container's monitor has the container's id in its cgroup, and is no part of it.
			if m := containerCgroup.FindStringSubmatch(e); m != nil && !strings.Contains(e, "conmon") {
				return m[1]
			}
		}
	}
	return ""
}

// runcRoots are where runc keeps a folder per container for docker, containerd
// (one more level, by containerd's namespace), podman, CRI-O and by itself.
var runcRoots = []string{"/run/runc", "/run/containerd/runc/*", "/run/docker/runtime-runc/*", "/run/user/*/runc"}

// runcState is what we read of runc's state.json (libcontainer.State).
type runcState struct {
	ID     string `json:"id"`
	Pid    int    `json:"init_process_pid"`
	Start  uint64 `json:"init_process_start"`
	Config struct {
		Labels []string `json:"labels"` // key=value: the annotations of the OCI bundle
	} `json:"config"`
}

func readRunc(path string) (runcState, error) {
	var s runcState
	b, err := readBounded(path)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

func (s *runcState) label(key string) string {
	for _, l := range s.Config.Labels {
		if v, ok := strings.CutPrefix(l, key+"="); ok {
			return v
		}
	}
	return ""
}

// An attachment is an entry of the CNI library's cache: what a runtime asked
// for and got. It names the pod in the same words for every CRI runtime.
type attachment struct {
	container string
	network   string
	netns     string
	pod       *pod
	none      bool // the none plugin, exclusive, made it
	written   time.Time
}

// readAttachment reads a file of the cache (libcni, cachedInfo).
func readAttachment(path string, written time.Time) (*attachment, error) {
	b, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	var c struct {
		Kind        string      `json:"kind"`
		ContainerID string      `json:"containerId"`
		Config      []byte      `json:"config"`
		NetworkName string      `json:"networkName"`
		NetNS       string      `json:"netns"`
		CNIArgs     [][2]string `json:"cniArgs"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	if c.Kind != "cniCacheV1" {
		return nil, fmt.Errorf("%s: kind %q", path, c.Kind)
	}
	args := map[string]string{}
	for _, kv := range c.CNIArgs {
		args[kv[0]] = kv[1]
	}
	id := c.ContainerID
	if m := containerCgroup.FindStringSubmatch(id); m != nil {
		id = m[1] // nerdctl puts its own namespace before the id
	}
	a := &attachment{container: id, network: c.NetworkName, netns: c.NetNS, none: isNone(c.Config), written: written}
	if name := args["K8S_POD_NAME"]; name != "" {
		a.pod = &pod{args["K8S_POD_NAMESPACE"], name, args["K8S_POD_UID"]}
	}
	return a, nil
}

// isNone says whether a network's configuration promises isolation: the none
// plugin in it, without "exclusive": false.
func isNone(config []byte) bool {
	type plugin struct {
		Type      string `json:"type"`
		Exclusive *bool  `json:"exclusive"`
	}
	var conf struct {
		plugin
		Plugins []plugin `json:"plugins"`
	}
	if json.Unmarshal(config, &conf) != nil {
		return false
	}
	for _, p := range append(conf.Plugins, conf.plugin) {
		if p.Type == "none" && (p.Exclusive == nil || *p.Exclusive) {
			return true
		}
	}
	return false
}

// A cached file is read again when it has changed.
type cached[T any] struct {
	size    int64
	modTime time.Time
	value   T
	seen    bool
}

// files remembers the records of one kind between two looks.
type files[T any] struct {
	read  func(path string, modTime time.Time) (T, error)
	known map[string]*cached[T]
}

// load returns what the files that match the patterns say. A file that cannot
// be read is left out: it is being written, or gone, or not what it seems.
func (f *files[T]) load(patterns ...string) []T {
	if f.known == nil {
		f.known = map[string]*cached[T]{}
	}
	for _, c := range f.known {
		c.seen = false
	}
	var all []T
	for _, pattern := range patterns {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			st, err := os.Stat(path)
			if err != nil {
				continue
			}
			c := f.known[path]
			if c == nil || c.size != st.Size() || !c.modTime.Equal(st.ModTime()) {
				value, err := f.read(path, st.ModTime())
				if err != nil {
					continue
				}
				c = &cached[T]{size: st.Size(), modTime: st.ModTime(), value: value}
				f.known[path] = c
			}
			c.seen = true
			all = append(all, c.value)
		}
	}
	for path, c := range f.known {
		if !c.seen {
			delete(f.known, path)
		}
	}
	return all
}

// records reads the sources again and again.
type records struct {
	from        *sources
	states      files[runcState]
	attachments files[*attachment]
}

func newRecords(from *sources) *records {
	return &records{
		from:        from,
		states:      files[runcState]{read: func(path string, _ time.Time) (runcState, error) { return readRunc(path) }},
		attachments: files[*attachment]{read: readAttachment},
	}
}

// annotate gives the namespaces of a scan their containers and pods, and marks
// those that ought to be isolated.
func (r *records) annotate(s *scan) {
	var roots []string
	for _, dir := range append(runcRoots[:len(runcRoots):len(runcRoots)], r.from.runc...) {
		roots = append(roots, filepath.Join(dir, "*", "state.json"))
	}
	pods := map[string]*pod{}
	for _, st := range r.states.load(roots...) {
		// The annotations are true of the container whatever became of its first process.
		if p := podOf(st.label); p != nil {
			pods[st.ID] = p
		}
		if start, err := startTime(st.Pid); err != nil || start != st.Start {
			continue // it has ended, and its pid may be another's
		}
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", st.Pid))
		if inode, ok := netInode(link); err == nil && ok {
			if !slices.Contains(s.inContainer[st.ID], inode) {
				s.inContainer[st.ID] = append(s.inContainer[st.ID], inode)
			}
		}
	}
	for _, a := range r.attachments.load(filepath.Join(r.from.cniCache, "results", "*")) {
		if a.pod != nil && pods[a.container] == nil {
			pods[a.container] = a.pod
		}
		ns := s.namespaces[a.find(s)]
		if ns == nil || ns.host {
			continue
		}
		if !slices.Contains(s.inContainer[a.container], ns.inode) {
			s.inContainer[a.container] = append(s.inContainer[a.container], ns.inode)
		}
		if a.none {
			ns.claimed = "network " + a.network
		}
	}
	for id, inodes := range s.inContainer {
		for _, inode := range inodes {
			if ns := s.namespaces[inode]; ns != nil {
				ns.containers = append(ns.containers, &container{id, pods[id]})
			}
		}
	}
	for _, ns := range s.namespaces {
		slices.SortFunc(ns.containers, func(a, b *container) int { return strings.Compare(a.ID, b.ID) })
		slices.SortFunc(ns.processes, func(a, b process) int { return a.PID - b.PID })
	}
}

// find returns the number of the namespace that the attachment is about, or 0.
// The record may be older than what is at its path now. Nothing is opened for it.
func (a *attachment) find(s *scan) uint64 {
	pid, ok := pidOfPath(a.netns)
	if !ok {
		if inode, ok := s.mountPoints[a.netns]; ok {
			return inode
		}
		// containerd calls /run by its old name; mountinfo has the true one.
		rest, _ := strings.CutPrefix(a.netns, "/var")
		return s.mountPoints[rest]
	}
	// nerdctl names a container's process. If that is younger than the record,
	// it is not the one that the record is about.
	started, err := startedAt(pid)
	if err != nil || started.After(a.written.Add(time.Second)) {
		return 0
	}
	link, _ := os.Readlink(a.netns)
	inode, _ := netInode(link)
	return inode
}

// pidOfPath reads /proc/PID/ns/net and /proc/PID/task/TID/ns/net.
func pidOfPath(path string) (pid int, ok bool) {
	s, ok := strings.CutPrefix(filepath.Clean(path), "/proc/")
	if !ok {
		return 0, false
	}
	s, _, _ = strings.Cut(s, "/")
	pid, err := strconv.Atoi(s)
	return pid, err == nil
}

// startTime returns when a process started, in clock ticks since boot: the pid
// and this together name a process for good (proc_pid_stat(5), field 22).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command in parentheses may hold spaces and parentheses.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	const start = 22 - 3 // the first field after the command is number 3
	if len(fields) <= start {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	return strconv.ParseUint(fields[start], 10, 64)
}

// userHz is what the kernel counts clock ticks in for user space, on every
// architecture that Go runs on (include/asm-generic/param.h).
const userHz = 100

func startedAt(pid int) (time.Time, error) {
	ticks, err := startTime(pid)
	if err != nil {
		return time.Time{}, err
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, err
	}
	age := time.Duration(boot.Nano()) - time.Duration(ticks)*time.Second/userHz
	return time.Now().Add(-age), nil
}
