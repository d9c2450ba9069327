package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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

func (x *examination) bad(format string, args ...any) {
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
	x.report.Version, x.Handlers = x.state.Version, x.state.handlers()
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
	if s, err := fileSum(conflist); err != nil || s != sum(x.conflist) {
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
			x.bad("containerd's config has no handler %q", h)
			continue
		}
		for _, text := range disk.Deviates(h, base, confDir) {
			x.bad("handler %q is not %q with a CNI directory (was, is): %s", h, base, text)
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
	if err := live.Lacks(x.Handlers, confDir); err != nil {
		x.State = pendingRestart
		x.bad("%v", err)
		return
	}
	x.checkPlugin(live.BinDirs)
	for _, h := range x.Handlers {
		if !live.Copied(h, disk.Base(x.state.Handlers[h])) {
			x.State = pendingRestart
			x.bad("containerd has loaded another %q than its config says", h)
		}
		if s, ok := live.Info["lastCNILoadStatus."+h]; ok && s != "OK" {
			x.bad("containerd could not load %s: %s", conflist, s)
		}
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
		if s != sum(x.plugin) {
			x.bad("%s is not the plugin of this version (%v)", path, orMissing(s, err))
		} else if st, err := os.Stat(path); err == nil && st.Mode()&0o111 == 0 {
			x.bad("%s is not executable", path)
		}
		return
	}
	x.bad("there is no plugin in %s", strings.Join(dirs, ", "))
}
