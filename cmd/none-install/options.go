package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cni-none/cni-none/cmd/none-install/containerd"
)

// options are the flags as they were given.
type options struct {
	root, endpoint, containerd, config string
	handlers                           handlers
	baseHandler                        string
	plugin, conflist, placeholder      string
	restart, dryRun, asJSON            bool
	restartCommand                     string
	timeout                            time.Duration
	daemonOptions
}

// whereFlags say which node and which runtime.
func (o *options) whereFlags(fl *flag.FlagSet) {
	fl.StringVar(&o.root, "root", "/", "the node's root `directory`, where that is not our own")
	fl.StringVar(&o.endpoint, "endpoint", "", "the runtime's CRI `socket` (default: the usual places)")
	fl.StringVar(&o.containerd, "containerd", "", "the containerd `program` (default: the one that listens on the socket)")
	fl.StringVar(&o.config, "config", "", "containerd's config `file` (default: the one that the running containerd was given)")
}

// whatFlags say what is to be installed.
func (o *options) whatFlags(fl *flag.FlagSet) {
	fl.Var(o.handlers, "handler", "a `handler` that is to be there, airgap or airgap-NAME=BASE, a copy of BASE; give it once for each. Others of ours go (default: those that are there, or else airgap)")
	fl.StringVar(&o.baseHandler, "base-handler", "", "add the handler airgap-`NAME`, a copy of NAME, to those that are there")
	fl.StringVar(&o.plugin, "plugin", "", "the plugin's `file` (default: none, beside this program)")
	fl.StringVar(&o.conflist, "conflist", "", "the network config's `file` (default: the one from the last install, or else built in)")
	fl.StringVar(&o.placeholder, "placeholder", "", "the `address` that pods report: 192.0.0.8 on an IPv6-only cluster (default: as at the last install, or else 100:0:0:1::/64)")
}

func (o *options) changeFlags(fl *flag.FlagSet) {
	fl.BoolVar(&o.restart, "restart", false, "restart the runtime, wait for it, and put everything back if it does not come back")
	fl.StringVar(&o.restartCommand, "restart-command", "", "the `command` that restarts it, without a shell (default: systemctl restart of its unit)")
	fl.DurationVar(&o.timeout, "timeout", 2*time.Minute, "how long to wait for the runtime after a restart")
	fl.BoolVar(&o.dryRun, "dry-run", false, "say what would be done, and do nothing")
}

func (o *options) installFlags(fl *flag.FlagSet) {
	o.whatFlags(fl)
	o.changeFlags(fl)
}

func (o *options) lookFlags(fl *flag.FlagSet) {
	fl.StringVar(&o.plugin, "plugin", "", "the plugin's `file` to compare with (default: none, beside this program, where it is there)")
	fl.BoolVar(&o.asJSON, "json", false, "print JSON")
	fl.DurationVar(&o.timeout, "timeout", 2*time.Minute, "how long to wait for another none-install")
}

// installer reads what is to be installed. That lies beside the program, so it is
// read before the root changes.
func (o *options) installer(command string, stdout io.Writer) (*installer, error) {
	in := &installer{
		version: version, handlers: o.handlers, baseHandler: o.baseHandler, placeholder: o.placeholder,
		where:   containerd.Where{Endpoint: o.endpoint, Program: o.containerd, Config: o.config},
		restart: o.restart, restartCommand: o.restartCommand, timeout: o.timeout, dryRun: o.dryRun,
		logf: func(format string, args ...any) { fmt.Fprintf(stdout, format+"\n", args...) },
	}
	if o.conflist != "" && o.placeholder != "" {
		return nil, errors.New("--conflist has a placeholder of its own: leave --placeholder out")
	}
	path := o.plugin
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(filepath.Dir(self), "none")
	}
	var err error
	in.plugin, err = os.ReadFile(path)
	needed := command == install.name || command == runDaemon.name && !o.remove
	if err != nil && (needed || o.plugin != "" || !errors.Is(err, fs.ErrNotExist)) {
		return nil, fmt.Errorf("read the plugin to install (--plugin): %w", err)
	}
	if o.conflist != "" {
		if in.conflist, err = os.ReadFile(o.conflist); err != nil {
			return nil, fmt.Errorf("read the network config to install (--conflist): %w", err)
		}
	}
	return in, nil
}
