package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestHealth: what probes and Prometheus are told of each state.
func TestHealth(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var h health
	go h.serve(t.Context(), l, time.Hour, t.Logf)
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, c := range []struct {
		report report
		remove bool
		ready  int
	}{
		{report{State: ready}, false, 200},
		{report{State: pendingRestart}, false, 503},
		{report{State: degraded, Reasons: []string{"why not"}}, false, 503},
		{report{State: notInstalled}, false, 503},
		{report{State: notInstalled}, true, 200},
		{report{State: ready}, true, 503},
	} {
		get("/healthz") // it serves
		h.set(c.report, c.remove)
		if status, body := get("/readyz"); status != c.ready || !strings.Contains(body, c.report.String()) {
			t.Errorf("%s (remove: %v): /readyz is %d %q", c.report, c.remove, status, body)
		}
		if _, body := get("/metrics"); !strings.Contains(body, `none_install_state{state="`+string(c.report.State)+"\"} 1\n") || strings.Count(body, "} 1\n") != 1 {
			t.Errorf("%s: /metrics is\n%s", c.report, body)
		}
	}
	if status, _ := get("/healthz"); status != 200 {
		t.Errorf("/healthz is %d", status)
	}
	h.mu.Lock()
	h.looked = time.Now().Add(-2 * time.Hour)
	h.mu.Unlock()
	if status, body := get("/healthz"); status != 503 || !strings.Contains(body, "2h0m0s ago") {
		t.Errorf("when it hangs, /healthz is %d %q", status, body)
	}
}
