// Command sabotage breaks a copy of the project, one line at a time, and expects
// a test of make test to notice: one that passes without the line tests nothing.
//
//	usage: sabotage ROOT LIST
//
// LIST holds blocks that an empty line ends:
//
//	# what is broken
//	file FILE
//	test PACKAGE [-run REGEXP]
//	- LINES as they are, without their indentation
//	+ LINES instead
//
// Lines that FILE does not hold exactly once are an error, and so is a package
// whose tests fail before anything is broken, or that no longer compiles.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

type mutation struct {
	what, file string
	test       []string
	old, new   []string
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
	var failed error
	controls := map[string]bool{}
	for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		m, err := parse(block)
		if err != nil {
			return err
		}
		if control := strings.Join(m.test, " "); !controls[control] {
			if out, err := test(dir, m.test); err != nil {
				return fmt.Errorf("go test %s fails before anything is broken: %w\n%s", control, err, out)
			}
			controls[control] = true
		}
		if err := m.try(dir); err != nil {
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
		switch key {
		case "#":
			m.what = rest
		case "file":
			m.file = rest
		case "test":
			m.test = strings.Fields(rest)
		case "-":
			m.old = append(m.old, rest)
		case "+":
			m.new = append(m.new, rest)
		default:
			return m, fmt.Errorf("%q is no line of a mutation", line)
		}
	}
	if m.what == "" || m.file == "" || len(m.test) == 0 || len(m.old) == 0 {
		return m, fmt.Errorf("this mutation lacks something:\n%s", block)
	}
	return m, nil
}

// try breaks the file, runs the tests and mends it.
func (m mutation) try(dir string) error {
	file := filepath.Join(dir, m.file)
	sound, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	broken, err := m.apply(string(sound))
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(broken), 0o644); err != nil {
		return err
	}
	out, err := test(dir, m.test)
	if mended := os.WriteFile(file, sound, 0o644); mended != nil {
		return mended
	}
	switch {
	case err == nil:
		return fmt.Errorf("UNNOTICED by go test %s", strings.Join(m.test, " "))
	case !strings.Contains(out, "--- FAIL") && !strings.Contains(out, "panic: "):
		return fmt.Errorf("no test failed, but something else did: %w\n%s", err, out)
	}
	fmt.Printf("%s: noticed by %s\n", m.what, firstFailure(out))
	return nil
}

// apply replaces the lines, wherever in the file they stand.
func (m mutation) apply(text string) (string, error) {
	lines := strings.Split(text, "\n")
	at := -1
	for i := range len(lines) - len(m.old) + 1 {
		if !m.matches(lines[i:]) {
			continue
		}
		if at >= 0 {
			return "", fmt.Errorf("%s has these lines twice; name one more: %s", m.file, strings.Join(m.old, " / "))
		}
		at = i
	}
	if at < 0 {
		return "", fmt.Errorf("%s has these lines no more; adapt the list: %s", m.file, strings.Join(m.old, " / "))
	}
	broken := append(append([]string{}, lines[:at]...), m.new...)
	return strings.Join(append(broken, lines[at+len(m.old):]...), "\n"), nil
}

func (m mutation) matches(lines []string) bool {
	for i, old := range m.old {
		if strings.TrimSpace(lines[i]) != old {
			return false
		}
	}
	return true
}

func test(dir string, args []string) (string, error) {
	cmd := exec.Command("go", append([]string{"test", "-count=1", "-timeout=10m", "-failfast"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func firstFailure(out string) string {
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "--- FAIL") || strings.HasPrefix(line, "panic: ") {
			return line
		}
	}
	return "a failure"
}
