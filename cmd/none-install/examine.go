package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cni-none/cni-none/cmd/none-install/containerd"
)

// examination is one look at the node.
type examination struct {
	*installer
	report
	state  *state
	engine *containerd.Engine // nil where none was found
}

// bad is a reason that is about every handler.
func (x *examination) bad(format string, args ...any) {
	x.sound = nil
	x.Reasons = append(x.Reasons, fmt.Sprintf(format, args...))
}

// badHandler is a reason that is about one.
func (x *examination) badHandler(handler, format string, args ...any) {
	x.sound = without(x.sound, []string{handler})
	x.Reasons = append(x.Reasons, fmt.Sprintf(format, args...))
}

// status is examine for a look that runs no sandbox afterwards.
func (in *installer) status(ctx context.Context) report {
	x := in.examine(ctx)
	defer x.close()
	return x.report
}

func (x *examination) close() {
	if x.engine != nil {
		x.engine.Close()
	}
}

// examine looks at the files, at the config and at what the runtime has loaded.
// It changes nothing.
func (in *installer) examine(ctx context.Context) *examination {
	x := &examination{installer: in, report: report{State: degraded}}
	var err error
	if x.state, err = loadState(); err != nil {
		x.bad("%v", err)
		return x
	}
	if x.state == nil {
		x.State = notInstalled
		return x
	}
	x.report.Version, x.Handlers, x.sound = x.state.Version, x.state.Handlers.names(), x.state.Handlers.names()
	x.files()
	if x.engine, err = in.find(ctx, x.state); err != nil {
		x.bad("%v", err)
		return x
	}
	disk, err := x.engine.Dump(ctx)
	if err != nil {
		x.bad("%v", err)
		return x
	}
	x.disk(disk)
	switch {
	case len(x.Reasons) > 0:
	case !x.engine.Running():
		x.State = pendingRestart
		x.bad("the runtime is not running")
	default:
		x.live(ctx, disk)
	}
	return x
}

// files looks at what none-install has written.
func (x *examination) files() {
	if x.state.Phase != complete {
		x.bad("a run was interrupted while %s: run install or uninstall again", x.state.Phase)
	}
	if wanted := x.wanted(x.state); !maps.Equal(wanted, x.state.Handlers) {
		x.Reasons = append(x.Reasons, fmt.Sprintf("the handlers are %s, and are to be %s", x.state.Handlers, wanted))
		x.sound = slices.DeleteFunc(x.sound, func(h string) bool { base, ok := wanted[h]; return !ok || base != x.state.Handlers[h] })
	}
	network, err := x.network(x.state)
	if err != nil {
		x.bad("%v", err)
	} else if s, err := fileSum(conflist); err != nil || s != sum(network) {
		x.bad("%s is not the one of this version (%v)", conflist, orMissing(s, err))
	}
	if err := checkConfDir(); err != nil {
		x.bad("%v", err)
	}
}

// disk looks at containerd's config as its files have it.
func (x *examination) disk(disk *containerd.DiskConfig) {
	x.checkPlugin(disk.BinDirs())
	for _, h := range x.Handlers {
		base := disk.Base(x.state.Handlers[h])
		if !disk.HasHandler(h) {
			x.badHandler(h, "containerd's config has no handler %q", h)
			continue
		}
		for _, text := range disk.Deviates(h, base, confDir) {
			x.badHandler(h, "handler %q is not %q with a CNI directory (was, is): %s", h, base, text)
		}
	}
}

// live looks at what containerd has loaded.
func (x *examination) live(ctx context.Context, disk *containerd.DiskConfig) {
	live, err := x.engine.Live(ctx)
	if err != nil {
		x.bad("%v", err)
		return
	}
	x.checkPlugin(live.BinDirs)
	for _, h := range x.Handlers {
		if err := live.Lacks([]string{h}, confDir); err != nil {
			x.State = pendingRestart
			x.badHandler(h, "%v", err)
			continue
		}
		if !live.Copied(h, disk.Base(x.state.Handlers[h])) {
			x.State = pendingRestart
			x.badHandler(h, "containerd has loaded another %q than its config says", h)
		}
		if s, ok := live.Info["lastCNILoadStatus."+h]; ok && s != "OK" {
			x.badHandler(h, "containerd could not load %s: %s", conflist, s)
		}
	}
	if err := live.Has(without(live.With(confDir), slices.Concat(x.Handlers, disk.With(confDir)))); err != nil {
		x.State = pendingRestart
		x.Reasons = append(x.Reasons, err.Error())
	}
	if len(x.Reasons) == 0 {
		x.State = installed
	}
}

func orMissing(sum string, err error) any {
	switch {
	case err != nil:
		return err
	case sum == "":
		return "it is missing"
	}
	return "its sum is " + sum[:12]
}

// checkPlugin looks for the plugin where the runtime does.
func (x *examination) checkPlugin(dirs []string) {
	for _, dir := range dirs {
		path := filepath.Join(dir, "none")
		s, err := fileSum(path)
		if s == "" && err == nil {
			continue
		}
		want := x.state.Plugin
		if x.plugin != nil {
			want = sum(x.plugin)
		}
		if s != want {
			x.bad("%s is not the plugin of this version (%v)", path, orMissing(s, err))
		} else if st, err := os.Stat(path); err == nil && st.Mode()&0o111 == 0 {
			x.bad("%s is not executable", path)
		}
		return
	}
	x.bad("there is no plugin in %s", strings.Join(dirs, ", "))
}
