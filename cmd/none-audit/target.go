package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// find returns the namespaces that a person means: one of a path, all of a pod,
// or all that a process's threads or a container's processes are in.
func (s *scan) find(target string) ([]uint64, error) {
	if strings.Contains(target, "/") {
		if inodes := s.ofPod(target); inodes != nil {
			return inodes, nil
		}
		return s.ofPath(target)
	}
	// A pid has at most 7 digits (PID_MAX_LIMIT is 4194304).
	if pid, err := strconv.Atoi(target); err == nil && pid > 0 && len(target) <= 7 {
		return s.ofProcess(pid)
	}
	return s.ofContainer(target)
}

func (s *scan) ofPath(path string) ([]uint64, error) {
	w := way{path: path, mount: true}
	n, err := w.open()
	if err != nil {
		if gone(err) && !strings.HasPrefix(path, "/") && strings.Count(path, "/") == 1 {
			return nil, errors.New("no such file, and no running pod of this namespace and name")
		}
		return nil, err
	}
	defer n.Close()
	inode := n.ID().Ino
	if s.namespaces[inode] == nil {
		s.namespaces[inode] = &namespace{inode: inode}
	}
	s.namespaces[inode].addWay(w)
	return []uint64{inode}, nil
}

// ofPod finds a pod as namespace/name.
func (s *scan) ofPod(target string) []uint64 {
	found := map[uint64]bool{}
	for id, p := range s.pods {
		if p.String() == target {
			maps.Copy(found, s.inContainer[id])
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (s *scan) ofProcess(pid int) ([]uint64, error) {
	if slices.Contains(s.unreadable, pid) {
		return nil, errors.New("this process may not be looked at")
	}
	if len(s.ofPID[pid]) == 0 {
		return nil, errors.New("no such process")
	}
	return s.ofPID[pid], nil
}

func (s *scan) ofContainer(target string) ([]uint64, error) {
	if s.inContainer[target] != nil {
		return slices.Sorted(maps.Keys(s.inContainer[target])), nil
	}
	ids := s.running(s.names[target])
	if len(ids) == 0 {
		s.readNames()
		ids = s.running(s.names[target])
	}
	if len(ids) == 0 && len(target) >= 4 {
		for id := range s.inContainer {
			if strings.HasPrefix(id, target) {
				ids = append(ids, id)
			}
		}
	}
	switch {
	case len(ids) > 1:
		return nil, fmt.Errorf("%d containers are called that, or begin with it", len(ids))
	case len(ids) == 0:
		return nil, errNoContainer
	}
	return slices.Sorted(maps.Keys(s.inContainer[ids[0]])), nil
}

var errNoContainer = errors.New("no running container has this id or name")

func (s *scan) running(ids []string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return s.inContainer[id] == nil })
}

// readNames finds out what docker's and podman's containers are called: docker
// keeps a folder for each, podman's monitor has it among its arguments.
func (s *scan) readNames() {
	paths, _ := filepath.Glob("/var/lib/docker/containers/*/config.v2.json")
	for _, path := range paths {
		var c struct{ ID, Name string }
		if r, err := readRecord(path); err == nil && json.Unmarshal(r.text, &c) == nil && c.ID != "" {
			s.name(c.ID, strings.TrimPrefix(c.Name, "/"))
		}
	}
	for _, ns := range s.namespaces {
		for _, p := range ns.processes {
			if p.Command == "conmon" {
				s.nameByMonitor(p.PID)
			}
		}
	}
}

// nameByMonitor reads conmon's arguments: --cid ID and --name NAME, or -c and -n.
// A user's process may call itself conmon, and then names that user's containers
// alone.
func (s *scan) nameByMonitor(pid int) {
	dir, err := openAt(unix.AT_FDCWD, fmt.Sprintf("/proc/%d", pid), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return
	}
	defer unix.Close(dir)
	l := newLimits()
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return
	}
	args := strings.Split(string(line), "\x00")
	var id, name string
	for i, arg := range args[:len(args)-1] {
		switch arg {
		case "-c", "--cid":
			id = args[i+1]
		case "-n", "--name":
			name = args[i+1]
		}
	}
	if id == "" || name == "" || s.inContainer[id] == nil {
		return
	}
	if o := l.owner(dir, ".", ""); o.uid == 0 || s.allOf(id, o.uid, &l) {
		s.name(id, name)
	}
}

// allOf says whether every process of a container is of one user.
func (s *scan) allOf(id string, uid uint32, l *limits) bool {
	for inode := range s.inContainer[id] {
		for _, p := range s.namespaces[inode].processes {
			dir, err := openAt(unix.AT_FDCWD, fmt.Sprintf("/proc/%d", p.PID), unix.O_PATH|unix.O_DIRECTORY)
			if err != nil {
				continue
			}
			o := l.owner(dir, ".", "")
			unix.Close(dir)
			if o.uid != uid {
				return false
			}
		}
	}
	return true
}
