package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cni-none/cni-none/cmd/none-install/containerd"
	"github.com/cni-none/cni-none/conf"
)

// installation is one install: everything that was decided before anything is
// touched.
type installation struct {
	*installer
	engine     *containerd.Engine
	service    *containerd.Service // nil: no restart
	plan       *containerd.Plan
	old        *state   // nil: a fresh one
	state      *state   // what it is going to be
	dropped    []string // handlers that go
	others     []string // handlers with our directory that are not ours
	pluginPath string
	network    []byte // the conflist
	fresh      bool   // no process has ever had a handler of ours: what fails goes as a whole
}

// install puts plugin, conflist and handler on the node, or brings them up to
// date. What fails is undone.
func (in *installer) install(ctx context.Context) error {
	old, err := loadState()
	if err != nil {
		return err
	}
	e, err := in.find(ctx, old)
	if err != nil {
		return err
	}
	defer e.Close()
	i := &installation{installer: in, engine: e, old: old, state: old.clone()}
	if err := i.decide(ctx); err != nil {
		return err
	}
	if in.dryRun {
		i.describe()
		return nil
	}
	return i.carryOut(ctx)
}

// decide makes the plan, and refuses what cannot be done.
func (i *installation) decide(ctx context.Context) error {
	var err error
	if i.network, err = i.installer.network(i.old); err != nil {
		return err
	}
	if err := checkPayload(ctx, i.plugin, i.network); err != nil {
		return err
	}
	i.state.Plugin, i.state.Conflist = sum(i.plugin), remembered(i.network)
	i.dropped = i.state.dropped(i.wanted(i.old))
	i.state.Handlers = i.wanted(i.old)
	files, err := i.engine.Files()
	if err != nil {
		return err
	}
	before, err := i.engine.Dump(ctx)
	if err != nil {
		return err
	}
	i.others = without(before.With(confDir), i.old.clone().Handlers.names())
	if err := i.refuseDrop(ctx); err != nil {
		return err
	}
	want := containerd.Want{Handlers: i.state.Handlers, Drop: i.dropped, ConfDir: confDir, Whole: i.state.whole(), Shipped: [][]byte{conf.Handler1, conf.Handler2}}
	if i.plan, err = containerd.PlanInstall(files, before, want); err != nil {
		return remedied(err)
	}
	if old := i.state.Target; old != "" && old != i.plan.Target.Path {
		i.state.Leftover = old
	}
	i.state.Target, i.state.Whole = i.plan.Target.Path, i.plan.Whole
	i.state.Containerd, i.state.Config = i.engine.Program, i.engine.Config
	if i.pluginPath, err = choosePluginPath(before.BinDirs()); err != nil {
		return err
	}
	if err := i.checkForeign(); err != nil {
		return err
	}
	if err := checkConfDir(); err != nil {
		return err
	}
	return i.engine.Preview(ctx, i.plan)
}

// refuseDrop refuses to take a handler away that pods still have.
func (i *installation) refuseDrop(ctx context.Context) error {
	switch {
	case len(i.dropped) == 0:
		return nil
	case !i.engine.Running():
		return fmt.Errorf("the runtime is not running, so it cannot say whether pods of the handler %s exist; start it first", strings.Join(i.dropped, ", "))
	}
	return refuseSandboxes(ctx, i.engine, i.dropped)
}

// choosePluginPath takes the first of containerd's plugin directories that exists,
// or else the first.
func choosePluginPath(dirs []string) (string, error) {
	if len(dirs) == 0 {
		return "", errors.New("containerd's config names no directory for CNI plugins")
	}
	dir := dirs[0]
	for _, d := range dirs {
		if s, err := os.Stat(d); err == nil && s.IsDir() {
			dir = d
			break
		}
	}
	return filepath.Join(dir, "none"), nil
}

// checkForeign refuses to replace a program of that name that is not ours.
func (i *installation) checkForeign() error {
	there, err := os.ReadFile(i.pluginPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || isPlugin(there) || slices.Contains(i.state.Files, i.pluginPath) {
		return err
	}
	return fmt.Errorf("%s is there already, is another program, and none-install did not put it there; remove it first", i.pluginPath)
}

// checkConfDir refuses to share the handler's directory: the config that sorts
// first in it is the one that counts.
func checkConfDir() error {
	entries, err := os.ReadDir(confDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range entries {
		path := filepath.Join(confDir, f.Name())
		if path != conflist && path != tempName(conflist) {
			return fmt.Errorf("%s does not belong there: the handler's pods would get the network that sorts first; remove it", path)
		}
	}
	return nil
}

// describe says what would be done.
func (i *installation) describe() {
	i.logf("would write %s (%d bytes)", i.pluginPath, len(i.plugin))
	i.logf("would write %s:\n%s", conflist, i.network)
	if i.plan.Unchanged() {
		i.logf("%s already has the handlers %s", i.plan.Target.Path, strings.Join(i.plan.Handlers, ", "))
		return
	}
	i.logf("would leave %s as it is, and add:\n%s", i.plan.Target.Path, i.plan.Added())
}

// carryOut makes the change and, where that is asked for, restarts the runtime.
func (i *installation) carryOut(ctx context.Context) error {
	lacks := func(l *containerd.LiveConfig) error { return differs(l, i.plan.Handlers, i.others) }
	missing, err := i.missing(ctx, lacks)
	if err != nil {
		return err
	}
	var t transaction
	if err := t.run(i.steps(ctx)...); err != nil {
		return err
	}
	if !t.changed() {
		i.logf("everything is in place already: nothing changed")
	}
	switch {
	case !i.engine.Running():
		i.logf("the runtime is not running: it will have the handler when it starts")
	case missing && i.service == nil:
		i.logf("pending-restart: containerd has not loaded the handler; restart it when it suits you (running pods keep running), then run `none-install verify`")
	case missing:
		return i.restartInto(ctx, &t, lacks)
	default:
		return nil
	}
	return errPending
}

// restartInto restarts the runtime, which then has the handlers, or takes back
// what the transaction has done.
func (i *installation) restartInto(ctx context.Context, t *transaction, lacks func(*containerd.LiveConfig) error) error {
	end, err := i.mayRestart(ctx)
	if err != nil {
		return err // the files stay: it is done later
	}
	err = t.run(restartRuntime(ctx, i.service, lacks))
	if eerr := end(err); eerr != nil {
		i.logf("%v", eerr)
	}
	if err != nil {
		i.logf("the runtime did not come back with the handler")
		return i.goAsWhole(err)
	}
	i.logf("the runtime runs again (process %d) and has the handler", i.engine.PID())
	return nil
}

// differs says what is loaded, or not loaded, that is not as it is to be. others
// are handlers with our directory that are not ours.
func differs(l *containerd.LiveConfig, wanted, others []string) error {
	if err := l.Lacks(wanted, confDir); err != nil {
		return err
	}
	return l.Has(without(l.With(confDir), slices.Concat(wanted, others)))
}

func without(names, those []string) []string {
	return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(those, n) })
}

// missing asks the runtime whether it lacks a handler, and makes ready for a restart.
func (i *installation) missing(ctx context.Context, lacks func(*containerd.LiveConfig) error) (bool, error) {
	if !i.engine.Running() {
		return false, nil
	}
	live, err := i.engine.Live(ctx)
	if err != nil || lacks(live) == nil {
		return false, err
	}
	i.fresh = live.Has(slices.Concat(i.plan.Handlers, i.dropped)) == nil
	if i.restart {
		i.service, err = i.serviceOf(i.engine)
	}
	return true, err
}
