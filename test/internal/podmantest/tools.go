package podmantest

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// Run runs a command at the top of the source tree and returns what it wrote
// to both outputs. The test fails if the command does.
func Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := Try(t, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Fail is Run for a command that must not succeed.
func Fail(t testing.TB, args ...string) string {
	t.Helper()
	out, err := Try(t, args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%s: want it refused, got %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Try is Run for a caller that wants the error.
func Try(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = harness.Repo()
	// A file, not a pipe: a daemon left behind by the command would hold the
	// pipe open, and the wait would not end with the command.
	f, err := os.CreateTemp(t.TempDir(), "output")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(harness.Patience, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err = cmd.Wait()
	b, readErr := os.ReadFile(f.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	return strings.TrimRight(string(b), "\n"), err
}

// Probe builds test/podman/probe, once, and returns its path.
func Probe(t testing.TB) string {
	t.Helper()
	const path = "/run/probe"
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", "build", "-o", path, "./probe")
	cmd.Dir = harness.Repo("test/podman")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	return path
}

// Facts is what the probe saw in a container: a name, and lines.
type Facts map[string][]string

// ParseFacts reads the probe's output.
func ParseFacts(t testing.TB, out string) Facts {
	t.Helper()
	f := Facts{}
	if err := json.Unmarshal([]byte(out), &f); err != nil {
		t.Fatalf("not from the probe: %v\n%s", err, out)
	}
	return f
}

// Doc is a file of docs/, of which a test runs the commands and looks up the errors.
type Doc struct{ text string }

// ReadDoc reads a Markdown file of the repository.
func ReadDoc(t testing.TB, path string) Doc {
	t.Helper()
	return Doc{harness.Read(t, harness.Repo(path))}
}

// Commands returns the shell blocks of the document, in order.
func (d Doc) Commands() []string {
	var out []string
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(d.text, -1) {
		out = append(out, m[1])
	}
	return out
}

// Under is the section of the document with the given heading of the second level.
func (d Doc) Under(t testing.TB, heading string) Doc {
	t.Helper()
	_, text, ok := strings.Cut(d.text, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("no section %q", heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return Doc{text}
}

var (
	ids   = regexp.MustCompile(`\b([0-9a-f]{64}|[0-9a-f]{12})\b`)
	stamp = regexp.MustCompile(`^time="[^"]*" `)
)

// Has fails the test unless each line of the text stands in the document as it
// is, but for what no two runs have in common: the time, which the document
// leaves out, and IDs, which it writes as <id>.
func (d Doc) Has(t testing.TB, text string) {
	t.Helper()
	documented := map[string]bool{}
	for line := range strings.Lines(d.text) {
		documented[strings.TrimSpace(line)] = true
	}
	for line := range strings.Lines(text) {
		line = stamp.ReplaceAllString(strings.TrimSpace(line), "")
		line = ids.ReplaceAllString(line, "<id>")
		if !documented[line] {
			t.Errorf("the document does not show this line, which a user meets:\n%s", line)
		}
	}
}

// Rows returns the cells of every row of every table of the document, without
// the heading and the rule below it.
func (d Doc) Rows() [][]string {
	var out [][]string
	inTable := 0
	for line := range strings.Lines(d.text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			inTable = 0
			continue
		}
		if inTable++; inTable <= 2 {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i, c := range cells {
			cells[i] = strings.TrimSpace(c)
		}
		out = append(out, cells)
	}
	return out
}

// Host is what a runtime could leave behind on the machine.
type Host struct{ Links, Routes, Rules, Netns, Mounts, Cache, Processes string }

// Survey looks at the machine that the runtime runs on.
func Survey(t testing.TB) Host {
	t.Helper()
	shell := func(script string) string { return Run(t, "sh", "-c", script) }
	return Host{
		Links:     shell(`/bin/busybox ip -o link | sed 's/ state.*//'`),
		Routes:    shell(`/bin/busybox ip route show table all | sort`),
		Rules:     shell(`iptables-save 2>&1 | grep -v '^#' | sed 's/\[.*\]//' || true`),
		Netns:     shell(`ls /run/netns 2>/dev/null || true`),
		Mounts:    shell(`cut -d' ' -f5 /proc/self/mountinfo | grep -e ^/run -e ^/var | grep -v -x -e /var/lib/containers/storage/overlay -e /run/netns | sort`),
		Cache:     shell(`find /var/lib/cni -type f 2>/dev/null | sort`),
		Processes: shell(`ps -eo args= | grep -e conmon -e container-shim -e probe | grep -v grep || true`),
	}
}

// Clean fails the test if the machine is not as it was, once whatever still
// ends has had its time.
func (h Host) Clean(t testing.TB) {
	t.Helper()
	var now Host
	for end := time.Now().Add(harness.Patience); ; time.Sleep(200 * time.Millisecond) {
		if now = Survey(t); now == h {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	before, after := reflect.ValueOf(h), reflect.ValueOf(now)
	for i := range before.NumField() {
		if b, a := before.Field(i).String(), after.Field(i).String(); a != b {
			t.Errorf("left on the machine: %s\nbefore:\n%s\nafter:\n%s", before.Type().Field(i).Name, b, a)
		}
	}
}
