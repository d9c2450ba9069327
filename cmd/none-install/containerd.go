package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The CRI plugin's section in containerd's config, by the config's version.
const (
	sectionV1 = "cri"
	sectionV2 = "io.containerd.grpc.v1.cri"
	sectionV3 = "io.containerd.cri.v1.runtime"
)

// Where container runtimes listen, in the order in which they are tried.
var endpoints = []string{
	"/run/containerd/containerd.sock",
	"/run/k3s/containerd/containerd.sock",
	"/var/snap/microk8s/common/run/containerd.sock",
	"/run/crio/crio.sock",
	"/run/cri-dockerd.sock",
}

// engine is the container runtime of the node: the program that listens on its
// socket, with the config that it was started with.
type engine struct {
	endpoint string // "" where none is running
	pid      int
	started  string // field 22 of /proc/PID/stat: with pid, which process this is
	exe      string
	config   string

	conn *grpc.ClientConn
	cri.RuntimeServiceClient
}

// findEngine asks the sockets, and falls back on a containerd that is installed
// and not running.
//
// Which program that is and which config it reads is noted at an install, since
// a node can have more than one containerd: k3s brings its own.
func findEngine(ctx context.Context, o *options, st *state) (*engine, error) {
	try := endpoints
	if o.endpoint != "" {
		try = []string{strings.TrimPrefix(o.endpoint, "unix://")}
	}
	e := &engine{exe: o.containerd, config: o.config}
	for _, path := range try {
		pid, err := listener(path)
		if err != nil {
			continue
		}
		e.endpoint, e.pid = path, pid
		break
	}
	if e.endpoint == "" && st != nil && e.exe == "" && e.config == "" {
		if _, err := os.Stat(st.Containerd); err == nil {
			e.exe, e.config = st.Containerd, st.Config
			return e, nil
		}
	}
	if e.endpoint == "" {
		if e.config == "" {
			e.config = "/etc/containerd/config.toml"
		}
		if e.exe == "" {
			for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin", "/opt/bin"} {
				if st, err := os.Stat(filepath.Join(dir, "containerd")); err == nil && st.Mode().IsRegular() {
					e.exe = filepath.Join(dir, "containerd")
					break
				}
			}
		}
		if e.exe == "" {
			return nil, fmt.Errorf("no container runtime listens on %s, and there is no containerd program; say which with --endpoint, or --containerd and --config", strings.Join(try, ", "))
		}
		return e, nil
	}
	if err := e.dial(ctx); err != nil {
		return nil, err
	}
	return e, e.identify()
}

// dial connects to the socket and makes sure that containerd answers.
func (e *engine) dial(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+e.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	e.conn, e.RuntimeServiceClient = conn, cri.NewRuntimeServiceClient(conn)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	v, err := e.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return fmt.Errorf("ask the container runtime at %s for its version: %w", e.endpoint, err)
	}
	if v.RuntimeName != "containerd" {
		return fmt.Errorf("the container runtime at %s is %s %s, and none-install knows containerd only: it gives a runtime handler a network of its own. %s",
			e.endpoint, v.RuntimeName, v.RuntimeVersion, elsewhere(v.RuntimeName))
	}
	return nil
}

// elsewhere says what to do where a handler cannot have a CNI directory.
func elsewhere(name string) string {
	const multus = "use Multus with `clusterNetwork`: copy the plugin into its CNI directory, create a NetworkAttachmentDefinition with the conflist, and annotate pods with v1.multus-cni.io/default-network: kube-system/airgap"
	switch name {
	case "cri-o":
		return "CRI-O has one CNI directory for all handlers: " + multus
	case "docker":
		return "With Docker Engine, `docker run --network none` needs no plugin; for pods, " + multus
	}
	return "Where the runtime has one CNI directory for all handlers, " + multus
}

