package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cni-none/cni-none/cmd/none-install/containerd"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// removal is one uninstall: everything that was decided before anything is touched.
type removal struct {
	*installer
	engine  *containerd.Engine
	service *containerd.Service // nil: no restart
	plan    *containerd.Plan
	state   *state
}

// uninstall takes everything back: first the handler, and only when the runtime
// runs without it, the directory that it watched.
func (in *installer) uninstall(ctx context.Context) error {
	st, err := loadState()
	if err != nil {
		return err
	}
	if st == nil {
		// A run that was killed before it had noted anything can have left these.
		_ = os.Remove(tempName(stateFile))
		_ = os.Remove(stateDir)
		in.logf("not installed: nothing to do")
		return nil
	}
	e, err := in.find(ctx, st)
	if err != nil {
		return err
	}
	defer e.Close()
	if !e.Running() {
		return fmt.Errorf("the runtime is not running, so it cannot say whether hermetic pods exist; start it first")
	}
	if err := refuseSandboxes(ctx, e, st.Handlers.names()); err != nil {
		return err
	}
	r := &removal{installer: in, engine: e, state: st}
	if err := r.decide(ctx); err != nil {
		return err
	}
	if in.dryRun {
		in.logf("would take the handlers %s out of %s, and when the runtime runs without them remove %s", strings.Join(r.plan.Gone, ", "), st.Target, strings.Join(st.Files, ", "))
		return nil
	}
	return r.carryOut(ctx)
}

func (r *removal) decide(ctx context.Context) error {
	target, err := containerd.ReadFile(r.state.Target)
	if err != nil {
		return err
	}
	main, err := containerd.ReadFile(r.engine.Config)
	if err != nil {
		return err
	}
	before, err := r.engine.Dump(ctx)
	if err != nil {
		return err
	}
	if others := without(before.With(confDir), r.state.Handlers.names()); len(others) > 0 {
		// containerd 2 ends when the directory of one of its handlers goes.
		return fmt.Errorf("containerd's config still has the handler %s with the directory %s, and none-install did not write it; take it out, then run this again", strings.Join(others, ", "), confDir)
	}
	r.plan = containerd.PlanRemoval(target, main, before, r.state.Handlers.names(), r.state.Whole)
	return nil
}

// carryOut takes the handler out, has the runtime run without it where it may
// restart it, and then removes the rest.
func (r *removal) carryOut(ctx context.Context) error {
	live, err := r.engine.Live(ctx)
	if err != nil {
		return err
	}
	// Among what is loaded may be a handler that was taken out of the files before.
	gone := func(l *containerd.LiveConfig) error { return l.Has(slices.Concat(r.plan.Gone, l.With(confDir))) }
	loaded := gone(live)
	if loaded != nil && r.restart {
		if r.service, err = r.serviceOf(r.engine); err != nil {
			return err
		}
	}
	var t transaction
	if err := t.run(r.steps(ctx)...); err != nil {
		return err
	}
	if err := r.checkGone(ctx); err != nil {
		return err
	}
	switch {
	case loaded == nil:
	case r.service == nil:
		r.logf("%v: restart the runtime, then run this again; the files stay until then, since containerd ends when a directory that it watches goes", loaded)
		return errPending
	default:
		end, err := r.mayRestart(ctx)
		if err != nil {
			return err
		}
		err = t.run(restartRuntime(ctx, r.service, gone))
		if eerr := end(err); eerr != nil {
			r.logf("%v", eerr)
		}
		if err != nil {
			return err
		}
		r.logf("the runtime runs again (process %d), without the handler", r.engine.PID())
	}
	// A pod may have started between the first look and the restart.
	if err := refuseSandboxes(ctx, r.engine, r.plan.Gone); err != nil {
		return err
	}
	if err := r.clear(r.state); err != nil {
		return err
	}
	if err := remove(restartsFile); err != nil { // there is nothing left to restart the runtime for
		return err
	}
	r.logf("uninstalled")
	return nil
}

func (r *removal) steps(ctx context.Context) []step {
	steps := []step{{"note that it goes", func() (func() error, error) {
		if r.state.Phase == uninstalling {
			return nil, nil
		}
		undo := r.state.clone().save
		r.state.Phase = uninstalling
		return undo, r.state.save()
	}}}
	steps = append(steps, r.serve(ctx, r.service, r.engine, r.plan, nothing))
	if r.plan.Target.Block {
		steps = append(steps, r.editConfig(ctx, r.engine, r.plan, "took the handler out of "+r.state.Target))
	}
	return steps
}

func nothing() error { return nil }

// checkGone looks for a handler that came back another way.
func (r *removal) checkGone(ctx context.Context) error {
	after, err := r.engine.Dump(ctx)
	if err != nil {
		return err
	}
	for _, h := range r.plan.Gone {
		if after.HasHandler(h) {
			return fmt.Errorf("containerd's config still has the handler %q, and not from none-install's block in %s: another program rewrote the file; take the handler out by hand, then run this again", h, r.state.Target)
		}
	}
	return nil
}

// refuseSandboxes names the hermetic pods that are left: without the handler,
// their DEL would go to the cluster's network.
func refuseSandboxes(ctx context.Context, e *containerd.Engine, handlers []string) error {
	if err := sweep(ctx, e, handlers); err != nil {
		return err
	}
	list, err := e.Sandboxes(ctx, handlers)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range list {
		if s.State == cri.PodSandboxState_SANDBOX_NOTREADY {
			// It has ended, and only the record of it is left.
			if err := removeSandbox(ctx, e, s.Id); err != nil {
				return err
			}
			continue
		}
		names = append(names, fmt.Sprintf("%s/%s (%s, %s)", s.Metadata.GetNamespace(), s.Metadata.GetName(), s.Id[:min(13, len(s.Id))], s.State))
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("hermetic pods exist on this node; delete them first: %s", strings.Join(names, "; "))
}
