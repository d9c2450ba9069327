package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

const watchUsage = `usage: none-audit watch [flags]

Looks at every network namespace every --interval, and at once when netlink
says that one has changed. A namespace is expected to be isolated when the CNI
cache says that the none plugin made it so, or when it has been seen isolated,
with a process in it, for --settle. One line is printed for each that starts or
ceases to be as expected, and for any other that was isolated and is no more.

It ends on SIGTERM with status 0, and with status 2 when it can watch no longer.

flags:
`

// pause bounds how often events make us look at a namespace that somebody
// changes all the time.
const pause = 100 * time.Millisecond

func watch(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("none-audit watch", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, watchUsage); fs.PrintDefaults() }
	w := &watcher{known: map[uint64]*watched{}, out: stdout, err: stderr}
	from := sourceFlags(fs)
	fs.DurationVar(&w.interval, "interval", 10*time.Second, "`time` between two looks at everything")
	fs.DurationVar(&w.settle, "settle", 3*time.Second, "`time` after which an isolated namespace is expected to stay so")
	fs.BoolVar(&w.claimedOnly, "claimed-only", false, "expect isolation only where the CNI cache says so")
	fs.BoolVar(&w.asJSON, "json", false, "print each change as a line of JSON")
	addr := fs.String("listen", "", "`address` to serve Prometheus metrics on (/metrics) and health (/healthz), for instance 127.0.0.1:9469")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK
		}
		return exitUnknown
	}
	if fs.NArg() > 0 {
		return fail(stderr, "watch takes no arguments")
	}
	if w.interval < 100*time.Millisecond {
		return fail(stderr, "--interval %v is too short: 100ms or more", w.interval)
	}
	w.records = newRecords(from)

	var err error
	if w.events, err = listen(); err != nil {
		return fail(stderr, "%v", err)
	}
	defer w.events.close()
	if *addr != "" {
		l, err := net.Listen("tcp", *addr)
		if err != nil {
			return fail(stderr, "%v", err)
		}
		fmt.Fprintf(stderr, "none-audit: metrics on http://%s/metrics\n", l.Addr())
		srv := &http.Server{
			Handler: w.metrics.handler(3 * w.interval), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		}
		defer func() { _ = srv.Close() }()
		go func() { _ = srv.Serve(l) }()
	}
	if err := w.run(ctx); err != nil {
		return fail(stderr, "%v", err)
	}
	return exitOK
}

// A watched namespace, and what was last said about it. What is kept of it does
// not grow with what its owner puts in.
type watched struct {
	id       int // see events
	ns       *namespace
	expected string    // why it ought to be isolated, or ""
	since    time.Time // isolated, and with a process in it, since
	missed   int       // looks at everything that did not find it
	row      row
}

type watcher struct {
	interval, settle    time.Duration
	claimedOnly, asJSON bool
	out, err            io.Writer

	events  *events
	records *records
	known   map[uint64]*watched // by inode
	metrics metrics
}

func (w *watcher) run(ctx context.Context) error {
	if err := w.lookEverywhere(); err != nil {
		return err
	}
	everything := time.NewTicker(w.interval)
	defer everything.Stop()
	settled := time.NewTimer(w.settle)
	defer settled.Stop()
	for {
		settled.Reset(w.untilSettled())
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-everything.C:
			err = w.lookEverywhere()
		case <-settled.C:
			err = w.lookAt(func(k *watched) bool { return w.settling(k) && time.Since(k.since) >= w.settle })
		case <-w.events.wake:
			if err = w.handle(w.events.take()); err == nil {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(pause):
				}
			}
		}
		if err != nil {
			return err
		}
		w.metrics.count(w.known)
	}
}

// settling says that a namespace is on its way to be expected isolated.
func (w *watcher) settling(k *watched) bool {
	return !w.claimedOnly && k.expected == "" && !k.since.IsZero()
}

func (w *watcher) untilSettled() time.Duration {
	wait := time.Hour
	for _, k := range w.known {
		if w.settling(k) {
			wait = min(wait, max(w.settle-time.Since(k.since), pause))
		}
	}
	return wait
}

// handle looks where something has happened.
func (w *watcher) handle(h heard) error {
	if h.err != nil {
		return fmt.Errorf("listen to netlink events: %w", h.err)
	}
	for _, k := range w.known {
		if h.ended[k.id] {
			if err := w.forget(k); err != nil {
				return err
			}
		}
	}
	return w.lookAt(func(k *watched) bool { return h.lost || h.changed[k.id] })
}

