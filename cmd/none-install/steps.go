package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/cni-none/cni-none/cmd/none-install/containerd"
)

// steps are all changes of files, in the order in which they are made.
func (i *installation) steps(ctx context.Context) []step {
	binDir, targetDir := filepath.Dir(i.pluginPath), filepath.Dir(i.plan.Target.Path)
	backup := i.note(confDir, binDir, targetDir)
	steps := []step{
		makeDir(stateDir),
		{"remove what a killed run left", func() (func() error, error) {
			return nil, removeTemporary(append([]string{stateFile, i.plan.Target.Path, i.pluginPath}, i.state.Files...)...)
		}},
		{"note what is put on the node", i.saveState},
	}
	if backup != "" {
		steps = append(steps, i.writeFile(backup, i.plan.Target.Text, 0o600))
	}
	return append(steps,
		makeDir(confDir),
		i.writeFile(conflist, i.network, 0o644),
		makeDir(binDir),
		i.writeFile(i.pluginPath, i.plugin, 0o755),
		makeDir(targetDir),
		i.serve(ctx, i.service, i.engine, i.plan, i.withoutHandlers),
		i.editConfig(ctx, i.engine, i.plan, fmt.Sprintf("wrote %s: handler %s", i.plan.Target.Path, strings.Join(i.plan.Handlers, ", "))),
		step{"take our block out of a file that containerd reads no more", i.clearLeftover},
		step{"note that it is complete", i.saveComplete},
	)
}

// note puts into the state what is going to be ours. It returns where the config
// is copied to; "" where that is not needed.
func (i *installation) note(dirs ...string) (backup string) {
	// Directories are noted before they are made; a note too many does no harm,
	// since only empty ones are removed.
	for _, dir := range dirs {
		for _, d := range missingDirs(dir) {
			i.state.ownDir(d)
		}
	}
	i.state.ownFile(conflist)
	if s, err := fileSum(i.pluginPath); err != nil || s != sum(i.plugin) {
		i.state.ownFile(i.pluginPath) // one that was there before and is the same stays when we go
	}
	if t := i.plan.Target; t.Exists && !i.plan.Whole && !t.Block {
		backup = filepath.Join(stateDir, filepath.Base(t.Path)+"."+sum(t.Text)[:12])
		i.state.ownFile(backup)
	}
	return backup
}

// saveState writes the state before anything else is written, unless it says
// all of that already.
func (i *installation) saveState() (func() error, error) {
	onDisk, err := loadState()
	if err != nil || onDisk.says(i.state, i.version) {
		return nil, err
	}
	undo := func() error { return remove(stateFile) }
	if i.old != nil {
		undo = onDisk.save
	}
	i.state.Phase, i.state.Version = installing, i.version
	return undo, i.state.save()
}

// clearLeftover: the main config imports another directory now.
func (i *installation) clearLeftover() (func() error, error) {
	if i.state.Leftover == "" {
		return nil, nil
	}
	f, err := containerd.ReadFile(i.state.Leftover)
	if err != nil || !f.Block {
		return nil, err
	}
	i.logf("took the handler out of %s, which containerd does not read any more", f.Path)
	return func() error { return writeConfig(f.Path, f.Text, true) }, writeConfig(f.Path, f.Rest, len(f.Rest) > 0)
}

func (i *installation) saveComplete() (func() error, error) {
	if i.state.Phase == complete {
		return nil, nil
	}
	i.state.Phase, i.state.Leftover = complete, ""
	return nil, i.state.save()
}

// withoutHandlers takes the handlers out of the config where no process has ever
// had them: an earlier run has put them there, and no restart has proved them.
func (i *installation) withoutHandlers() error {
	if t := i.plan.Target; i.fresh && t.Block {
		return writeConfig(t.Path, t.Rest, len(t.Rest) > 0 || !i.plan.Whole)
	}
	return nil
}

// goAsWhole removes what an earlier run has put on the node too, where the
// restart that failed was the first with a handler of ours.
func (i *installation) goAsWhole(err error) error {
	if !i.fresh || i.old == nil || errors.Is(err, errKeep) {
		return err
	}
	if cerr := i.clear(i.state); cerr != nil {
		return fmt.Errorf("%w\nand while removing what was installed: %w", err, cerr)
	}
	return err
}
