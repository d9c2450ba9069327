package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An attachment is an entry of the CNI library's cache: what a runtime asked
// for and got. It names the pod in the same words for every CRI runtime.
type attachment struct {
	container string
	network   string
	netns     string
	pod       *pod
	none      bool // the none plugin, exclusive, made it
	written   time.Time
	uid       uint32 // the owner of the record
}

// readAttachment reads a file of the cache (libcni, cachedInfo).
func readAttachment(f *record) (*attachment, error) {
	var c struct {
		Kind        string      `json:"kind"`
		ContainerID string      `json:"containerId"`
		Config      []byte      `json:"config"`
		NetworkName string      `json:"networkName"`
		NetNS       string      `json:"netns"`
		CNIArgs     [][2]string `json:"cniArgs"`
		Result      struct {
			Interfaces []struct {
				Sandbox string `json:"sandbox"`
			} `json:"interfaces"`
		} `json:"result"`
	}
	if err := json.Unmarshal(f.text, &c); err != nil {
		return nil, err
	}
	if c.Kind != "cniCacheV1" {
		return nil, fmt.Errorf("%s: kind %q", f.path, c.Kind)
	}
	args := map[string]string{}
	for _, kv := range c.CNIArgs {
		args[kv[0]] = kv[1]
	}
	id := c.ContainerID
	if m := containerCgroup.FindStringSubmatch(id); m != nil {
		id = m[1] // nerdctl puts its own namespace before the id
	}
	a := &attachment{container: id, network: c.NetworkName, netns: c.NetNS, none: isNone(c.Config), written: f.written, uid: f.uid}
	for _, i := range c.Result.Interfaces {
		if a.netns == "" { // podman 4 leaves it out
			a.netns = i.Sandbox
		}
	}
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

// find returns the number of the namespace that the attachment is about, or 0.
// The record may be older than what is at its path now, and speaks only of what
// its writer has. Nothing is opened for it.
func (a *attachment) find(s *scan) uint64 {
	pid, ok := pidOfPath(a.netns)
	if !ok {
		names := s.mountPoints[a.uid]
		if inode, ok := names[a.netns]; ok {
			return inode
		}
		// containerd calls /run by its old name; mountinfo has the true one.
		rest, _ := strings.CutPrefix(a.netns, "/var")
		return names[rest]
	}
	if a.uid != 0 && !a.hasProcess(pid) {
		return 0
	}
	// nerdctl names a container's process. If that is younger than the record,
	// it is not the one that the record is about.
	started, err := startedAt(pid)
	if err != nil || started.After(a.written.Add(time.Second)) {
		return 0
	}
	return netInodeAt(a.netns)
}

// hasProcess says whether the process is one of the record's writer, or of a
// user namespace that the writer made.
func (a *attachment) hasProcess(pid int) bool {
	dir, err := openAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	l := newLimits()
	return l.owner(dir, ".", "").uid == a.uid
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

// resultsIn returns the folder of a CNI cache that has the entries: the
// library's results/, which may be named itself.
func resultsIn(dir string) (string, error) {
	results := filepath.Join(dir, "results")
	if st, err := os.Stat(results); err == nil && st.IsDir() {
		return results, nil
	}
	st, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	if st.IsDir() && filepath.Base(filepath.Clean(dir)) == "results" {
		return dir, nil
	}
	return "", fmt.Errorf("%s is no CNI cache: there is no directory results in it", printable(dir))
}
