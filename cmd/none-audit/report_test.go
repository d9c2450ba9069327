package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReport: a report has the words of the programs that are there, fit for a
// terminal, and the audit, and it is whole when a program fails or there is too
// much to say.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	for name, script := range map[string]string{
		"podman":  `printf 'podman 4.3.1 \033[31m\n'`,
		"nerdctl": "echo broken; exit 3",
		"crio":    "head -c 100000 /dev/zero | tr '\\0' x",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var stdout, stderr bytes.Buffer
	if status := program.Main(t.Context(), []string{"report"}, &stdout, &stderr); status != exitOK {
		t.Errorf("exit status %d: %s", status, stderr.String())
	}
	out := stdout.String()
	for _, want := range []string{
		"## podman version\npodman 4.3.1 \\x1b[31m\n",
		"## nerdctl --version\nbroken\nexit status 3\n",
		"... cut after 16384 bytes\n",
		"## /etc/os-release\n",
		"## none-audit --json\n{\n",
		"\nexit status ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if status := program.Main(t.Context(), []string{"report", "me"}, &stdout, &stderr); status != exitUnknown {
		t.Errorf("report with an argument: exit status %d", status)
	}
}
