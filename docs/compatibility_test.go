package docs_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	tableBegin = "<!-- generated: suites -->\n"
	tableEnd   = "<!-- end -->\n"
)

// TestCompatibility holds the table of what CI runs against the pins and the
// suites: go test ./docs -update writes it.
func TestCompatibility(t *testing.T) {
	const page = "compatibility.md"
	text := read(t, page)
	before, rest, found := strings.Cut(text, tableBegin)
	have, after, ended := strings.Cut(rest, tableEnd)
	if !found || !ended {
		t.Fatalf("%s has no generated table", page)
	}
	want := programs(t)
	if have == want {
		return
	}
	if !*update {
		t.Fatalf("%s does not say what CI runs: run go test ./docs -update", page)
	}
	if err := os.WriteFile(page, []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// runtimes are the Debian packages worth naming; the others are tools.
var runtimes = []string{"containerd", "docker.io", "etcd-server", "podman", "runc"}

// programs is a table of the real programs that the suites drive.
func programs(t *testing.T) string {
	t.Helper()
	suites := map[string][]string{}
	for line := range strings.Lines(read(t, "../test/suites.txt")) {
		fields := strings.Fields(line)
		if len(fields) < 5 || strings.HasPrefix(line, "#") {
			continue
		}
		for _, name := range strings.Split(fields[3], ",") {
			if pin := pinned(name); pin != "" {
				suites[pin] = append(suites[pin], fields[0])
			}
		}
		for _, name := range strings.Split(fields[4], ",") {
			if slices.Contains(runtimes, name) {
				pin := name + "` | Debian 12's"
				suites[pin] = append(suites[pin], fields[0])
			}
		}
	}
	var rows []string
	for pin, in := range suites {
		rows = append(rows, fmt.Sprintf("| `%s | %s |\n", pin, strings.Join(in, ", ")))
	}
	slices.Sort(rows)
	return "| program | version | suites (`make test-SUITE`) |\n|---|---|---|\n" + strings.Join(rows, "")
}

var required = regexp.MustCompile(`(?m)^require (\S+) (\S+)$`)

// pinned is the module and the version of a pin, or "" for what is not a pin.
func pinned(name string) string {
	mod, err := os.ReadFile("../tools/" + name + "/go.mod")
	if err != nil {
		return ""
	}
	m := required.FindSubmatch(mod)
	if m == nil {
		return ""
	}
	return fmt.Sprintf("%s` | %s", m[1], m[2])
}
