// Command none-install puts the none plugin on a Kubernetes node whose container
// runtime is containerd: the plugin, a network config in a directory of its own,
// and a runtime handler that uses it. It proves with containerd's own reading of
// its config that nothing else changes, and it takes everything back again.
//
// It never restarts the runtime unless it is told to, never writes below the CRI
// plugin's .cni keys, and never puts anything into the default CNI config
// directory: those belong to every pod on the node.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/cni-none/cni-none/cmd/none-install/containerd"
	"github.com/cni-none/cni-none/conf"
	"golang.org/x/sys/unix"
)

// version is set when it is built: -ldflags '-X main.version=...'.
var version = "dev"

const usage = `none-install puts the none network plugin on a containerd node, and takes it off.

usage: none-install COMMAND [flags]

  install    the plugin, its config and the runtime handler; a rerun updates them
  verify     look at everything, run a sandbox of the handler and look inside it
  status     look at everything, change nothing
  uninstall  take it all back; refuses while hermetic pods exist
  run        install, verify and keep watching: what the DaemonSet runs
  version    print the version

Exit status: 0 done (status, verify: in order), 1 refused or failed, 2 wrong usage,
3 a restart of the runtime is missing, 4 not installed.

flags:
`

// options are the flags as they were given.
type options struct {
	root, baseHandler, endpoint, containerd, config string
	pluginPath, conflistPath, restartCommand        string
	restart, dryRun, asJSON, remove                 bool
	timeout, interval                               time.Duration
}

func (o *options) flags(stderr io.Writer) *flag.FlagSet {
	fl := flag.NewFlagSet("none-install", flag.ContinueOnError)
	fl.SetOutput(stderr)
	fl.Usage = func() {
		fmt.Fprint(stderr, usage)
		fl.PrintDefaults()
	}
	fl.StringVar(&o.root, "root", "/", "the node's root directory, where that is not our own")
	fl.StringVar(&o.baseHandler, "base-handler", "", "add a handler airgap-NAME, a copy of this one, instead of airgap, a copy of the default")
	fl.StringVar(&o.endpoint, "endpoint", "", "the runtime's CRI socket (default: the usual places)")
	fl.StringVar(&o.containerd, "containerd", "", "the containerd program (default: the one that listens on the socket)")
	fl.StringVar(&o.config, "config", "", "containerd's config file (default: the one that the running containerd was given)")
	fl.StringVar(&o.pluginPath, "plugin", "", "the plugin to install (default: the file none beside this program)")
	fl.StringVar(&o.conflistPath, "conflist", "", "the network config to install (default: built in)")
	fl.BoolVar(&o.restart, "restart", false, "restart the runtime, wait for it, and put everything back if it does not come back")
	fl.StringVar(&o.restartCommand, "restart-command", "", "how to restart it, without a shell (default: systemctl restart of its unit)")
	fl.BoolVar(&o.dryRun, "dry-run", false, "say what would be done, and do nothing")
	fl.BoolVar(&o.asJSON, "json", false, "status, verify: print JSON")
	fl.DurationVar(&o.timeout, "timeout", 2*time.Minute, "how long to wait for the runtime after a restart")
	fl.BoolVar(&o.remove, "remove", false, "run: uninstall instead, as soon as that is possible")
	fl.DurationVar(&o.interval, "interval", time.Minute, "run: how often to look again")
	return fl
}

// The main goroutine keeps the first thread, so that every file operation comes
// from one thread: a tracer that stops it at the n-th one stops it at the same
// place every time.
func init() { runtime.LockOSThread() }

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	o := &options{}
	fl := o.flags(stderr)
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fl.Usage()
		return 2
	}
	name := args[0]
	if err := fl.Parse(args[1:]); err != nil {
		return 2
	}
	if fl.NArg() > 0 {
		fmt.Fprintf(stderr, "none-install: unexpected argument %q\n", fl.Arg(0))
		return 2
	}
	if name == "version" {
		fmt.Fprintln(stdout, version)
		return 0
	}
	c, ok := commands[name]
	if !ok {
		fmt.Fprintf(stderr, "none-install: unknown command %q\n", name)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := c.start(ctx, o, stdout)
	var state nodeState
	switch {
	case err == nil:
		return 0
	case errors.As(err, &state):
		return state.exit() // it has been said
	}
	fmt.Fprintf(stderr, "none-install %s: %v\n", name, err)
	return 1
}

// job is what a command works with.
type job struct {
	*options
	*installer
	node   *kubeNode
	stdout io.Writer
}

type command struct {
	run      func(context.Context, *job) error
	unlocked bool // it changes nothing, or locks by itself
	bare     bool // it needs no plugin beside it
}

var commands = map[string]command{
	"install":   {run: func(ctx context.Context, j *job) error { return j.install(ctx) }},
	"verify":    {run: func(ctx context.Context, j *job) error { return j.print(j.verify(ctx)) }},
	"status":    {run: func(ctx context.Context, j *job) error { return j.print(j.status(ctx)) }, unlocked: true},
	"uninstall": {run: func(ctx context.Context, j *job) error { return uninstallNode(ctx, j.installer, j.node) }, bare: true},
	"run": {run: func(ctx context.Context, j *job) error {
		w := &watcher{installer: j.installer, node: j.node, remove: j.options.remove, interval: j.interval}
		return w.run(ctx)
	}, unlocked: true},
}

func (c command) start(ctx context.Context, o *options, stdout io.Writer) error {
	in, err := o.installer(stdout, c.bare)
	if err != nil {
		return err
	}
	node, err := findNode()
	if err != nil {
		return err
	}
	if err := enterRoot(o.root); err != nil {
		return err
	}
	if !c.unlocked {
		unlock, err := in.lock(ctx)
		if err != nil {
			return err
		}
		defer unlock()
	}
	return c.run(ctx, &job{options: o, installer: in, node: node, stdout: stdout})
}

// print says the state, and ends with it where the node is not in order.
func (j *job) print(r report) error {
	if j.asJSON {
		if err := json.NewEncoder(j.stdout).Encode(r); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(j.stdout, r)
	}
	if r.State.exit() == 0 {
		return nil
	}
	return r.State
}

// installer reads what is to be installed. That lies beside the program, so it is
// read before the root changes.
func (o *options) installer(stdout io.Writer, bare bool) (*installer, error) {
	in := &installer{
		version: version, conflist: conf.AirgapCRI, baseHandler: o.baseHandler,
		where:   containerd.Where{Endpoint: o.endpoint, Program: o.containerd, Config: o.config},
		restart: o.restart, restartCommand: o.restartCommand, timeout: o.timeout, dryRun: o.dryRun,
		logf: func(format string, args ...any) { fmt.Fprintf(stdout, format+"\n", args...) },
	}
	plugin := o.pluginPath
	if plugin == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		plugin = filepath.Join(filepath.Dir(self), "none")
	}
	var err error
	if in.plugin, err = os.ReadFile(plugin); err != nil && !bare {
		return nil, fmt.Errorf("read the plugin to install (--plugin): %w", err)
	}
	if o.conflistPath == "" {
		return in, nil
	}
	if in.conflist, err = os.ReadFile(o.conflistPath); err != nil {
		return nil, err
	}
	if !json.Valid(in.conflist) {
		return nil, fmt.Errorf("%s is not JSON", o.conflistPath)
	}
	return in, nil
}

// enterRoot makes the node's root our own: links on the node resolve as on the
// node, and the node's containerd finds its libraries.
func enterRoot(root string) error {
	if filepath.Clean(root) == "/" {
		return nil
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("make %s the root: %w", root, err)
	}
	return os.Chdir("/")
}
