package kubernetes

import (
	"os/exec"
	"regexp"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// likeDocker compares what the pod sees with what Docker's own none network
// shows, from the same image.
func (c *node) likeDocker(t *testing.T) {
	machine.Here().Daemon(t, "", "dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false",
		"--containerd=/run/containerd/containerd.sock", "--cgroup-parent="+cgroup(), "--exec-opt=native.cgroupdriver=cgroupfs",
		"--oom-score-adjust=0", "--default-ulimit=nofile=1024:1024")
	harness.Until(t, "docker answers", func() bool { return exec.Command("docker", "version").Run() == nil })
	c.run(t, "docker", "load", "--input", c.images)
	for name, look := range map[string]string{
		"links and addresses": "ip address",
		"routes":              "ip route",
		"IPv4 routing":        "cat /proc/net/fib_trie",
		"counters":            "cut -d: -f1 /proc/net/dev",
		"connect":             "nc -w 10 10.0.0.2 6443 2>&1 || true",
	} {
		docker := c.run(t, "docker", "run", "--rm", "--network=none", "busybox:1.35.0", "sh", "-c", look)
		pod := c.Exec(t, "hermetic", "sh", "-c", look)
		if name == "links and addresses" {
			// The difference that the documentation lists: ::1.
			pod = regexp.MustCompile(`\n +inet6 ::1/128 .*\n.*`).ReplaceAllString(pod, "")
		}
		if docker != pod {
			t.Errorf("%s: docker run --network none shows\n%s\nand the pod\n%s", name, docker, pod)
		}
	}
}
