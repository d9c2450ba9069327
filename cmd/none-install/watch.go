package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"time"
)

// daemonOptions are the flags of run.
type daemonOptions struct {
	remove               bool
	interval             time.Duration
	listen               string
	violations           string
	onViolation          string
	listener, auditLines net.Listener // once they are open
}

func (o *options) daemonFlags(fl *flag.FlagSet) {
	o.installFlags(fl)
	fl.BoolVar(&o.remove, "remove", false, "uninstall instead, as soon as that is possible")
	fl.DurationVar(&o.interval, "interval", time.Minute, "how often to look again")
	fl.StringVar(&o.listen, "listen", "", "`address` to serve /healthz, /readyz and Prometheus' /metrics on")
	fl.StringVar(&o.violations, "violations", "", "`socket` to take the lines of none-audit watch --json from")
	fl.StringVar(&o.onViolation, "on-violation", "report", "report: an Event at the pod; delete: the pod goes, too")
}

// beforeRoot opens what lies in the container and not on the node.
func (j *job) beforeRoot() error {
	if j.onViolation != "report" && j.onViolation != "delete" {
		return fmt.Errorf("--on-violation %s: it is report or delete", j.onViolation)
	}
	var err error
	if j.cluster, err = findCluster(); err != nil {
		return err
	}
	if j.violations != "" {
		if j.auditLines, err = listenFor(j.violations); err != nil {
			return fmt.Errorf("listen for violations: %w", err)
		}
	}
	if j.listen != "" {
		j.listener, err = net.Listen("tcp", j.listen)
	}
	return err
}

func (j *job) daemon(ctx context.Context) error {
	in := *j.installer
	rs := &restarts{cluster: j.cluster, timeout: in.timeout}
	in.permit = rs.permit
	w := &watcher{installer: &in, cluster: j.cluster, restarts: rs, remove: j.options.remove, interval: j.interval}
	if j.auditLines != nil {
		v := &violations{cluster: j.cluster, listen: j.auditLines, remove: j.onViolation == "delete", logf: j.logf}
		go v.run(ctx)
	}
	if j.listener != nil {
		go w.health.serve(ctx, j.listener, 3*j.interval+2*in.timeout, j.logf)
	}
	return w.run(ctx)
}

// fullEvery is how often the watcher runs sandboxes on a node that is in order;
// in between it looks without.
const fullEvery = time.Hour

// watcher keeps the node as it should be until it is told to stop. A handler's label
// is on exactly while the last look found it in order. Being stopped changes
// nothing: what is installed stays, and the labels stay true.
type watcher struct {
	*installer
	cluster  *cluster
	restarts *restarts
	remove   bool // uninstall instead, as soon as that is possible
	interval time.Duration
	health   health

	pause    time.Duration // between the last look and the next
	runtime  int           // the runtime's process when it was last asked for
	last     string        // what was said last
	lastFull time.Time     // when sandboxes were run last
	tried    []string      // the handlers whose sandbox was as it has to be
}

func (w *watcher) run(ctx context.Context) error {
	w.pause, w.runtime = w.interval, w.where.PID()
	for {
		r, err := w.look(ctx)
		if ctx.Err() != nil {
			return nil // what was found while being stopped says nothing
		}
		if err != nil {
			return err // what starts us again has us look again
		}
		w.say(ctx, r)
		if !w.rest(ctx, r.State) {
			return nil
		}
	}
}

// soon is how long the watcher gives a runtime that has started to serve; each rest
// after that one is twice as long, up to the interval.
const soon = 2 * time.Second

// rest waits until it is time for another look: after the interval. A node that is
// not ready mostly waits for its runtime to start anew, and is looked at soon after.
func (w *watcher) rest(ctx context.Context, s nodeState) bool {
	w.pause = min(2*w.pause, w.interval)
	end := time.Now().Add(w.pause)
	tick := time.NewTicker(min(soon, w.interval))
	defer tick.Stop()
	for time.Now().Before(end) {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		if pid := w.where.PID(); s != ready && pid != 0 && pid != w.runtime {
			w.runtime, w.pause = pid, min(soon, w.interval)
			end = time.Now().Add(w.pause)
		}
	}
	return true
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
	// The labels go before anything else, so that no pod is sent to a node that is
	// about to lose the handler.
	if err = w.cluster.label(ctx, nil, false); err == nil {
		err = w.uninstall(ctx)
	}
	var wait *later
	switch {
	case err == nil:
		return report{State: notInstalled}, nil
	case errors.As(err, &wait) && !wait.done:
		return report{State: pendingRestart, Reasons: []string{wait.why}}, nil
	case errors.Is(err, errPending):
		return report{State: pendingRestart}, nil
	default:
		return report{State: degraded, Reasons: []string{err.Error()}}, nil
	}
}

// say writes the state to the log, where it is new, and to the node.
func (w *watcher) say(ctx context.Context, r report) {
	w.health.set(r, w.remove)
	if r.String() != w.last {
		w.last = r.String()
		w.logf("%s %s", time.Now().UTC().Format(time.RFC3339), w.last)
	}
	err := w.tell(ctx, r)
	if err != nil {
		w.logf("%v", err)
		w.last = ""
	}
}

func (w *watcher) tell(ctx context.Context, r report) error {
	if r.State == notInstalled && w.remove {
		return w.cluster.leave(ctx)
	}
	err := w.cluster.label(ctx, w.tried, r.State == ready)
	if r.State == ready && err == nil {
		err = w.cluster.removeTaint(ctx)
	}
	return errors.Join(err, w.cluster.show(ctx, r))
}

// reconcile is one look: what is missing is repaired, with its label off meanwhile.
func (w *watcher) reconcile(ctx context.Context) report {
	r := w.status(ctx)
	if r.State == pendingRestart && len(without(slices.Clone(r.sound), w.tried)) > 0 {
		// A handler waits for a restart, and others are as good as before we were started.
		r = w.verify(ctx)
		w.tried = r.Ready
	}
	if r.State != installed {
		if r, done := w.repair(ctx, r); done {
			return r
		}
	}
	if time.Since(w.lastFull) < fullEvery {
		r.State = ready
		return r
	}
	if r = w.verify(ctx); r.State == ready {
		w.lastFull = time.Now()
	}
	w.tried = r.Ready
	return r
}

// repair installs what is missing, and restarts the runtime where it may. It is
// done with the look where something is still to be waited for.
func (w *watcher) repair(ctx context.Context, r report) (report, bool) {
	w.lastFull = time.Time{}
	w.tried = slices.DeleteFunc(w.tried, func(h string) bool { return !slices.Contains(r.sound, h) })
	if err := w.cluster.label(ctx, w.tried, false); err != nil {
		w.logf("%v", err)
	}
	if r.State == pendingRestart && !w.restart {
		return r, true
	}
	if err := w.restarts.blocked(); err != nil {
		r.State, r.Reasons = degraded, []string{"the last restart failed: " + err.Error()}
		return r, true
	}
	err := w.install(ctx)
	var wait *later
	switch {
	case errors.As(err, &wait) && !wait.done:
		r.State, r.Reasons = pendingRestart, append(r.Reasons, wait.why)
	case errors.Is(err, errPending):
		return r, false
	case err != nil:
		r.State, r.Reasons = degraded, []string{err.Error()}
	default:
		return r, false
	}
	return r, true
}
