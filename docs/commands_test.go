package docs_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// bySection are the pages whose commands a test takes by their headings, and that test.
var bySection = map[string]string{
	"podman.md": "test/podman/podman_test.go", "cnitool.md": "test/docker/cnitool_test.go", "parity.md": "test/docker/docker_test.go",
}

// mark says of a block of commands which test runs it: "test" names it for
// harness.Block, "run by" names the files, "as in" the page that has the same lines.
// "not run" says why.
var mark = regexp.MustCompile(`^<!-- (test|run by|as in|not run): (.+) -->$`)

// command is the beginning of a line that is typed, in an indented block.
var command = regexp.MustCompile(`^    (make|kubectl|helm|podman|nerdctl|docker|ctr|gh|none|none-audit|none-install|rm|install|systemctl|cnitool|bin/\S+|deploy/\S+)( |$)`)

// TestCommandsAreRun: each block of commands that a user is shown is run by a test,
// or says why not.
func TestCommandsAreRun(t *testing.T) {
	checked := 0
	for _, page := range append([]string{"../README.md"}, shown(t)...) {
		if reader := bySection[page]; reader != "" {
			if !strings.Contains(read(t, "../"+reader), "docs/"+page) {
				t.Errorf("%s does not read docs/%s", reader, page)
			}
			continue
		}
		lines := strings.Split(read(t, page), "\n")
		for i, line := range lines {
			switch {
			case command.MatchString(line):
				t.Errorf("%s:%d: commands without a mark: put them into a block of sh, below a comment that says which test runs them", page, i+1)
			case line == "```sh":
				end := i + slices.Index(lines[i:], "```")
				if err := runBy(t, page, lines[max(i-1, 0)], lines[i+1:end]); err != "" {
					t.Errorf("%s:%d: %s", page, i+1, err)
				}
				checked++
			}
		}
	}
	if checked < 15 {
		t.Errorf("only %d blocks of commands", checked)
	}
}

// runBy says what is wrong with the mark of a block.
func runBy(t *testing.T, page, above string, block []string) string {
	t.Helper()
	m := mark.FindStringSubmatch(above)
	if m == nil {
		return "no comment above it says which test runs it, or why none does"
	}
	switch m[1] {
	case "run by":
		names, _, _ := strings.Cut(m[2], ";")
		var text string
		for name := range strings.SplitSeq(names, ", ") {
			text += read(t, "../"+name)
		}
		for _, line := range plain(block) {
			program := filepath.Base(strings.Fields(line)[0])
			if !strings.Contains(strings.ToLower(text), program) {
				return names + " runs no " + program
			}
		}
	case "as in":
		there := plain(strings.Split(read(t, "../"+m[2]), "\n"))
		for _, line := range plain(block) {
			if !slices.Contains(there, line) {
				return m[2] + " has no line " + line
			}
		}
	case "test":
		if !named(t, page, m[2]) {
			return "no test takes the block " + m[2]
		}
	}
	return ""
}

// plain are lines without the comments at their ends.
func plain(lines []string) []string {
	var all []string
	for _, line := range lines {
		line, _, _ = strings.Cut(line, "  #")
		all = append(all, strings.TrimSpace(line))
	}
	return all
}

// named says whether a suite reads a page and names a block of it.
func named(t *testing.T, page, block string) bool {
	t.Helper()
	files, err := filepath.Glob("../test/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	shared, err := filepath.Glob("../test/internal/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	suites := map[string]string{}
	for _, file := range append(files, shared...) {
		suites[filepath.Dir(file)] += read(t, file)
	}
	for _, text := range suites {
		if strings.Contains(text, `"docs/`+page+`"`) && strings.Contains(text, `"`+block+`"`) {
			return true
		}
	}
	return false
}

// shown are the pages of this folder.
func shown(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("*.md")
	if err != nil || len(found) < 10 {
		t.Fatalf("%d pages, %v", len(found), err)
	}
	return found
}
