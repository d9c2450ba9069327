package main

import (
	"context"
	"errors"
	"time"
)

// fullEvery is how often the watcher runs a sandbox on a node that is in order;
// in between it looks without one.
const fullEvery = time.Hour

// watcher keeps the node as it should be until it is told to stop. The label is on
// exactly while the last look found everything in order. Being stopped changes
// nothing: what is installed stays, and the label stays true.
type watcher struct {
	*installer
	node     *kubeNode
	remove   bool // uninstall instead, as soon as that is possible
	interval time.Duration

	last     string    // what was said last
	lastFull time.Time // when a sandbox was run last
	gaveUp   bool      // a restart failed: another every minute would take the node down for good
}

func (w *watcher) run(ctx context.Context) error {
	for {
		r, err := w.look(ctx)
		if ctx.Err() != nil {
			return nil // what was found while being stopped says nothing
		}
		if err != nil {
			return err // what starts us again has us look again
		}
		w.say(ctx, r)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.interval):
		}
	}
}

func (w *watcher) look(ctx context.Context) (report, error) {
	unlock, err := w.lock(ctx)
	if err != nil {
		return report{}, err
	}
	defer unlock()
	if !w.remove {
		return w.reconcile(ctx), nil
	}
	switch err := uninstallNode(ctx, w.installer, w.node); {
	case err == nil:
		return report{State: notInstalled}, nil
	case errors.Is(err, errPending):
		return report{State: pendingRestart}, nil
	default:
		return report{State: degraded, Reasons: []string{err.Error()}}, nil
	}
}

// say writes the state to the log, where it is new, and to the node.
func (w *watcher) say(ctx context.Context, r report) {
	if r.String() != w.last {
		w.last = r.String()
		w.logf("%s %s", time.Now().UTC().Format(time.RFC3339), w.last)
	}
	if err := w.node.label(ctx, r.State == ready); err != nil {
		w.logf("%v", err)
		w.last = ""
	}
	if err := w.node.show(ctx, r); err != nil {
		w.logf("%v", err)
	}
}

// reconcile is one look: what is missing is repaired, with the label off meanwhile.
func (w *watcher) reconcile(ctx context.Context) report {
	in := w.installer
	if w.gaveUp {
		in = in.withoutRestart()
	}
	r := in.status(ctx)
	if r.State != installed {
		w.lastFull = time.Time{}
		if err := w.node.label(ctx, false); err != nil {
			w.logf("%v", err)
		}
		if r.State == pendingRestart && !in.restart {
			return r
		}
		if err := in.install(ctx); err != nil {
			w.gaveUp = w.gaveUp || in.restart
			return report{State: degraded, Version: r.Version, Reasons: []string{err.Error()}}
		}
	}
	if time.Since(w.lastFull) < fullEvery {
		r.State = ready
		return r
	}
	if r = in.verify(ctx); r.State == ready {
		w.lastFull = time.Now()
	}
	return r
}

func (in *installer) withoutRestart() *installer {
	c := *in
	c.restart = false
	return &c
}

// uninstallNode takes the label off before anything else, so that no pod is sent
// to a node that is about to lose the handler.
func uninstallNode(ctx context.Context, in *installer, node *kubeNode) error {
	if !in.dryRun {
		if err := node.label(ctx, false); err != nil {
			return err
		}
	}
	return in.uninstall(ctx)
}