// lookAt looks again at some of the namespaces that are known.
func (w *watcher) lookAt(which func(*watched) bool) error {
	for _, k := range w.known {
		if which(k) {
			if err := w.lookAgain(k); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *watcher) lookAgain(k *watched) error {
	f, err := k.ns.open()
	if err != nil {
		k.since = time.Time{}
		return nil // its processes have ended; the next look at everything will tell
	}
	defer f.Close()
	if id, err := w.events.track(f); err != nil || id != k.id {
		return nil
	}
	return w.judge(k, f)
}

// lookEverywhere finds what is new and what has ended, and looks at all of it:
// whatever an event might have missed, this does not.
func (w *watcher) lookEverywhere() error {
	start := time.Now()
	s, err := scanMachine()
	if err != nil {
		return err
	}
	w.records.annotate(s)
	for _, k := range w.known {
		k.missed++
	}
	for _, ns := range s.namespaces {
		if ns.host {
			continue
		}
		if err := w.meet(ns); err != nil {
			return err
		}
	}
	for _, k := range w.known {
		// One look may miss a process that is just becoming another (execve(2)
		// from a thread). Most endings have been heard of long before.
		if k.missed > 1 {
			if err := w.forget(k); err != nil {
				return err
			}
		}
	}
	w.metrics.scanned(start, len(s.namespaces), len(s.unreadable))
	w.metrics.count(w.known)
	return nil
}

// meet looks at a namespace that the walk has found.
func (w *watcher) meet(ns *namespace) error {
	k := w.known[ns.inode]
	ns.trim()
	f, err := ns.open()
	if err != nil {
		if gone(err) {
			return nil
		}
		if k == nil {
			k = &watched{id: -1}
			w.known[ns.inode] = k
		}
		k.ns, k.missed = ns, 0
		return w.say(k, row{Verdict: unknown, Why: []string{printable(err.Error())}})
	}
	defer f.Close()
	id, err := w.events.track(f)
	if err != nil {
		fmt.Fprintf(w.err, "none-audit: net:[%d] gets no events: %v\n", ns.inode, err)
		id = -1
	}
	if k != nil && k.id != id {
		if err := w.forget(k); err != nil { // another namespace with the same number
			return err
		}
		k = nil
	}
	if k == nil {
		k = &watched{id: id}
		w.known[ns.inode] = k
	}
	k.ns, k.missed = ns, 0
	return w.judge(k, f)
}

// trim keeps of a namespace what there is room to keep.
func (ns *namespace) trim() {
	ns.processes = slices.Clone(ns.processes[:min(len(ns.processes), maxReasons)])
	ns.containers = slices.Clone(ns.containers[:min(len(ns.containers), maxReasons)])
	ns.mounts = slices.Clone(ns.mounts[:min(len(ns.mounts), 1)])
	ns.files = slices.Clone(ns.files[:min(len(ns.files), 1)])
}

func (w *watcher) judge(k *watched, f *os.File) error {
	var r row
	var err error
	r.Verdict, r.Why, r.Notes, err = inspect(f)
	if err != nil {
		r.Why = []string{printable(err.Error())}
	}
	return w.say(k, r)
}

// say compares a look with the one before and prints the change, if there is one.
func (w *watcher) say(k *watched, now row) error {
	was, wasExpected := k.row, k.expected
	now.Inode, now.Containers, now.Processes, now.Mounts, now.Files = k.ns.inode, k.ns.containers, k.ns.processes, k.ns.mounts, k.ns.files
	w.expect(k, now.Verdict)
	now.Expected = k.expected
	now.Violated = k.expected != "" && now.Verdict == notIsolated
	k.row = now

	switch same := was.Verdict == now.Verdict && slices.Equal(was.Why, now.Why); {
	case k.expected != "" && (wasExpected == "" || !same):
		if now.Violated && !was.Violated {
			w.metrics.violation()
		}
		return w.print(k, was)
	case k.expected == "" && was.Verdict == isolated && now.Verdict == notIsolated && len(was.Processes) > 0:
		return w.print(k, was)
	}
	return nil
}

// expect decides whether a namespace ought to be isolated. A process that has
// run isolated for a while relies on it, whoever made its namespace. Isolated
// for a moment is every container that is just being connected to a network,
// and without a process a namespace is anybody's work in progress. Once
// expected is expected for good: the record of a violated namespace may vanish,
// and the violation remains.
func (w *watcher) expect(k *watched, v verdict) {
	switch {
	case k.ns.claimed != "":
		k.expected = k.ns.claimed
	case k.expected != "":
	case v != isolated || len(k.ns.processes) == 0:
		k.since = time.Time{}
	case k.since.IsZero():
		k.since = time.Now()
	case !w.claimedOnly && time.Since(k.since) >= w.settle:
		k.expected = "was isolated for " + w.settle.String()
	}
}

func (w *watcher) forget(k *watched) error {
	delete(w.known, k.ns.inode)
	if k.expected == "" {
		return nil
	}
	was := k.row
	k.row.Verdict, k.row.Why, k.row.Notes, k.row.Violated = gonePast, nil, nil, false
	return w.print(k, was)
}

// gonePast is no verdict: the namespace has ended, or nothing that can be seen
// holds it.
const gonePast verdict = "gone"

// state is a verdict in the light of what was expected.
func (r *row) state() string {
	if r.Violated {
		return "violated"
	}
	return string(r.Verdict)
}

// print reports a change as one line.
func (w *watcher) print(k *watched, was row) error {
	now := time.Now().UTC()
	if w.asJSON {
		return writeJSON(w.out, struct {
			Time  time.Time `json:"time"`
			State string    `json:"state"`
			Was   string    `json:"was,omitempty"`
			row
		}{now, k.row.state(), was.state(), k.row}, "")
	}
	line := fmt.Sprintf("%s %s net:[%d] %s", now.Format("2006-01-02T15:04:05.000Z"), k.row.state(), k.row.Inode, k.row.who())
	if why := append(k.row.Why[:len(k.row.Why):len(k.row.Why)], k.row.Notes...); len(why) > 0 {
		line += ": " + strings.Join(why, ", ")
	}
	if k.row.Expected != "" {
		line += " (" + printable(k.row.Expected) + ")"
	}
	_, err := fmt.Fprintln(w.out, line)
	return err
}
