// Command none-install puts the none plugin on a Kubernetes node whose container
// runtime is containerd: the plugin, a network config in a directory of its own,
// and runtime handlers that use it. It proves with containerd's own reading of
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

	"github.com/cni-none/cni-none/internal/cli"
	"golang.org/x/sys/unix"
)

// version is set when it is built: -ldflags '-X main.version=...'.
var version = "dev"

// The main goroutine keeps the first thread, so that every file operation comes
// from one thread: a tracer that stops it at the n-th one stops it at the same
// place every time.
func init() { runtime.LockOSThread() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(program().Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func program() *cli.Program {
	return &cli.Program{
		Name: "none-install", Version: version,
		Summary: "put the none network plugin on a containerd node, and take it off",
		Description: "The plugin, its config and a runtime handler that uses it. containerd's own reading of\n" +
			"its config is compared before and after: nothing but the handlers changes.",
		Commands: []cli.Command{
			{Name: "install", Summary: "the plugin, its config and the runtime handlers; a rerun updates them", Setup: setup(install)},
			{Name: "verify", Summary: "look at everything, run a sandbox of each handler and look inside it", Setup: setup(verify)},
			{Name: "status", Summary: "look at everything, change nothing", Setup: setup(status)},
			{Name: "uninstall", Summary: "take it all back; refuses while hermetic pods exist", Setup: setup(uninstall)},
			{Name: "run", Summary: "install, verify and keep watching: what the DaemonSet runs", Setup: setup(runDaemon)},
			{Name: "relay", Args: "SOCKET -- PROGRAM [ARG]...", Summary: "run a program whose output goes to the socket of run", Setup: setupRelay},
		},
		Status: []cli.Term{
			{Name: "0", Text: "done; status, verify: in order"},
			{Name: "1", Text: "refused or failed; status, verify: not in order"},
			{Name: "2", Text: "wrong usage"},
			{Name: "3", Text: "a restart of the runtime is missing, and nothing else"},
			{Name: "4", Text: "status, verify: not installed"},
		},
		Files: []cli.Term{
			{Name: conflist, Text: "the network of the handlers' pods"},
			{Name: stateDir, Text: "what was done, and a copy of containerd's config as it was"},
			{Name: lockFile, Text: "keeps two runs apart"},
		},
		SeeAlso: "none-audit(8)",
	}
}

// command is one of them, by the flags that it has.
type command struct {
	name     string
	unlocked bool // it changes nothing, or locks by itself
	flags    func(*options, *flag.FlagSet)
	run      func(context.Context, *job) error
}

var (
	install = command{name: "install", flags: (*options).installFlags, run: func(ctx context.Context, j *job) error { return j.installer.install(ctx) }}
	verify  = command{name: "verify", flags: (*options).lookFlags, run: func(ctx context.Context, j *job) error { return j.print(j.installer.verify(ctx)) }}
	status  = command{name: "status", flags: (*options).lookFlags, unlocked: true, run: func(ctx context.Context, j *job) error { return j.print(j.installer.status(ctx)) }}

	uninstall = command{name: "uninstall", flags: (*options).changeFlags, run: func(ctx context.Context, j *job) error { return j.installer.uninstall(ctx) }}
	runDaemon = command{name: "run", flags: (*options).daemonFlags, unlocked: true, run: func(ctx context.Context, j *job) error { return j.daemon(ctx) }}
)

// job is what a command works with.
type job struct {
	*options
	*installer
	cluster *cluster // nil outside of one
	stdout  io.Writer
}

func setup(c command) func(*flag.FlagSet) cli.Run {
	return func(fl *flag.FlagSet) cli.Run {
		o := &options{handlers: handlers{}}
		o.whereFlags(fl)
		c.flags(o, fl)
		return func(ctx context.Context, args []string, stdout, stderr io.Writer) int {
			if len(args) > 0 {
				fmt.Fprintf(stderr, "none-install %s: unexpected argument %q\n", c.name, args[0])
				return cli.StatusUsage
			}
			err := c.start(ctx, o, stdout)
			var state nodeState
			switch {
			case err == nil:
				return 0
			case errors.As(err, &state):
				return state.exit() // it has been said
			}
			fmt.Fprintf(stderr, "none-install %s: %v\n", c.name, err)
			return 1
		}
	}
}

func (c command) start(ctx context.Context, o *options, stdout io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("it looks at containerd's process and socket and writes the node's files: run it as root")
	}
	in, err := o.installer(c.name, stdout)
	if err != nil {
		return err
	}
	j := &job{options: o, installer: in, stdout: stdout}
	if c.name == runDaemon.name {
		if err := j.beforeRoot(); err != nil {
			return err
		}
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
	return c.run(ctx, j)
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
