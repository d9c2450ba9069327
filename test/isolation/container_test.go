package isolation

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/cni-none/cni-none/internal/nstest"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/isolation/spec"
)

// attach does ADD of a network to a namespace through libcni, on the stand-in
// for the host, and undoes it when the test ends.
func (w *world) attach(t *testing.T, n *network, id, netns string) error {
	t.Helper()
	rt := &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: "eth0"}
	t.Cleanup(func() { w.detach(t, n, id, netns) })
	return w.host.Try(func() error {
		_, err := n.cni.AddNetworkList(context.Background(), n.list, rt)
		return err
	})
}

// detach does DEL; it may be done twice.
func (w *world) detach(t *testing.T, n *network, id, netns string) {
	t.Helper()
	rt := &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: "eth0"}
	if err := w.host.Try(func() error { return n.cni.DelNetworkList(context.Background(), n.list, rt) }); err != nil {
		t.Errorf("DEL %s: %v", id, err)
	}
}

// check does CHECK of the none network.
func (w *world) check(id, netns string) error {
	rt := &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: "eth0"}
	return w.host.Try(func() error { return w.none.cni.CheckNetworkList(context.Background(), w.none.list, rt) })
}

// network is a conflist and the library that a runtime calls it with.
type network struct {
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
}

func newNetwork(t *testing.T, conf []byte, bin ...string) *network {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes(conf)
	if err != nil {
		t.Fatal(err)
	}
	return &network{libcni.NewCNIConfigWithCacheDir(bin, t.TempDir(), nil), list}
}

// container is a real one, by runc, with the probe as its program.
type container struct {
	name    string
	gvisor  bool // runsc runs it, not runc
	netns   string
	pidns   string // another PID namespace to share instead of an own one
	caps    []string
	seccomp string     // profile
	mount   string     // directory of the host at /host
	files   []*os.File // open in the container, as 3 and so on
	probes  []spec.Probe
	program []string // instead of the probe
}

// capabilities of a container with no special options: docker's
// and containerd's default, CAP_NET_RAW included.
var capabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

var withNetAdmin = append([]string{"CAP_NET_ADMIN"}, capabilities...)

type m = map[string]any

// config is the OCI configuration of the container.
func (c container) config(t *testing.T, rootfs string, args []string, cgroup string) []byte {
	t.Helper()
	caps := c.caps
	if caps == nil {
		caps = capabilities
	}
	pid := m{"type": "pid"}
	if c.pidns != "" {
		pid["path"] = c.pidns
	}
	linux := m{
		"namespaces": []m{{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, pid, {"type": "network", "path": c.netns}},
		// Every attacker gets the tun device: without it the probe would fail
		// for another reason than the network.
		"devices":     []m{{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666, "uid": 0, "gid": 0}},
		"resources":   m{"devices": []m{{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm"}}},
		"cgroupsPath": cgroup,
	}
	if c.seccomp != "" {
		raw, err := os.ReadFile(c.seccomp)
		if err != nil {
			t.Fatal(err)
		}
		var profile m
		if err := json.Unmarshal(raw, &profile); err != nil {
			t.Fatal(err)
		}
		linux["seccomp"] = profile
	}
	mounts := []m{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
		{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	if c.mount != "" {
		mounts = append(mounts, m{"destination": "/host", "type": "bind", "source": c.mount, "options": []string{"bind", "ro"}})
	}
	raw, err := json.Marshal(m{
		"ociVersion": "1.0.2",
		"root":       m{"path": rootfs, "readonly": true},
		"process": m{
			"args": args, "cwd": "/", "env": []string{"PATH=/bin"}, "user": m{"uid": 0, "gid": 0},
			"capabilities":    m{"bounding": caps, "effective": caps, "permitted": caps},
			"noNewPrivileges": true,
		},
		"mounts": mounts,
		"linux":  linux,
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// command is the runtime, with the flags that go before its command. gVisor gives
// a container CAP_NET_RAW only if told so, and would keep a file of its own in
// the root file system.
func (c container) command(w *world) []string {
	if !c.gvisor {
		return []string{"runc", "--root", filepath.Join(w.dir, "runc")}
	}
	return []string{harness.Bin("gvisor/runsc"), "--root", filepath.Join(w.dir, "runsc"), "--platform=systrap", "--net-raw", "--overlay2=none"}
}

// run starts the container, waits for it and returns what it printed.
func (w *world) run(t *testing.T, c container) (stdout string, err error) {
	t.Helper()
	args := c.program
	if args == nil {
		raw, err := json.Marshal(c.probes)
		if err != nil {
			t.Fatal(err)
		}
		args = []string{"/bin/probe", string(raw)}
	}
	bundle, err := os.MkdirTemp(w.dir, "bundle")
	if err != nil {
		t.Fatal(err)
	}
	id := filepath.Base(w.dir) + "-" + filepath.Base(bundle)
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), c.config(t, w.rootfs, args, "/"+id), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	runtime := c.command(w)
	var out, errs bytes.Buffer
	run := []string{"run", "--bundle", bundle}
	if len(c.files) > 0 {
		run = append(run, "--preserve-fds", strconv.Itoa(len(c.files)))
	}
	cmd := exec.CommandContext(ctx, runtime[0], append(append(runtime[1:], run...), id)...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &out, &errs, c.files
	cmd.WaitDelay = 10 * time.Second
	err = w.host.Try(cmd.Run)
	if ctx.Err() != nil { // the runtime was killed and its container was not
		_ = exec.Command(runtime[0], append(runtime[1:], "delete", "--force", id)...).Run()
	}
	if err != nil {
		err = fmt.Errorf("container %s: %w: %s", c.name, err, errs.String())
	}
	return out.String(), err
}

// attack runs the probes in the container and tells which got through, by the
// container's own account or by that of the target.
func (w *world) attack(t *testing.T, c container) map[string]spec.Result {
	t.Helper()
	for i := range c.probes {
		c.probes[i].Token = token(c, c.probes[i])
	}
	out, err := w.run(t, c)
	if err != nil {
		t.Fatal(err)
	}
	// For all of them together: what a container with a way out sends is there at once.
	deadline := time.Now().Add(5 * time.Second)
	results := map[string]spec.Result{}
	for sc := bufio.NewScanner(bytes.NewReader([]byte(out))); sc.Scan(); {
		var r spec.Result
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			t.Fatalf("container %s printed %q", c.name, sc.Text())
		}
		results[r.Name] = r
	}
	for _, p := range c.probes {
		r, ok := results[p.Name]
		if !ok {
			t.Fatalf("container %s did not try %s", c.name, p.Name)
		}
		if (p.Kind == "move" || p.Kind == "move-by-socket") && w.hostHas(t, p.Expect) {
			r.Through, r.Detail = true, "the host has the interface "+p.Expect
		} else if where := w.arrived(r, token(c, p), deadline); where != "" {
			r.Through, r.Detail = true, "arrived at "+where
		}
		results[p.Name] = r
	}
	return results
}

func token(c container, p spec.Probe) string {
	return fmt.Sprintf("<%s: %s>", c.name, p.Name)
}

// newNetns is a namespace for a container.
func newNetns(t *testing.T) string { return nstest.New(t).Path }
