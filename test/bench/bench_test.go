package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		values []int64
		q      float64
		want   int64
	}{
		{nil, 0.5, 0},
		{[]int64{7}, 0.9, 7},
		{[]int64{3, 1, 2}, 0.5, 2},
		{[]int64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, 0.9, 10},
	} {
		if got := quantile(c.values, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) = %d, want %d", c.values, c.q, got, c.want)
		}
	}
}

// An exec that fails must not count as a fast one.
func TestSpawnReportsFailure(t *testing.T) {
	if _, _, err := spawn(call{program: "/bin/false"}); err == nil {
		t.Error("the exit status of /bin/false was lost")
	}
	s, out, err := spawn(call{program: "/bin/cat", stdin: []byte("hello")})
	if err != nil || string(out) != "hello" {
		t.Errorf("cat printed %q, %v", out, err)
	}
	if s.Wall <= 0 || s.CPU <= 0 || s.Faults <= 0 {
		t.Errorf("cat cost %+v, expected something of each", s)
	}
}

func TestRatiosAndPlot(t *testing.T) {
	exec := func(program, command string, us int) Exec {
		d := time.Duration(us) * time.Microsecond
		return newExec(act{program: program, command: command}, []sample{{Wall: 2 * d, CPU: d}})
	}
	b := bench{Execs: []Exec{exec(empty, "", 400), exec(upstream, "ADD", 1000), exec(bridge, "ADD", 9000), exec(none, "ADD", 700)}}
	finish(b.Execs)
	for i, want := range []struct {
		program string
		ratio   float64
	}{{none, 0.7}, {upstream, 1}, {bridge, 9}, {empty, 0.4}} {
		if e := b.Execs[i]; e.Program != want.program || e.CPURatio != want.ratio || e.WallRatio != want.ratio {
			t.Errorf("row %d: %s has %v and %v, want %s with %v", i, e.Program, e.CPURatio, e.WallRatio, want.program, want.ratio)
		}
	}

	file := filepath.Join(t.TempDir(), "plot.svg")
	if err := b.writePlot(file); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	bars := 0
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the plot is not XML: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 1+len(b.Execs) { // and the background
		t.Errorf("%d rectangles for %d execs", bars, len(b.Execs))
	}
}
