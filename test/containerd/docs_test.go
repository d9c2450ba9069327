package containerd

import (
	"regexp"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
)

var sandboxID = regexp.MustCompile(`[0-9a-f]{64}`)

// isDocumented fails the test unless the error is, to the letter, the one that
// docs/containerd.md shows, where the ID of the sandbox stands as <id> and the
// node's plugin directory as <bin_dir>.
func isDocumented(t *testing.T, err error, name, binDir string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, though docs/containerd.md shows one in block %q", name)
	}
	got := sandboxID.ReplaceAllString(err.Error(), "<id>")
	got = strings.ReplaceAll(got, binDir, "<bin_dir>")
	if want := harness.Block(t, page, name); got != want {
		t.Errorf("error, and what docs/containerd.md shows in block %q:\n%s\n%s", name, got, want)
	}
}
