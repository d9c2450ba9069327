package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Repo is the root of the repository, for a test in test/<suite>.
func Repo() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}

// Sh runs a command of the documentation in the repository.
func Sh(t *testing.T, script string, env ...string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = Repo()
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Block returns the fenced block of docs/runtimes.md that follows the comment
// "<!-- test: name -->": commands to run, files to use and errors to expect, so
// that the page cannot say something else than what happens.
func Block(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(Repo(), "docs/runtimes.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), fmt.Sprintf("<!-- test: %s -->\n```", name))
	if !found {
		t.Fatalf("docs/runtimes.md has no block %q", name)
	}
	_, rest, _ = strings.Cut(rest, "\n") // the language
	content, _, found := strings.Cut(rest, "\n```\n")
	if !found {
		t.Fatalf("docs/runtimes.md: block %q has no end", name)
	}
	return content
}
