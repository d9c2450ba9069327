package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const watchDescription = `Looks at every network namespace every --interval, when the CNI cache of root's
runtimes has changed, and at once when netlink says that one has changed. A
namespace is expected to be isolated when the CNI cache says that the none plugin
made it so, or when it has been seen isolated, with a process in it, for --settle.
One line is printed for each that starts or ceases to be as expected, and for any
other that was isolated and is no more.

It ends on SIGTERM with status 0, and with status 2 when it can watch no longer.`

func watchSetup(fs *flag.FlagSet) func(context.Context, []string, io.Writer, io.Writer) int {
	w := newWatcher()
	from := sourceFlags(fs)
	fs.DurationVar(&w.interval, "interval", 10*time.Second, "`time` between two looks at everything")
	fs.DurationVar(&w.settle, "settle", 3*time.Second, "`time` after which an isolated namespace is expected to stay so")
	fs.BoolVar(&w.claimedOnly, "claimed-only", false, "expect isolation only where the CNI cache says so")
	fs.BoolVar(&w.asJSON, "json", false, "print each change as a line of JSON")
	addr := fs.String("listen", "", "`address` to serve Prometheus metrics on (/metrics) and health (/healthz), for instance 127.0.0.1:9469")
	return func(ctx context.Context, args []string, stdout, stderr io.Writer) int {
		if len(args) > 0 {
			return fail(stderr, "watch takes no arguments")
		}
		if w.interval < 100*time.Millisecond {
			return fail(stderr, "--interval %v is too short: 100ms or more", w.interval)
		}
		w.out, w.err, w.records = stdout, stderr, newRecords(from)
		return w.watch(ctx, *addr)
	}
}

func (w *watcher) watch(ctx context.Context, addr string) int {
	var err error
	if w.events, err = listen(); err != nil {
		return fail(w.err, "%v", err)
	}
	defer w.events.close()
	if addr != "" {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return fail(w.err, "%v", err)
		}
		fmt.Fprintf(w.err, "none-audit: metrics on http://%s/metrics\n", l.Addr())
		srv := &http.Server{
			Handler: w.metrics.handler(3 * w.interval), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		}
		defer func() { _ = srv.Close() }()
		go func() { _ = srv.Serve(l) }()
	}
	if err := w.run(ctx); err != nil {
		return fail(w.err, "%v", err)
	}
	return exitOK
}

// walk is a look through /proc, and how long it took.
type walk struct {
	scan  *scan
	err   error
	start time.Time
}

// walkAlways walks through /proc every interval, and when containers come and go, apart
// from everything else, since a user with many mounts and files can make that take long.
func (w *watcher) walkAlways(ctx context.Context, walks chan<- walk) {
	every := time.NewTicker(w.interval)
	defer every.Stop()
	touched := w.records.from.touched(ctx)
	for {
		start := time.Now()
		s, err := scanMachine()
		if err == nil {
			w.records.annotate(s)
		}
		select {
		case walks <- walk{s, err, start}:
		case <-ctx.Done():
			return
		}
		select {
		case <-every.C:
		case <-touched:
		case <-ctx.Done():
			return
		}
	}
}
