package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sample is a program with a command that runs by itself, and one that does not.
func sample() *Program {
	echo := func(name string) func(*flag.FlagSet) Run {
		return func(fs *flag.FlagSet) Run {
			long := fs.Bool("long", false, "say more")
			root := fs.String("root", "/", "`directory` to look in")
			return func(_ context.Context, args []string, out, _ io.Writer) int {
				fmt.Fprintln(out, name, *long, *root, strings.Join(args, ","))
				return 0
			}
		}
	}
	return &Program{
		Name: "look-at", Summary: "look at things", Description: "It looks.\n\n.Twice, if need be.", Version: "v1",
		Commands: []Command{
			{Args: "[THING]...", Summary: "list", Setup: echo("list")},
			{Name: "watch", Summary: "keep looking", Description: "Until 'it' ends: [never].", Words: []string{"all"}, Setup: echo("watch")},
			{Name: "secret", Hidden: true, Setup: echo("secret")},
		},
		Status: []Term{{"0", "seen"}}, Files: []Term{{"/etc", "things"}}, SeeAlso: "cat(1)",
	}
}

func TestCalls(t *testing.T) {
	strict := sample()
	strict.Commands = strict.Commands[1:]
	for _, tt := range []struct {
		p           *Program
		args        string
		status      int
		out, errOut string // what it begins with, what it contains
	}{
		{sample(), "", 0, "list false / \n", ""},
		{sample(), "a --long b --root /x c", 0, "list true /x a,b,c\n", ""},
		{sample(), "--root=/x a -- --long", 0, "list false /x a,--long\n", ""},
		{sample(), "-- watch", 0, "list false / watch\n", ""},
		{sample(), "watch a --long", 0, "watch true / a\n", ""},
		{sample(), "secret", 0, "secret", ""},
		{sample(), "wacht", 0, "list false / wacht\n", ""}, // it may be the name of a thing
		{sample(), "--help", 0, "usage: look-at [flags] [THING]...\n       look-at watch [flags]\n       look-at help", ""},
		{sample(), "help", 0, "usage: look-at [flags]", ""},
		{sample(), "a -h", 0, "usage: look-at [flags]", ""},
		{sample(), "watch -h", 0, "usage: look-at watch [flags]\n\nUntil", ""},
		{sample(), "watch a --help", 0, "usage: look-at watch", ""},
		{sample(), "help watch", 0, "usage: look-at watch", ""},
		{sample(), "help wacht", 2, "", `no help on "wacht" (did you mean watch?)`},
		{sample(), "version", 0, "look-at v1\n", ""},
		{sample(), "--version", 0, "look-at v1\n", ""},
		{sample(), "--logn", 2, "", "flag provided but not defined: -logn (did you mean --long?): look-at --help lists the flags"},
		{sample(), "watch --root", 2, "", "flag needs an argument: -root: look-at watch --help"},
		{sample(), "completion fish", 2, "", "bash or zsh"},
		{strict, "", 2, "", "a command is needed"},
		{strict, "--help", 0, "usage: look-at watch", ""},
		{strict, "wacht", 2, "", `unknown command "wacht" (did you mean watch?)`},
		{strict, "other", 2, "", `unknown command "other": look-at --help`},
	} {
		var out, errOut strings.Builder
		status := tt.p.Main(context.Background(), strings.Fields(tt.args), &out, &errOut)
		if status != tt.status || !strings.HasPrefix(out.String(), tt.out) || tt.out == "" && out.Len() > 0 || !strings.Contains(errOut.String(), tt.errOut) || tt.errOut == "" && errOut.Len() > 0 {
			t.Errorf("%q: status %d\n%s\n%s", tt.args, status, out.String(), errOut.String())
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// What could not be written is not a success, whatever it was.
func TestLostOutput(t *testing.T) {
	for _, args := range []string{"", "--help", "help", "version", "--version", "man", "completion bash", "completion zsh", "watch", "watch -h"} {
		var errOut strings.Builder
		if status := sample().Main(context.Background(), strings.Fields(args), full{}, &errOut); status != StatusUsage || errOut.String() != "look-at: no space left\n" {
			t.Errorf("%q: status %d, %q", args, status, errOut.String())
		}
	}
}

// The manual page has every command, flag and status, and man(1) has no complaint.
func TestMan(t *testing.T) {
	page := sample().Man()
	for _, want := range []string{`look\-at watch [flags]`, `.B \-\-root directory`, ".SH EXIT STATUS", ".SH FILES", "cat(1)", `\&.Twice`} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if strings.Contains(page, "secret") {
		t.Error("a hidden command is shown")
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Log("no groff to ask whether it likes the page")
		return
	}
	cmd := exec.Command(groff, "-man", "-Tutf8", "-ww", "-z")
	cmd.Stdin = strings.NewReader(page)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}

// What bash completes, asked of bash.
func TestBash(t *testing.T) {
	file := filepath.Join(t.TempDir(), "completion")
	if err := os.WriteFile(file, []byte(sample().Bash()), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"look-at w":          "watch",
		"look-at ver":        "version",
		"look-at sec":        "",
		"look-at --r":        "--root",
		"look-at watch --l":  "--long",
		"look-at watch a":    "all",
		"look-at help w":     "watch",
		"look-at --root /et": "/etc",
	} {
		words := strings.Split(line, " ")
		script := `. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); compopt() { :; }; _look_at; echo "${COMPREPLY[@]}"`
		out, err := exec.Command("bash", append([]string{"-euc", script, "bash", file}, words...)...).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%q: %q, want %q, %v", line, got, want, err)
		}
	}
}

func TestZsh(t *testing.T) {
	script := sample().Zsh()
	for _, want := range []string{"#compdef look-at\n", "'watch:keep looking'", "'*--root[directory to look in (default /)]:directory:_directories'", "watch) _arguments"} {
		if !strings.Contains(script, want) {
			t.Errorf("no %s in\n%s", want, script)
		}
	}
	zsh, err := exec.LookPath("zsh")
	if err != nil {
		t.Log("no zsh to ask whether it can read the script")
		return
	}
	cmd := exec.Command(zsh, "-n", "/dev/stdin")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("zsh: %v\n%s", err, out)
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"self", "self", 0}, {"selff", "self", 1}, {"wacth", "watch", 1}, {"wacht", "watch", 2}, {"", "abc", 3}, {"kitten", "sitting", 3}} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("%s, %s: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
