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
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// version is set when it is built: -ldflags '-X main.version=...'.
var version = "dev"

//go:embed 10-airgap.conflist
var defaultConflist []byte

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

// options are the flags, and what is read before the root changes.
type options struct {
	root, baseHandler, endpoint, containerd, config string
	pluginPath, conflistPath, restartCommand        string
	restart, dryRun, asJSON, remove                 bool
	timeout, interval                               time.Duration

	version          string
	plugin, conflist []byte
	node             *kubeNode
	out              io.Writer
}

func (o *options) logf(format string, args ...any) { fmt.Fprintf(o.out, format+"\n", args...) }

// The main goroutine keeps the first thread, so that every file operation comes
// from one thread: a tracer that stops it at the n-th one stops it at the same
// place every time.
func init() { runtime.LockOSThread() }

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	o := &options{out: stdout, version: version}
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
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fl.Usage()
		return 2
	}
	command := args[0]
	if err := fl.Parse(args[1:]); err != nil {
		return 2
	}
	if fl.NArg() > 0 {
		fmt.Fprintf(stderr, "none-install: unexpected argument %q\n", fl.Arg(0))
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	err := func() error {
		switch command {
		case "install", "verify", "status", "uninstall", "run":
			if err := o.prepare(command); err != nil {
				return err
			}
		case "version":
			fmt.Fprintln(stdout, version)
			return nil
		default:
			fmt.Fprintf(stderr, "none-install: unknown command %q\n", command)
			return errUsage
		}
		if command != "status" && command != "run" { // run locks for each look
			unlock, err := lock(ctx, o)
			if err != nil {
				return err
			}
			defer unlock()
		}
		switch command {
		case "install":
			return install(ctx, o)
		case "uninstall":
			return o.node.uninstall(ctx, o)
		case "run":
			return watch(ctx, o)
		}
		var r report
		if command == "verify" {
			r = verify(ctx, o)
		} else {
			r, _ = examine(ctx, o)
		}
		if o.asJSON {
			if err := json.NewEncoder(stdout).Encode(r); err != nil {
				return err
			}
		} else {
			fmt.Fprintln(stdout, r)
		}
		switch r.State {
		case ready, installed:
			return nil
		case pendingRestart:
			return errPending
		case notInstalled:
			return errNotInstalled
		}
		return errDegraded
	}()
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		return 2
	case errors.Is(err, errPending):
		return 3
	case errors.Is(err, errNotInstalled):
		return 4
	case errors.Is(err, errDegraded):
		return 1
	}
	fmt.Fprintf(stderr, "none-install %s: %v\n", command, err)
	return 1
}

var (
	errUsage        = errors.New("wrong usage")
	errNotInstalled = errors.New(notInstalled)
	errDegraded     = errors.New(degraded)
)

// prepare reads what lies beside the program, and then makes the node's root
// its own: links on the node resolve as on the node, and the node's containerd
// finds its libraries.
func (o *options) prepare(command string) error {
	if o.pluginPath == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.pluginPath = filepath.Join(filepath.Dir(self), "none")
	}
	var err error
	if o.plugin, err = os.ReadFile(o.pluginPath); err != nil && command != "uninstall" {
		return fmt.Errorf("read the plugin to install (--plugin): %w", err)
	}
	o.conflist = defaultConflist
	if o.conflistPath != "" {
		if o.conflist, err = os.ReadFile(o.conflistPath); err != nil {
			return err
		}
		if !json.Valid(o.conflist) {
			return fmt.Errorf("%s is not JSON", o.conflistPath)
		}
	}
	if o.node, err = findNode(); err != nil {
		return err
	}
	if filepath.Clean(o.root) != "/" {
		if err := unix.Chroot(o.root); err != nil {
			return fmt.Errorf("make %s the root: %w", o.root, err)
		}
		return os.Chdir("/")
	}
	return nil
}

// lock keeps two runs on one node apart: the second one waits. The kernel
// releases it when the process ends.
func lock(ctx context.Context, o *options) (func(), error) {
	f, err := os.OpenFile("/run/cni-none.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil // no /run: an image that is being built
	}
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(o.timeout); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("another none-install works on this node (/run/cni-none.lock): %w", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
