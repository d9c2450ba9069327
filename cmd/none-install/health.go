package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// health is what probes and Prometheus are told.
type health struct {
	mu     sync.Mutex
	report report
	fine   bool      // the node is as the DaemonSet wants it
	looked time.Time // the last look ended
}

func (h *health) set(r report, remove bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report, h.looked = r, time.Now()
	want := ready
	if remove {
		want = notInstalled
	}
	h.fine = r.State == want
}

// serve answers until the end. A watcher that has not looked for longer than
// limit hangs.
func (h *health) serve(ctx context.Context, l net.Listener, limit time.Duration, logf func(string, ...any)) {
	h.set(report{State: degraded, Reasons: []string{"not looked yet"}}, false)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if age := time.Since(h.looked); age > limit {
			http.Error(w, fmt.Sprintf("the last look was %s ago", age.Round(time.Second)), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.fine {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, h.report)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		fmt.Fprintln(w, "# HELP none_install_state The state of the node: 1 for the one that it is in.\n# TYPE none_install_state gauge")
		for _, s := range []nodeState{notInstalled, installed, pendingRestart, ready, degraded} {
			value := 0
			if h.report.State == s {
				value = 1
			}
			fmt.Fprintf(w, "none_install_state{state=%q} %d\n", s, value)
		}
	})
	server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		logf("serve probes: %v", err)
	}
}
