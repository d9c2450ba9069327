package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cni-none/cni-none/cmd/none-install/containerd"
)

// installer is what is to be on the node, and where the node's runtime is. It
// does not change once it is made.
type installer struct {
	version        string
	plugin         []byte
	conflist       []byte   // asked for; nil: network says which
	placeholder    string   // asked for
	handlers       handlers // asked for; none: those that are there
	baseHandler    string
	where          containerd.Where
	restart        bool
	restartCommand string
	timeout        time.Duration
	permit         func(context.Context) (end func(error) error, err error) // asked before a restart; nil: it may
	dryRun         bool
	logf           func(format string, args ...any)
}

// find finds the runtime, st being what is known from before.
func (in *installer) find(ctx context.Context, st *state) (*containerd.Engine, error) {
	w := in.where
	if st != nil {
		w.LastProgram, w.LastConfig = st.Containerd, st.Config
	}
	e, err := containerd.Find(ctx, w)
	return e, remedied(err)
}

// serviceOf notes how the runtime is to be restarted.
func (in *installer) serviceOf(e *containerd.Engine) (*containerd.Service, error) {
	s, err := e.Service(in.restartCommand, in.timeout, in.logf)
	return s, remedied(err)
}

// writeFile is the step that puts data at path.
func (in *installer) writeFile(path string, data []byte, mode fs.FileMode) step {
	return step{"write " + path, func() (func() error, error) {
		old, err := os.ReadFile(path)
		missing := errors.Is(err, fs.ErrNotExist)
		if err != nil && !missing {
			return nil, err
		}
		wrote, err := write(path, data, mode)
		if err != nil || !wrote {
			return nil, err
		}
		in.logf("wrote %s", path)
		return func() error {
			if missing {
				return remove(path)
			}
			_, err := write(path, old, mode)
			return err
		}, nil
	}}
}

// makeDir is the step that makes a directory and those above it.
func makeDir(dir string) step {
	return step{"make " + dir, func() (func() error, error) {
		made, err := mkdir(dir)
		if len(made) == 0 {
			return nil, err
		}
		return func() error {
			var err error
			for _, d := range slices.Backward(made) {
				err = errors.Join(err, os.Remove(d))
			}
			return err
		}, err
	}}
}

// editConfig is the step that writes containerd's config and compares what
// containerd then makes of it. A difference puts the file back.
func (in *installer) editConfig(ctx context.Context, e *containerd.Engine, p *containerd.Plan, said string) step {
	return step{"write " + p.Target.Path, func() (func() error, error) {
		undo := func() error { return writeConfig(p.Target.Path, p.Target.Text, p.Target.Exists) }
		err := writeConfig(p.Target.Path, p.Text, p.Text != nil)
		if err == nil {
			var after *containerd.DiskConfig
			if after, err = e.Dump(ctx); err == nil {
				err = p.Check(after)
			}
		}
		switch {
		case err == nil && p.Unchanged():
			return nil, nil
		case err == nil:
			in.logf("%s", said)
			return undo, nil
		}
		if uerr := undo(); uerr != nil {
			return nil, fmt.Errorf("%w\nand putting %s back failed: %w", err, p.Target.Path, uerr)
		}
		return nil, fmt.Errorf("%w\n%s is as it was", err, p.Target.Path)
	}}
}

// writeConfig gives a config file its text, or removes it.
func writeConfig(path string, text []byte, keep bool) error {
	if !keep {
		return remove(path)
	}
	_, err := write(path, text, 0o644)
	return err
}

// serve is the step before the config changes. It does nothing; its undo, which
// comes when the config is as it was, makes the runtime run with that, whatever a
// restart has done to it. prepare is what else has to be put back for that.
func (in *installer) serve(ctx context.Context, s *containerd.Service, e *containerd.Engine, p *containerd.Plan, prepare func() error) step {
	return step{"run the runtime", func() (func() error, error) {
		if s == nil {
			return nil, nil
		}
		return func() error {
			if !s.Tried() {
				return nil
			}
			if err := prepare(); err != nil {
				return fmt.Errorf("%w: %w", errKeep, err)
			}
			ctx := context.WithoutCancel(ctx) // a node without its runtime is no place to stop
			restarted, err := s.Recover(ctx)
			switch {
			case err == nil && restarted:
				in.logf("%s is as it was, and the runtime runs with it", p.Target.Path)
				return nil
			case err == nil:
				in.logf("%s is as it was, and the runtime was not stopped (process %d)", p.Target.Path, e.PID())
				return nil
			}
			err = fmt.Errorf("%s is as it was, but the runtime did not come back with it either: %w", p.Target.Path, err)
			if s.Has(ctx, p.Handlers) {
				err = fmt.Errorf("%w; it still has the handler, so %w", err, errKeep)
			}
			return err
		}, nil
	}}
}

// restartRuntime is the step that restarts the runtime until it is as ok wants it.
func restartRuntime(ctx context.Context, s *containerd.Service, ok func(*containerd.LiveConfig) error) step {
	return step{"restart the runtime", func() (func() error, error) { return nil, s.Restart(ctx, ok) }}
}

// mayRestart asks for permission. What it returns is called with the restart's end.
func (in *installer) mayRestart(ctx context.Context) (end func(error) error, err error) {
	if in.permit == nil {
		return func(error) error { return nil }, nil
	}
	return in.permit(ctx)
}

// removeTemporary removes what a run that was killed has left beside files.
func removeTemporary(files ...string) error {
	for _, f := range files {
		tmp := tempName(f)
		if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// clear removes what is on the node besides the handler, and the state last.
func (in *installer) clear(st *state) error {
	if err := removeTemporary(st.Target); err != nil {
		return err
	}
	for _, f := range st.Files {
		if err := remove(f); err != nil {
			return err
		}
		in.logf("removed %s", f)
	}
	dirs := slices.Clone(st.Dirs)
	slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) })
	for _, d := range dirs {
		_ = os.Remove(d) // something else may be in it by now
	}
	for _, f := range []string{trialFile, stateFile} {
		if err := remove(f); err != nil {
			return err
		}
	}
	_ = os.Remove(stateDir)
	return nil
}

// missingDirs are those of dir and the ones above it that are not there.
func missingDirs(dir string) []string {
	var out []string
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			out = append(out, dir)
		}
	}
	return out
}