// identify learns from /proc which program it is and which config it was given.
func (e *engine) identify() error {
	proc := filepath.Join("/proc", strconv.Itoa(e.pid))
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return fmt.Errorf("look at the container runtime's process (in a container, this needs hostPID): %w", err)
	}
	// The name in parentheses may hold anything; what follows it is numbers.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) > 19 {
		e.started = fields[19]
	}
	if e.exe == "" {
		exe, err := os.Readlink(proc + "/exe")
		if err != nil {
			return err
		}
		// An upgraded package has replaced the program under the process.
		e.exe = strings.TrimSuffix(exe, " (deleted)")
	}
	if e.config == "" {
		e.config = "/etc/containerd/config.toml"
		cmdline, err := os.ReadFile(proc + "/cmdline")
		if err != nil {
			return err
		}
		args := strings.Split(string(cmdline), "\x00")
		for i, a := range args {
			for _, flag := range []string{"--config", "-config", "-c", "--c"} {
				if a == flag && i+1 < len(args) {
					e.config = args[i+1]
				} else if v, ok := strings.CutPrefix(a, flag+"="); ok {
					e.config = v
				}
			}
		}
		if !filepath.IsAbs(e.config) {
			cwd, err := os.Readlink(proc + "/cwd")
			if err != nil {
				return err
			}
			e.config = filepath.Join(cwd, e.config)
		}
	}
	return nil
}

// listener returns the process that listens on a unix socket: the kernel notes
// it at listen(2) (SO_PEERCRED in unix(7)).
func listener(path string) (int, error) {
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	if cred.Pid == 0 {
		return 0, fmt.Errorf("the process behind %s is in another PID namespace: run with the host's (hostPID: true)", path)
	}
	return int(cred.Pid), nil
}

// dumped is containerd's own reading of a config, imports and all.
type dumped struct {
	tree    tree
	section string // of the CRI plugin
}

// dump has the node's containerd read a config that stands in a file, or that
// the caller has in memory: then config is ignored, and later texts can be
// imported as memory(1), memory(2) and so on.
func (e *engine) dump(ctx context.Context, config string, texts ...[]byte) (*dumped, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	args := []string{"--config", config, "config", "dump"}
	if len(texts) > 0 {
		args[1] = memory(0)
	} else if _, err := os.Stat(config); errors.Is(err, fs.ErrNotExist) {
		args = []string{"config", "default"} // what it does without one
	} else if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, e.exe, args...)
	cmd.Dir = "/" // as a service
	for _, t := range texts {
		fd, err := unix.MemfdCreate("config.toml", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), "config.toml")
		defer f.Close()
		if _, err := f.Write(t); err != nil {
			return nil, err
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", e.exe, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()+lastLine(stdout.String())))
	}
	t, err := parse(stdout.Bytes())
	if err != nil {
		return nil, fmt.Errorf("read what `%s config dump` wrote: %w", e.exe, err)
	}
	d := &dumped{tree: t}
	for _, s := range []string{sectionV3, sectionV2, sectionV1} {
		if at(t, "plugins", s, "containerd") != nil {
			d.section = s
			break
		}
	}
	if disabled, _ := t["disabled_plugins"].([]any); d.section == "" || slices.ContainsFunc(disabled, func(v any) bool {
		return v == "cri" || v == sectionV2 || v == sectionV3
	}) {
		return nil, fmt.Errorf("containerd's CRI plugin is switched off in %s (disabled_plugins): Kubernetes does not use this containerd", config)
	}
	return d, nil
}

// memory is where a child process finds the n-th text that dump hands it.
func memory(n int) string { return fmt.Sprintf("/proc/self/fd/%d", 3+n) }

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func (d *dumped) runtimes() tree { return at(d.tree, "plugins", d.section, "containerd", "runtimes") }

// v2 says whether this containerd is 2.0 or later: it merges drop-in files.
func (d *dumped) v2() bool { return d.section == sectionV3 }

func (d *dumped) defaultRuntime() string {
	name, _ := at(d.tree, "plugins", d.section, "containerd")["default_runtime_name"].(string)
	if name == "" {
		name = "runc"
	}
	return name
}

// binDirs returns where containerd looks for CNI plugins.
func (d *dumped) binDirs() []string {
	cni := at(d.tree, "plugins", d.section, "cni")
	var dirs []string
	if list, _ := cni["bin_dirs"].([]any); len(list) > 0 {
		for _, v := range list {
			if s, _ := v.(string); s != "" {
				dirs = append(dirs, s)
			}
		}
	}
	if s, _ := cni["bin_dir"].(string); s != "" && len(dirs) == 0 {
		dirs = []string{s}
	}
	return dirs
}

