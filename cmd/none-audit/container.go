package main

import (
	"regexp"
	"slices"
	"strings"
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

func (p *pod) String() string { return p.Namespace + "/" + p.Name }

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

// containerID reads /proc/PID/cgroup (cgroups(7)). Where containers are nested,
// the innermost counts.
func containerID(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		if len(line) < 64 {
			continue // mostly, and what follows takes longer
		}
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

func (c *container) String() string {
	if c.Pod != nil {
		return "pod " + printable(c.Pod.String())
	}
	id := c.ID
	if containerCgroup.MatchString(id) {
		id = id[:12]
	}
	return "container " + printable(id)
}
