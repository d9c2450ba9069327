package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// block returns the fenced block of docs/runtimes.md that follows the comment
// "<!-- test: name -->": commands to run, files to use and errors to expect, so
// that the page cannot say something else than what happens.
func block(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repo(), "docs/runtimes.md"))
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

var sandboxID = regexp.MustCompile(`[0-9a-f]{64}`)

// isDocumented fails the test unless the error is, to the letter, the one that
// docs/runtimes.md shows, where the ID of the sandbox stands as <id> and the
// node's plugin directory as <bin_dir>.
func isDocumented(t *testing.T, err error, name, binDir string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, though docs/runtimes.md shows one in block %q", name)
	}
	got := sandboxID.ReplaceAllString(err.Error(), "<id>")
	got = strings.ReplaceAll(got, binDir, "<bin_dir>")
	if want := block(t, name); got != want {
		t.Errorf("error, and what docs/runtimes.md shows in block %q:\n%s\n%s", name, got, want)
	}
}
