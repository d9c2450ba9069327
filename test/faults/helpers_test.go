package faults

import (
	"os"
	"testing"

	"github.com/cni-none/cni-none/test/internal/plugintest"
)

// look is plugintest.Look for a test.
func look(t *testing.T, path string) []string {
	t.Helper()
	lines, err := plugintest.Look(path)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// write makes a file.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
