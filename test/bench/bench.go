package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// bench is one run: what it needs and, in the exported fields, what it found.
type bench struct {
	options `json:"-"`
	dir     string // scratch
	made    int    // namespaces so far

	Host       Host
	Execs      []Exec
	Namespaces []Crowd
	Callers    []Throughput
	Looks      []Look
}

// The programs, by the name of their binary. The first is ours.
const (
	none     = "none"
	other    = "none-other" // the build that -other names
	upstream = "loopback"
	bridge   = "bridge"
	floor    = "bench-floor"
	empty    = "bench-empty"
)

func (b *bench) binaries() []string {
	files := []string{
		filepath.Join(b.bin, none),
		filepath.Join(b.bin, "cniplugins", upstream),
		filepath.Join(b.bin, "cniplugins", bridge),
		filepath.Join(b.bin, "cniplugins", "host-local"),
		filepath.Join(b.bin, floor),
		filepath.Join(b.bin, empty),
	}
	if b.other != "" {
		files = append(files, filepath.Join(b.dir, other))
	}
	return files
}

// copyBinaries makes a folder of fresh copies, in random order.
func (b *bench) copyBinaries() (string, error) {
	files := b.binaries()
	rand.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	dir, err := os.MkdirTemp(b.dir, "bin")
	if err != nil {
		return "", err
	}
	return dir, copyTo(dir, files)
}

func (b *bench) namespace() (*namespace, error) {
	b.made++
	return newNamespace(b.dir, b.made)
}

// act is one command of one program on one namespace, together with what has
// to be so before and after. Neither is timed.
type act struct {
	program, command string
	ns               *namespace
	conf             map[string]any
	before, after    func() error
}

// The bare config of each plugin, with what the shipped one declares.
func conf(program, dir string) map[string]any {
	if program == bridge {
		return map[string]any{
			"cniVersion": "1.1.0", "name": "net", "type": bridge,
			"bridge": "cni0", "isGateway": true,
			"ipam": map[string]any{
				"type": "host-local", "dataDir": filepath.Join(dir, "ipam"),
				"ranges": [][]map[string]any{{{"subnet": "10.88.0.0/16"}}},
				"routes": []map[string]any{{"dst": "0.0.0.0/0"}},
			},
		}
	}
	return map[string]any{
		"cniVersion": "1.1.0", "name": "airgap", "type": program,
		"capabilities": map[string]any{"portMappings": true, "ips": true, "mac": true, "bandwidth": true},
	}
}

func (a *act) name() string { return a.program + " " + a.command }

// call says how to exec the act's program out of the folder dir.
func (a *act) call(dir string) call {
	stdin, err := json.Marshal(a.conf)
	if err != nil {
		panic(err) // it is all strings and maps
	}
	return call{program: filepath.Join(dir, a.program), env: cniEnv(a.command, a.ns.path, "eth0", dir), stdin: stdin}
}

// do runs the act with the binaries in dir.
func (a *act) do(dir string, run func(call) (sample, []byte, error)) (sample, []byte, error) {
	if a.before != nil {
		if err := a.before(); err != nil {
			return sample{}, nil, fmt.Errorf("before %s %s: %w", a.program, a.command, err)
		}
	}
	s, out, err := run(a.call(dir))
	if err != nil {
		return s, out, fmt.Errorf("%s %s: %w", a.program, a.command, err)
	}
	if a.after != nil {
		if err := a.after(); err != nil {
			return s, out, fmt.Errorf("after %s %s: %w", a.program, a.command, err)
		}
	}
	return s, out, nil
}

// add is ADD in a namespace of its own, whose lo is down before and up after.
func (b *bench) add(program string) (act, error) {
	ns, err := b.namespace()
	if err != nil {
		return act{}, err
	}
	return act{
		program: program, command: "ADD", ns: ns, conf: conf(program, b.dir),
		before: func() error { return ns.setUp(false) },
		after:  func() error { return ns.expectLo(true) },
	}, nil
}

// later is what follows an ADD: the same namespace, with the result as libcni
// passes it on.
func later(add act, command string, result []byte) act {
	c := maps.Clone(add.conf)
	if len(result) > 0 {
		c["prevResult"] = rawJSON(result)
	}
	return act{program: add.program, command: command, ns: add.ns, conf: c}
}

// units are the acts in the groups that have to stay together; a round does
// every group once, in random order.
func (b *bench) units() (units [][]act, err error) {
	dir, err := b.copyBinaries()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	programs := []string{none, upstream, floor, empty}
	if b.other != "" {
		programs = append(programs, other)
	}
	for _, program := range programs {
		add, err := b.add(program)
		if err != nil {
			return nil, err
		}
		if program == empty {
			add.command, add.after = "", nil
		}
		units = append(units, []act{add})
		if program == floor || program == empty {
			continue
		}
		_, result, err := add.do(dir, spawn)
		if err != nil {
			return nil, err
		}
		check := later(add, "CHECK", result)
		check.before = func() error { return add.ns.setUp(true) }
		del := later(add, "DEL", result)
		del.before = check.before
		// Upstream's takes lo down; ours leaves it to the processes that still use it.
		del.after = func() error { return add.ns.expectLo(program != upstream) }
		version := later(add, "VERSION", nil)
		units = append(units, []act{check}, []act{del}, []act{version})
		if program == none || program == other {
			units = append(units, []act{later(add, "STATUS", nil)})
		}
	}

	add, err := b.add(bridge)
	if err != nil {
		return nil, err
	}
	add.before = nil
	add.after = func() error { return expectLinks(add.ns, 2) }
	_, result, err := add.do(dir, spawn)
	if err != nil {
		return nil, err
	}
	del := later(add, "DEL", result)
	del.after = func() error { return expectLinks(add.ns, 1) }
	if _, _, err := del.do(dir, spawn); err != nil {
		return nil, err
	}
	// host-local gives another address each time, so runUnit takes the result anew.
	units = append(units, []act{add, later(add, "CHECK", result), del})
	return units, nil
}

