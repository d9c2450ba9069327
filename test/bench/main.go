// Bench measures what an exec of the none plugin costs, beside upstream's
// loopback, beside bridge with host-local (what a container gets otherwise), and
// beside what a Go program costs that does nothing or the bare minimum.
//
// It runs in a network and a mount namespace of its own, so the interfaces, the
// bridge and up to 4,000 namespaces that it makes vanish with it, however it
// ends. See run.sh for how it is built and docs/performance.md for what it found.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type options struct {
	rounds      int
	blocks      int
	namespaces  []int
	nsRounds    int
	callers     []int
	pairs       int
	audited     []int
	auditRounds int
	bin, out    string
	other       string
	otherAudit  string
	skip        string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var o options
	var namespaces, callers, audited string
	flag.IntVar(&o.rounds, "rounds", 300, "execs of every program and command")
	flag.IntVar(&o.blocks, "blocks", 10, "how often every binary is copied anew, so that no layout in the page cache decides")
	flag.StringVar(&namespaces, "namespaces", "1,100,1000,4000", "numbers of living namespaces")
	flag.IntVar(&o.nsRounds, "ns-rounds", 100, "ADDs at each number of namespaces and visit, two visits each")
	flag.StringVar(&callers, "callers", "1,2,8,32,128", "numbers of parallel callers")
	flag.IntVar(&o.pairs, "pairs", 384, "pairs of ADD and DEL at each number of callers")
	flag.StringVar(&audited, "audited", "1,250,1000,2000", "numbers of containers for none-audit to list")
	flag.IntVar(&o.auditRounds, "audit-rounds", 20, "lists at each number of containers")
	flag.StringVar(&o.bin, "bin", "", "folder with none, none-audit, cniplugins/, bench-empty, bench-floor, bench-lookfloor and bench-peak")
	flag.StringVar(&o.out, "out", "", "folder for results.json, table.md and performance.svg")
	flag.StringVar(&o.other, "other", "", "another build of the plugin, to measure among the rest")
	flag.StringVar(&o.otherAudit, "other-audit", "", "another build of none-audit, to look as well")
	flag.StringVar(&o.skip, "skip", "", "parts to leave out: exec, namespaces, callers, audit (comma separated)")
	flag.Parse()
	var err error
	if o.namespaces, err = numbers(namespaces); err != nil {
		return err
	}
	if o.callers, err = numbers(callers); err != nil {
		return err
	}
	if o.audited, err = numbers(audited); err != nil {
		return err
	}
	if o.bin == "" || o.out == "" {
		return errors.New("-bin and -out are needed; test/bench/run.sh gives them")
	}
	if dir := os.Getenv(insideEnv); dir != "" {
		return measure(o, dir)
	}
	return enclose()
}

func numbers(list string) ([]int, error) {
	var ns []int
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q in %q is not a number above 0", s, list)
		}
		ns = append(ns, n)
	}
	return ns, nil
}

// insideEnv names the scratch folder to the copy of this program that measures.
const insideEnv = "CNI_NONE_BENCH_DIR"

// enclose runs this program again in namespaces of its own and removes the
// scratch folder after it.
func enclose() error {
	dir, err := os.MkdirTemp("", "cn-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// An interrupt ends the child; this process stays to clean up.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	runtime.LockOSThread() // Pdeathsig means this thread's death
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		if errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("this needs root, to make network namespaces: %w", err)
		}
		return err
	}
	return nil
}

func measure(o options, dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	b := &bench{options: o, dir: dir}
	b.Host = host()
	skip := strings.Split(o.skip, ",")
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"audit", b.looks}, // first: what the others leave behind takes four times as long to look at
		{"exec", b.execs},
		{"namespaces", b.crowd},
		{"callers", b.parallel},
	} {
		if slices.Contains(skip, part.name) {
			continue
		}
		start := time.Now()
		fmt.Fprintf(os.Stderr, "bench: %s ...", part.name)
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		fmt.Fprintf(os.Stderr, " %.0f s\n", time.Since(start).Seconds())
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	return errors.Join(b.writeJSON(filepath.Join(o.out, "results.json")),
		b.writeTable(filepath.Join(o.out, "table.md")),
		b.writePlot(filepath.Join(o.out, "performance.svg")))
}
