package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// metrics is what watch serves, in Prometheus' text format 0.0.4. It is small
// enough to write by hand, without a client library.
type metrics struct {
	mu         sync.Mutex
	states     map[string]int // expected namespaces, by state
	violated   []row          // at most maxViolated of them
	skipped    []string
	violations int
	seen       int
	unreadable int
	scans      int
	last       time.Time
	took       time.Duration
}

// maxViolated bounds the series that name a violated namespace. The count is exact.
const maxViolated = 100

func (m *metrics) violation() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.violations++
}

func (m *metrics) scanned(start time.Time, seen, unreadable int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scans++
	m.last, m.took = time.Now(), time.Since(start)
	m.seen, m.unreadable = seen, unreadable
}

func (m *metrics) count(known map[uint64]*watched, skipped []string) {
	states := map[string]int{}
	var violated []row
	for _, k := range known {
		if k.expected == "" {
			continue
		}
		states[k.row.state()]++
		if k.row.Violated && len(violated) < maxViolated {
			violated = append(violated, k.row)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states, m.violated, m.skipped = states, violated, skipped[:min(len(skipped), maxViolated)]
}

// handler serves the metrics, and /healthz: whether the last look at everything
// is younger than stale. A scrape that succeeds does not say that.
func (m *metrics) handler(stale time.Duration) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(m.text())
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		m.mu.Lock()
		age := time.Since(m.last)
		m.mu.Unlock()
		if age > stale {
			http.Error(w, "no look at the machine for a while", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

func (m *metrics) text() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b bytes.Buffer
	head := func(name, kind, help string) { fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	single := func(name, kind, help string, value any) {
		head(name, kind, help)
		fmt.Fprintf(&b, "%s %v\n", name, value)
	}

	head("none_audit_namespaces", "gauge", "Network namespaces that are expected to be isolated, by what they are.")
	for _, state := range []string{"isolated", "violated", "unknown"} {
		fmt.Fprintf(&b, "none_audit_namespaces{state=%q} %d\n", state, m.states[state])
	}
	single("none_audit_alarms", "gauge", "Expected namespaces that are violated or unknown, and what was not looked at.",
		m.states["violated"]+m.states["unknown"]+len(m.skipped))
	head("none_audit_not_looked_at", "gauge", fmt.Sprintf("What there is more of than can be looked at (at most %d kinds).", maxViolated))
	for _, what := range m.skipped {
		fmt.Fprintf(&b, "none_audit_not_looked_at{what=%s} 1\n", label(what))
	}
	head("none_audit_violated", "gauge", fmt.Sprintf("A violated namespace (at most %d of them).", maxViolated))
	for _, r := range m.violated {
		var id string
		var p pod
		for _, c := range r.Containers {
			id = c.ID
			if c.Pod != nil {
				p = *c.Pod
				break
			}
		}
		fmt.Fprintf(&b, "none_audit_violated{inode=\"%d\",container=%s,namespace=%s,pod=%s} 1\n", r.Inode, label(id), label(p.Namespace), label(p.Name))
	}
	single("none_audit_violations_total", "counter", "Times that an expected namespace was found to be isolated no more.", m.violations)
	single("none_audit_seen_namespaces", "gauge", "All network namespaces seen, the machine's own included.", m.seen)
	single("none_audit_unreadable_processes", "gauge", "Processes whose namespace may not be read.", m.unreadable)
	single("none_audit_scans_total", "counter", "Looks at everything.", m.scans)
	single("none_audit_scan_seconds", "gauge", "How long the last look at everything took.", m.took.Seconds())
	single("none_audit_last_scan_timestamp_seconds", "gauge", "When the last look at everything ended.", fmt.Sprintf("%.3f", float64(m.last.UnixMilli())/1000))
	return b.Bytes()
}

// label quotes a label's value: the format knows \\, \" and \n and no other escape.
func label(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(s)) + `"`
}
