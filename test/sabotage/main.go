// Command sabotage breaks a copy of the project, a few lines at a time, and expects
// the tests to notice: one that passes without these lines tests nothing.
//
//	usage: sabotage ROOT LIST
//
// LIST holds blocks that an empty line ends:
//
//	# what is broken
//	test PACKAGE [-run REGEXP]      a package whose tests have to fail
//	suite ./SUITE [-run REGEXP]     and a suite, with the plugin that is built of the copy
//	file FILE
//	- LINES as they are, without their indentation
//	+ LINES instead
//
// Each test and suite has to notice. Lines that FILE does not hold exactly once are an
// error, and so is a package whose tests fail before anything is broken, or that no
// longer compiles. That suites pass before, their own runs show.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

type mutation struct {
	what  string
	tests []command
	hunks []hunk
}

// command is go test for a package of the copy or for a suite.
type command struct {
	suite bool
	args  []string
}

func (c command) String() string { return "go test " + strings.Join(c.args, " ") }

// hunk is a change in a file.
type hunk struct {
	file     string
	old, new []string
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: sabotage ROOT LIST")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "sabotage:", err)
		os.Exit(1)
	}
}

func run(root, list string) error {
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	root, err = filepath.Abs(root)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sabotage")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, part := range []string{"go.mod", "go.sum", "cmd", "conf", "internal", "pkg", "plugins"} {
		if out, err := exec.Command("cp", "-R", filepath.Join(root, part), dir).CombinedOutput(); err != nil {
			return fmt.Errorf("copy %s: %w: %s", part, err, out)
		}
	}
	s := saboteur{root, dir, map[string]bool{}}
	var failed error
	for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		m, err := parse(block)
		if err != nil {
			return err
		}
		if err := s.try(m); err != nil {
			fmt.Printf("%s: %v\n", m.what, err)
			failed = errors.New("a mutation went unnoticed, or could not be tried")
		}
	}
	return failed
}

func parse(block string) (mutation, error) {
	var m mutation
	for line := range strings.Lines(block) {
		key, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch last := len(m.hunks) - 1; {
		case key == "#":
			m.what = rest
		case key == "test", key == "suite":
			m.tests = append(m.tests, command{key == "suite", strings.Fields(rest)})
		case key == "file":
			m.hunks = append(m.hunks, hunk{file: rest})
		case key == "-" && last >= 0:
			m.hunks[last].old = append(m.hunks[last].old, rest)
		case key == "+" && last >= 0:
			m.hunks[last].new = append(m.hunks[last].new, rest)
		default:
			return m, fmt.Errorf("%q is no line of a mutation", line)
		}
	}
	if m.what == "" || len(m.tests) == 0 || len(m.hunks) == 0 || slices.ContainsFunc(m.hunks, func(h hunk) bool { return len(h.old) == 0 }) {
		return m, fmt.Errorf("this mutation lacks something:\n%s", block)
	}
	return m, nil
}

// saboteur works on a copy of the project.
type saboteur struct {
	root, dir string
	sound     map[string]bool // what was seen to pass before anything was broken
}

// try breaks the files, runs the tests and mends the files.
func (s saboteur) try(m mutation) (failed error) {
	for _, t := range m.tests {
		if t.suite || s.sound[t.String()] {
			continue
		}
		if out, err := s.test(t); err != nil {
			return fmt.Errorf("%v fails before anything is broken: %w\n%s", t, err, out)
		}
		s.sound[t.String()] = true
	}
	for _, h := range m.hunks {
		file := filepath.Join(s.dir, h.file)
		sound, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		defer func() { failed = errors.Join(failed, os.WriteFile(file, sound, 0o644)) }()
		broken, err := h.apply(string(sound))
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(broken), 0o644); err != nil {
			return err
		}
	}
	for _, t := range m.tests {
		start := time.Now()
		out, err := s.test(t)
		switch {
		case err == nil:
			return fmt.Errorf("UNNOTICED by %v", t)
		case !strings.Contains(out, "--- FAIL") && !strings.Contains(out, "panic: "):
			return fmt.Errorf("%v: no test failed, but something else did: %w\n%s", t, err, out)
		}
		fmt.Printf("%s: noticed by %s after %.0f s\n", m.what, failure(out), time.Since(start).Seconds())
	}
	return nil
}

// apply replaces the lines, wherever in the file they stand.
func (h hunk) apply(text string) (string, error) {
	lines := strings.Split(text, "\n")
	at := -1
	for i := range len(lines) - len(h.old) + 1 {
		if !h.matches(lines[i:]) {
			continue
		}
		if at >= 0 {
			return "", fmt.Errorf("%s has these lines twice; name one more: %s", h.file, strings.Join(h.old, " / "))
		}
		at = i
	}
	if at < 0 {
		return "", fmt.Errorf("%s has these lines no more; adapt the list: %s", h.file, strings.Join(h.old, " / "))
	}
	broken := append(append([]string{}, lines[:at]...), h.new...)
	return strings.Join(append(broken, lines[at+len(h.old):]...), "\n"), nil
}

func (h hunk) matches(lines []string) bool {
	for i, old := range h.old {
		if strings.TrimSpace(lines[i]) != old {
			return false
		}
	}
	return true
}

// test runs go test on the copy, or a suite of the project with the copy's plugin.
func (s saboteur) test(c command) (string, error) {
	args := append([]string{"test", "-count=1", "-timeout=10m", "-failfast"}, c.args...)
	if !c.suite {
		return output(s.dir, "go", args...)
	}
	plugin := filepath.Join(s.dir, "bin/none")
	if out, err := output(s.dir, "env", "CGO_ENABLED=0", "go", "build", "-o", plugin, "./plugins/none"); err != nil {
		return out, err
	}
	return output(filepath.Join(s.root, "test"), "go", append(args, "-plugin", plugin)...)
}

func output(dir, program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// failure names the test that failed: the innermost, which go test shows last.
func failure(out string) string {
	found := "a failure"
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "--- FAIL") || strings.HasPrefix(line, "panic: ") {
			found = line
		}
	}
	return found
}
