package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Host is what the figures were taken on.
type Host struct {
	Kernel, CPU string
	CPUs        int
	Load        string // of the last 1, 5 and 15 minutes, when it began
	Go          string
}

// Stat is a median and a ninetieth percentile, in microseconds.
type Stat struct{ Median, P90 float64 }

// Exec is what one command of one program costs.
type Exec struct {
	Program, Command    string
	N                   int
	Wall, CPU           Stat
	Faults              int64
	Syscalls, PeakKiB   int64
	SizeKiB             int64
	WallRatio, CPURatio float64 `json:",omitempty"` // of upstream loopback's same command; of its ADD for what has no command
}

// Crowd is what one ADD costs while so many namespaces live.
type Crowd struct {
	Namespaces int
	Program    string
	Wall, CPU  Stat
}

// Throughput is how many pairs of ADD and DEL so many callers get done.
type Throughput struct {
	Callers        int
	Program        string
	PairsPerSecond float64
}

func host() Host {
	h := Host{CPUs: runtime.NumCPU(), Go: runtime.Version()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel, _, _ = strings.Cut(unix.ByteSliceToString(u.Release[:]), "-") // without the builder's suffix
	}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			h.CPU = strings.TrimSpace(value)
			break
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	if f := strings.Fields(string(load)); len(f) > 3 {
		h.Load = strings.Join(f[:3], " ")
	}
	return h
}

func rawJSON(b []byte) json.RawMessage { return bytes.TrimSpace(b) }

// quantile is the nearest-rank quantile of values, which it leaves unsorted.
func quantile[T int64 | float64 | time.Duration](values []T, q float64) T {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

func stat(samples []sample, of func(sample) time.Duration) Stat {
	values := make([]time.Duration, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	return Stat{us(quantile(values, 0.5)), us(quantile(values, 0.9))}
}

func wall(s sample) time.Duration { return s.Wall }
func cpu(s sample) time.Duration  { return s.CPU }
func user(s sample) time.Duration { return s.User }

func newExec(a act, samples []sample) Exec {
	faults := make([]int64, len(samples))
	for i, s := range samples {
		faults[i] = s.Faults
	}
	return Exec{
		Program: a.program, Command: a.command, N: len(samples),
		Wall: stat(samples, wall), CPU: stat(samples, cpu), Faults: quantile(faults, 0.5),
	}
}

func newCrowd(n int, program string, samples []sample) Crowd {
	return Crowd{n, program, stat(samples, wall), stat(samples, cpu)}
}

// finish sorts the execs as the table has them and sets their ratios.
func finish(execs []Exec) {
	programs := []string{none, other, upstream, bridge, floor, empty}
	commands := []string{"ADD", "CHECK", "DEL", "STATUS", "VERSION", ""}
	slices.SortFunc(execs, func(x, y Exec) int {
		if d := slices.Index(programs, x.Program) - slices.Index(programs, y.Program); d != 0 {
			return d
		}
		return slices.Index(commands, x.Command) - slices.Index(commands, y.Command)
	})
	for i := range execs {
		e := &execs[i]
		command := e.Command
		if command == "" {
			command = "ADD"
		}
		for _, base := range execs {
			if base.Program == upstream && base.Command == command && base.CPU.Median > 0 {
				e.WallRatio = e.Wall.Median / base.Wall.Median
				e.CPURatio = e.CPU.Median / base.CPU.Median
			}
		}
	}
}

func (b *bench) writeJSON(file string) error {
	text, err := json.MarshalIndent(b, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// label is a program's name in tables and in the plot.
func label(program string) string {
	switch program {
	case bridge:
		return "bridge + host-local"
	case floor:
		return "raw system calls"
	case empty:
		return "empty program"
	}
	return program
}

// writeTable writes the tables to stdout and to file.
func (b *bench) writeTable(file string) error {
	var w bytes.Buffer
	fmt.Fprintf(&w, "%s, %d CPUs (%s), %s, load %s.\n", "Linux "+b.Host.Kernel, b.Host.CPUs, b.Host.CPU, b.Host.Go, b.Host.Load)
	b.execTable(&w)
	b.crowdTable(&w)
	b.callerTable(&w)
	b.lookTable(&w)
	if _, err := os.Stdout.Write(w.Bytes()); err != nil {
		return err
	}
	return os.WriteFile(filepath.Clean(file), w.Bytes(), 0o644)
}

func (b *bench) execTable(w io.Writer) {
	if len(b.Execs) == 0 {
		return
	}
	fmt.Fprintf(w, "\nOne exec, %d of each. Times in µs; × is the ratio to upstream's loopback, same command.\n\n", b.Execs[0].N)
	fmt.Fprintln(w, "| program | command | CPU | p90 | × | wall | p90 | × | system calls | page faults | peak KiB | binary KiB |")
	fmt.Fprintln(w, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, e := range b.Execs {
		fmt.Fprintf(w, "| %s | %s | %.0f | %.0f | %s | %.0f | %.0f | %s | %d | %d | %d | %d |\n",
			label(e.Program), e.Command, e.CPU.Median, e.CPU.P90, ratio(e.CPURatio), e.Wall.Median, e.Wall.P90, ratio(e.WallRatio),
			e.Syscalls, e.Faults, e.PeakKiB, e.SizeKiB)
	}
}

func ratio(r float64) string {
	if r == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", r)
}

func (b *bench) crowdTable(w io.Writer) {
	if len(b.Namespaces) == 0 {
		return
	}
	fmt.Fprintln(w, "\nOne ADD while other namespaces live, in µs; × is the ratio to the smallest number.")
	fmt.Fprintln(w, "\n| program | namespaces | CPU | p90 | × | wall | p90 | × |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|")
	for _, program := range []string{none, upstream, empty} {
		var base Crowd
		for _, c := range b.Namespaces {
			if c.Program != program {
				continue
			}
			if base.Program == "" {
				base = c
			}
			fmt.Fprintf(w, "| %s | %d | %.0f | %.0f | %.2f | %.0f | %.0f | %.2f |\n", label(program), c.Namespaces,
				c.CPU.Median, c.CPU.P90, c.CPU.Median/base.CPU.Median, c.Wall.Median, c.Wall.P90, c.Wall.Median/base.Wall.Median)
		}
	}
}

func (b *bench) callerTable(w io.Writer) {
	if len(b.Callers) == 0 {
		return
	}
	fmt.Fprintln(w, "\nPairs of ADD and DEL per second, by number of parallel callers.")
	fmt.Fprint(w, "\n| program |")
	for _, n := range b.callers {
		fmt.Fprintf(w, " %d |", n)
	}
	fmt.Fprint(w, "\n|---|"+strings.Repeat("--:|", len(b.callers))+"\n")
	for _, program := range []string{none, upstream, bridge, floor} {
		fmt.Fprintf(w, "| %s |", label(program))
		for _, c := range b.Callers {
			if c.Program == program {
				fmt.Fprintf(w, " %.0f |", c.PairsPerSecond)
			}
		}
		fmt.Fprintln(w)
	}
}