// diff lists what two dumps differ in, besides the named handlers and the list
// of imported files.
func (d *dumped) diff(after *dumped, handlers []string) []string {
	return diff(d.tree, after.tree, func(path []string) bool {
		if len(path) == 1 && path[0] == "imports" {
			return true
		}
		return len(path) == 5 && path[0] == "plugins" && path[2] == "containerd" && path[3] == "runtimes" && slices.Contains(handlers, path[4])
	})
}

// loaded is what the running containerd has in memory, from its CRI status.
type loaded struct {
	ready    bool
	runtimes map[string]map[string]any
	binDirs  []string
	info     map[string]string
}

func (e *engine) loaded(ctx context.Context) (*loaded, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	st, err := e.Status(ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("ask containerd at %s for its status: %w", e.endpoint, err)
	}
	var config struct {
		Containerd struct {
			Runtimes map[string]map[string]any `json:"runtimes"`
		} `json:"containerd"`
		CNI struct {
			BinDir  string   `json:"binDir"`
			BinDirs []string `json:"binDirs"`
		} `json:"cni"`
	}
	if err := json.Unmarshal([]byte(st.Info["config"]), &config); err != nil {
		return nil, fmt.Errorf("read the config in containerd's CRI status: %w", err)
	}
	l := &loaded{runtimes: config.Containerd.Runtimes, binDirs: config.CNI.BinDirs, info: st.Info}
	if len(l.binDirs) == 0 && config.CNI.BinDir != "" {
		l.binDirs = []string{config.CNI.BinDir}
	}
	for _, c := range st.GetStatus().GetConditions() {
		if c.Type == cri.RuntimeReady {
			l.ready = c.Status
		}
	}
	return l, nil
}

// sandboxes returns the pod sandboxes of the given handlers.
func (e *engine) sandboxes(ctx context.Context, handlers []string) ([]*cri.PodSandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	list, err := e.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list the pod sandboxes: %w", err)
	}
	var out []*cri.PodSandbox
	for _, s := range list.Items {
		if slices.Contains(handlers, s.RuntimeHandler) {
			out = append(out, s)
		}
	}
	return out, nil
}

// restart runs the command, or restarts the systemd unit that the runtime runs
// in, and waits until another process serves CRI and ok is content with it.
func (e *engine) restart(ctx context.Context, o *options, ok func(*loaded) error) error {
	command := strings.Fields(o.restartCommand)
	if len(command) == 0 {
		unit, err := unitOf(e.pid)
		if err != nil {
			return err
		}
		command = []string{"systemctl", "restart", unit}
	}
	o.logf("restarting the runtime: %s", strings.Join(command, " "))
	cmdCtx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if out, err := exec.CommandContext(cmdCtx, command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(out)))
	}
	return e.wait(ctx, o, true, ok)
}

// wait polls until the runtime answers as it should, for o.timeout at most. With
// other, it has to be another process than before.
func (e *engine) wait(ctx context.Context, o *options, other bool, ok func(*loaded) error) error {
	deadline := time.Now().Add(o.timeout)
	oldPID, oldStart := e.pid, e.started
	for {
		err := func() error {
			now := &engine{endpoint: e.endpoint, exe: e.exe, config: e.config}
			var err error
			if now.pid, err = listener(e.endpoint); err != nil {
				return err
			}
			if err := now.identify(); err != nil {
				return err
			}
			if other && now.pid == oldPID && now.started == oldStart {
				return fmt.Errorf("process %d has not been replaced", oldPID)
			}
			if err := now.dial(ctx); err != nil {
				return err
			}
			l, err := now.loaded(ctx)
			if err == nil && !l.ready {
				err = errors.New("its condition RuntimeReady is false")
			}
			if err == nil {
				err = ok(l)
			}
			if err != nil {
				now.conn.Close()
				return err
			}
			if e.conn != nil {
				e.conn.Close()
			}
			*e = *now
			return nil
		}()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for the runtime: %w", o.timeout, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// unitOf returns the systemd unit that a process belongs to.
func unitOf(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		_, path, _ := strings.Cut(strings.TrimSpace(line), ":")
		if _, path, _ = strings.Cut(path, ":"); strings.HasSuffix(path, ".service") {
			return filepath.Base(path), nil
		}
	}
	return "", fmt.Errorf("process %d belongs to no systemd service: say how to restart the runtime with --restart-command", pid)
}