// expectLinks says when bridge has not done what it is for. lo counts.
func expectLinks(ns *namespace, n int) error {
	links, err := ns.h.LinkList()
	if err != nil {
		return err
	}
	if len(links) != n {
		return fmt.Errorf("%d interfaces in the namespace, expected %d", len(links), n)
	}
	return nil
}

// runUnit does the acts of a unit one after the other and hands each sample to record.
func runUnit(unit []act, dir string, run func(call) (sample, []byte, error), record func(*act, sample) error) error {
	var added []byte
	for i := range unit {
		a := &unit[i]
		if added != nil {
			a.conf["prevResult"] = rawJSON(added)
		}
		s, out, err := a.do(dir, run)
		if err != nil {
			return err
		}
		if a.command == "ADD" && len(unit) > 1 {
			added = out
		}
		if err := record(a, s); err != nil {
			return err
		}
	}
	return nil
}

// execs times every act, all of them in each round.
func (b *bench) execs() error {
	if b.other != "" {
		if out, err := exec.Command("cp", b.other, filepath.Join(b.dir, other)).CombinedOutput(); err != nil {
			return fmt.Errorf("cp %s: %w: %s", b.other, err, out)
		}
	}
	units, err := b.units()
	if err != nil {
		return err
	}
	samples := map[string][]sample{}
	for block := range b.blocks {
		dir, err := b.copyBinaries()
		if err != nil {
			return err
		}
		rounds := b.rounds*(block+1)/b.blocks - b.rounds*block/b.blocks
		for round := range rounds + 1 {
			rand.Shuffle(len(units), func(i, j int) { units[i], units[j] = units[j], units[i] })
			for _, unit := range units {
				err := runUnit(unit, dir, spawn, func(a *act, s sample) error {
					if round > 0 { // the first one warms the fresh copy
						samples[a.name()] = append(samples[a.name()], s)
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	counts, err := b.passes(units)
	if err != nil {
		return err
	}
	for _, unit := range units {
		for _, a := range unit {
			e := newExec(a, samples[a.name()])
			e.Syscalls, e.PeakKiB = counts[a.name()].syscalls, counts[a.name()].peakKiB
			if e.SizeKiB, err = b.size(a.program); err != nil {
				return err
			}
			b.Execs = append(b.Execs, e)
		}
	}
	finish(b.Execs)
	return nil
}

// size is that of the binary, and for bridge that of host-local too.
func (b *bench) size(program string) (int64, error) {
	var bytes int64
	for _, f := range b.binaries() {
		name := filepath.Base(f)
		if name == program || program == bridge && name == "host-local" {
			st, err := os.Stat(f)
			if err != nil {
				return 0, err
			}
			bytes += st.Size()
		}
	}
	return bytes >> 10, nil
}

type counts struct{ syscalls, peakKiB int64 }

// passes finds what cannot be had together with the time: the number of system
// calls, under strace, and the peak memory, under a parent that has less. The
// Go runtime's own share varies, hence the median of a few.
func (b *bench) passes(units [][]act) (map[string]counts, error) {
	dir, err := b.copyBinaries()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	strace, err := exec.LookPath("strace")
	if err != nil {
		return nil, fmt.Errorf("%w: tools/debian.sh strace", err)
	}
	file := filepath.Join(b.dir, "pass")
	traced := func(c call) (sample, []byte, error) {
		c.args = []string{strace, "-f", "-c", "-U", "calls,name", "-o", file, c.program}
		c.program = strace
		return spawn(c)
	}
	peaked := func(c call) (sample, []byte, error) {
		c.env = append(c.env, "PEAK_PROGRAM="+c.program, "PEAK_FILE="+file)
		c.program = filepath.Join(b.bin, "bench-peak")
		return spawn(c)
	}
	syscalls, peaks := map[string][]int64{}, map[string][]int64{}
	for range 7 {
		for _, unit := range units {
			err := errors.Join(
				runUnit(unit, dir, traced, func(a *act, _ sample) error {
					n, err := lastNumber(file)
					syscalls[a.name()] = append(syscalls[a.name()], n)
					return err
				}),
				runUnit(unit, dir, peaked, func(a *act, _ sample) error {
					n, err := lastNumber(file)
					peaks[a.name()] = append(peaks[a.name()], n)
					return err
				}))
			if err != nil {
				return nil, err
			}
		}
	}
	found := map[string]counts{}
	for name := range syscalls {
		found[name] = counts{quantile(syscalls[name], 0.5), quantile(peaks[name], 0.5)}
	}
	return found, nil
}

// lastNumber reads the first word of a file's last line: strace's total, or the peak.
func lastNumber(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	words := strings.Fields(lines[len(lines)-1])
	if len(words) == 0 {
		return 0, fmt.Errorf("%s is empty", file)
	}
	return strconv.ParseInt(words[0], 10, 64)
}
