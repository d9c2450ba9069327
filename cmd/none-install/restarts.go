package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// restartsFile outlives the daemon's process, not the machine's: a crash of ours
// must not make it forget how often the runtime was restarted.
const restartsFile = "/run/cni-none.restarts"

// pauses are what has to pass since the last restart when there were one, two
// and so on within the hour. After the last of them there is none.
var pauses = []time.Duration{0, 2 * time.Minute, 10 * time.Minute}

// restarts decides when the daemon may restart the runtime: one node at a time in
// the whole cluster, with growing pauses, and at most three times an hour.
type restarts struct {
	cluster *cluster
	timeout time.Duration // of one restart
}

// restartLog is when the runtime was restarted within the last hour.
type restartLog struct {
	Times  []time.Time `json:"times"`
	Failed bool        `json:"failed"` // the last one
}

// later says that the runtime may not be restarted now.
type later struct {
	why  string
	done bool // three in an hour: the node is degraded
}

func (l *later) Error() string { return l.why }

// readRestarts forgets what is older than an hour.
func readRestarts(now time.Time) (restartLog, error) {
	var l restartLog
	data, err := os.ReadFile(restartsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	if err != nil {
		return l, fmt.Errorf("read when the runtime was restarted: %w", err)
	}
	for len(l.Times) > 0 && now.Sub(l.Times[0]) > time.Hour {
		l.Times = l.Times[1:]
	}
	return l, nil
}

func (l restartLog) save() error {
	data, err := json.Marshal(l)
	if err == nil {
		_, err = write(restartsFile, data, 0o600)
	}
	return err
}

// next says when the next restart may be; nil: now.
func (l restartLog) next(now time.Time) *later {
	n := len(l.Times)
	if n >= len(pauses) {
		return &later{fmt.Sprintf("the runtime was restarted %d times within an hour, last at %s; not again before %s",
			n, clock(l.Times[n-1]), clock(l.Times[0].Add(time.Hour))), true}
	}
	if n > 0 {
		if at := l.Times[n-1].Add(pauses[n]); at.After(now) {
			return &later{fmt.Sprintf("the runtime was restarted at %s; not again before %s", clock(l.Times[n-1]), clock(at)), false}
		}
	}
	return nil
}

func clock(t time.Time) string { return t.UTC().Format(time.TimeOnly) }

// blocked says that the last restart failed and that it is not time for another:
// until then nothing is written that containerd might not start with.
func (r *restarts) blocked() error {
	l, err := readRestarts(time.Now())
	if err != nil {
		return err
	}
	if why := l.next(time.Now()); why != nil && l.Failed {
		return why
	}
	return nil
}

// permit allows one restart and notes it, before it is done. The runtime may not be
// restarted again before what it returns was called with the restart's end.
func (r *restarts) permit(ctx context.Context) (end func(error) error, err error) {
	now := time.Now()
	l, err := readRestarts(now)
	if err != nil {
		return nil, err
	}
	if why := l.next(now); why != nil {
		return nil, why
	}
	if err := r.cluster.acquire(ctx, 3*r.timeout); err != nil {
		return nil, err
	}
	l.Times, l.Failed = append(l.Times, now), true
	if err := l.save(); err != nil {
		return nil, err
	}
	return func(err error) error {
		if err != nil {
			return nil // the lease runs out: what failed here waits before it is tried elsewhere
		}
		l.Failed = false
		return errors.Join(l.save(), r.cluster.release(ctx))
	}, nil
}

// restartLease is held by the node that restarts its runtime.
const restartLease = "cni-none-restart"

// acquire takes the lease, or says which node has it.
func (c *cluster) acquire(ctx context.Context, duration time.Duration) error {
	if c == nil {
		return nil
	}
	leases := c.leases.Leases(c.namespace)
	lease, err := leases.Get(ctx, restartLease, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return fmt.Errorf("read the lease %s: %w", restartLease, err)
	}
	if missing {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: restartLease}}
	}
	now := metav1.NowMicro()
	if s := lease.Spec; s.HolderIdentity != nil && *s.HolderIdentity != "" && *s.HolderIdentity != c.node && s.RenewTime != nil && s.LeaseDurationSeconds != nil &&
		now.Time.Before(s.RenewTime.Add(time.Duration(*s.LeaseDurationSeconds)*time.Second)) {
		return &later{fmt.Sprintf("node %s restarts its runtime, and one does at a time", *s.HolderIdentity), false}
	}
	seconds := int32(duration.Seconds())
	lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &c.node, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now}
	if missing {
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
	} else {
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	switch {
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return &later{"another node restarts its runtime, and one does at a time", false}
	case err != nil:
		return fmt.Errorf("take the lease %s: %w", restartLease, err)
	}
	return nil
}

func (c *cluster) release(ctx context.Context) error {
	if c == nil {
		return nil
	}
	leases := c.leases.Leases(c.namespace)
	lease, err := leases.Get(ctx, restartLease, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the lease %s: %w", restartLease, err)
	}
	if h := lease.Spec.HolderIdentity; h == nil || *h != c.node {
		return nil
	}
	lease.Spec.HolderIdentity = nil
	if _, err := leases.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("give the lease %s back: %w", restartLease, err)
	}
	return nil
}
