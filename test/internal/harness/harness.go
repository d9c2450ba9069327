// Package harness is what every suite needs: where things are in the repository,
// the plugin that is tested, what the documentation says, and how to wait.
package harness

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Patience bounds every wait. It is there to end, not to measure: nothing takes
// a tenth of it on an idle machine, and a slow machine is no failure.
const Patience = 4 * time.Minute

var (
	plugin = flag.String("plugin", "", "another plugin to test instead of bin/none (absolute; its name must be none)")
	seed   = flag.Uint64("seed", 0, "of what is random in a test; 0 is a new one")
)

// top is the repository, and suite the folder of test/ that go test started in.
var top, suite = func() (string, string) {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for suite := filepath.Base(dir); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "test/suites.txt")); err == nil {
			return dir, suite
		}
		if dir == "/" {
			panic("a suite runs in its folder of the repository")
		}
	}
}()

// Repo is a path in the repository.
func Repo(path ...string) string { return filepath.Join(append([]string{top}, path...)...) }

// Bin is a program that test/run.sh has built.
func Bin(path ...string) string { return Repo(append([]string{"bin"}, path...)...) }

// Module is the source of a module that a folder of tools/ pins. It is downloaded
// where only a program that was built of it is there.
func Module(tb testing.TB, pin, module string) string {
	tb.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir, cmd.Env = Repo("tools", pin), append(os.Environ(), "GOFLAGS=")
	out, err := cmd.Output()
	var m struct{ Dir, Error string }
	if err := errors.Join(err, json.Unmarshal(out, &m)); err != nil || m.Dir == "" {
		tb.Fatalf("download %s: %v %s", module, err, m.Error)
	}
	return m.Dir
}

// Plugin is the plugin that is tested: bin/none, or another one, which shows what
// the tests are worth: with upstream's loopback, for one, they must fail.
func Plugin() string {
	if *plugin != "" {
		return *plugin
	}
	return Bin("none")
}

// ReplacePlugin puts the plugin of -plugin in the place of one that documented
// commands have installed. Without that flag it does nothing.
func ReplacePlugin(tb testing.TB, installed string) {
	tb.Helper()
	if *plugin != "" {
		Copy(tb, *plugin, installed, 0o755)
	}
}

// Lacking says what of suites.txt this machine does not have for the suite, and the
// remedy; "" when nothing is missing.
func Lacking() string {
	if os.Geteuid() != 0 {
		return "needs root, for namespaces of its own"
	}
	built, debian, err := needs(suite)
	if err != nil {
		return err.Error()
	}
	remedy := ": run test/run.sh " + suite
	for _, name := range append(built, "none") {
		if _, err := os.Stat(Bin(name)); err != nil {
			return err.Error() + remedy
		}
	}
	for _, name := range debian {
		lists, _ := filepath.Glob("/var/lib/dpkg/info/" + name + "[.:]*list")
		if len(lists) == 0 {
			return "the Debian package " + name + " is not installed" + remedy
		}
	}
	return ""
}

// needs reads a line of suites.txt: programs and folders in bin/, and packages.
func needs(suite string) (built, debian []string, err error) {
	table, err := os.ReadFile(Repo("test/suites.txt"))
	if err != nil {
		return nil, nil, err
	}
	list := func(field string) []string {
		if field == "-" {
			return nil
		}
		return strings.Split(field, ",")
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) != 5 || f[0] != suite {
			continue
		}
		for _, name := range list(f[3]) {
			if name == "release" {
				name = "../dist/SHA256SUMS" // the last file that it writes
			}
			built = append(built, strings.TrimPrefix(name, "bin/"))
		}
		return built, list(f[4]), nil
	}
	return nil, nil, fmt.Errorf("test/suites.txt has no suite %s", suite)
}

// Main is TestMain for a suite that needs root, what suites.txt says, and no machine
// of its own. Where the tests cannot run, it says why and succeeds, or fails if CI is
// set: nothing is skipped there.
func Main(m *testing.M) {
	flag.Parse()
	if why := Lacking(); why != "" {
		os.Exit(SkipAll(why))
	}
	os.Exit(m.Run())
}

// SkipAll says why no test runs, and returns the exit status for it.
func SkipAll(why string) int {
	fmt.Fprintln(os.Stderr, "SKIP:", why)
	if os.Getenv("CI") == "" {
		return 0
	}
	fmt.Fprintln(os.Stderr, "with CI set nothing is skipped")
	return 1
}

// Skip skips a test for want of something that CI always has.
func Skip(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatalf(format, args...)
	}
	tb.Skipf(format, args...)
}

// Eventually polls until f has no error any more.
func Eventually(tb testing.TB, what string, f func() error) {
	tb.Helper()
	end := time.Now().Add(Patience)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			tb.Fatalf("waited %v in vain: %s: %v", Patience, what, err)
		}
		time.Sleep(wait)
	}
}

// ErrNotYet is for an f of Eventually that has nothing better to say.
var ErrNotYet = errors.New("not yet")

// Until is Eventually for a condition that says yes or no.
func Until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	Eventually(tb, what, func() error {
		if !ok() {
			return ErrNotYet
		}
		return nil
	})
}

// Poll is Until for a condition that can say what it saw.
func Poll(tb testing.TB, what string, ask func() (ok bool, state string)) {
	tb.Helper()
	Eventually(tb, what, func() error {
		if ok, state := ask(); !ok {
			return fmt.Errorf("last seen: %s", state)
		}
		return nil
	})
}

// Random is a source whose seed the test prints, and -seed sets.
func Random(tb testing.TB) *rand.Rand {
	tb.Helper()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	tb.Cleanup(func() { // after what failed
		tb.Logf("-seed %d", *seed)
	})
	return rand.New(rand.NewPCG(*seed, 0))
}

// Context ends with the test, and with our patience.
func Context(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	tb.Cleanup(cancel)
	return ctx
}

// Sh runs commands of the documentation at the top of the repository.
func Sh(tb testing.TB, script string, env ...string) string {
	tb.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = Repo()
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s\n%v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Block returns the fenced block of a page that follows the comment
// "<!-- test: name -->": commands to run, files to use and errors to expect, so
// that the page cannot say something else than what happens.
func Block(tb testing.TB, page, name string) string {
	tb.Helper()
	_, rest, found := strings.Cut(Read(tb, Repo(page)), fmt.Sprintf("<!-- test: %s -->\n```", name))
	if !found {
		tb.Fatalf("%s has no block %q", page, name)
	}
	_, rest, _ = strings.Cut(rest, "\n") // the language
	content, _, found := strings.Cut(rest, "\n```\n")
	if !found {
		tb.Fatalf("%s: block %q has no end", page, name)
	}
	return content
}

// Tail is the end of a log.
func Tail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Read reads a file.
func Read(tb testing.TB, path string) string {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

// Write writes a file, and makes its directory.
func Write(tb testing.TB, path, text string, mode os.FileMode) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask says
		tb.Fatal(err)
	}
}

// Copy copies a file into the place of another one, which may be running.
func Copy(tb testing.TB, from, to string, mode os.FileMode) {
	tb.Helper()
	err := func() error {
		in, err := os.Open(from)
		if err != nil {
			return err
		}
		defer in.Close()
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		out, err := os.OpenFile(to+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Chmod(mode), out.Close(), os.Rename(to+".new", to))
	}()
	if err != nil {
		tb.Fatal(err)
	}
}
