// Package cli runs the commands of a program from one description, which is also
// what its help, its manual page and its shell completion are made of.
//
// Flags may stand before and after arguments, "--" ends them. Help and version
// go to stdout with status 0. A wrong call says so on stderr with [StatusUsage],
// and so does output that could not be written.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// StatusUsage is the exit status of a wrong call, and of output that got lost.
const StatusUsage = 2

// Program is what a program is called, and what it can do.
type Program struct {
	Name        string
	Summary     string // in a line: "tell which network namespaces are isolated"
	Description string // paragraphs, for --help and the manual page
	Version     string
	Commands    []Command // one without a name runs where no word names another
	Status      []Term    // exit status, and what it means
	Files       []Term    // for the manual page
	SeeAlso     string
}

// Command is a word after the program's name.
type Command struct {
	Name        string
	Args        string // "[PATH | PID]..."
	Summary     string
	Description string
	Words       []string // arguments that a shell can complete
	Hidden      bool     // in no list; --help tells

	// Setup declares the flags and returns what runs once they are parsed.
	Setup func(*flag.FlagSet) Run
}

// Run does what a command is for and returns the exit status.
type Run func(ctx context.Context, args []string, stdout, stderr io.Writer) int

// Term is a word and its explanation.
type Term struct{ Name, Text string }

// Main runs the command that args name.
func (p *Program) Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out := &checked{w: stdout}
	status := p.dispatch(ctx, args, out, stderr)
	if out.err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", p.Name, out.err)
		if status == 0 {
			status = StatusUsage
		}
	}
	return status
}

func (p *Program) dispatch(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		if len(args) > 0 && (args[0] == "--version" || args[0] == "-version") {
			return p.version(stdout)
		}
		if c := p.find(""); c != nil {
			return p.run(ctx, c, args, stdout, stderr)
		}
		if len(args) > 0 && isHelp(args[0]) {
			return p.help(nil, stdout, stderr)
		}
		return p.fail(stderr, "a command is needed: %s --help lists them", p.Name)
	}
	if c := p.find(args[0]); c != nil {
		return p.run(ctx, c, args[1:], stdout, stderr)
	}
	switch args[0] {
	case "help":
		return p.help(args[1:], stdout, stderr)
	case "version":
		return p.version(stdout)
	case "man":
		_, _ = io.WriteString(stdout, p.Man())
		return 0
	case "completion":
		return p.completion(args[1:], stdout, stderr)
	}
	if c := p.find(""); c != nil {
		return p.run(ctx, c, args, stdout, stderr)
	}
	return p.fail(stderr, "unknown command %q%s: %s --help lists them", args[0], p.DidYouMean(args[0]), p.Name)
}

func (p *Program) find(name string) *Command {
	for i := range p.Commands {
		if p.Commands[i].Name == name {
			return &p.Commands[i]
		}
	}
	return nil
}

func (p *Program) run(ctx context.Context, c *Command, args []string, stdout, stderr io.Writer) int {
	fs, run := c.flags()
	rest, err := parse(fs, args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(stdout, p.commandHelp(c))
		return 0
	}
	if err != nil {
		return p.fail(stderr, "%v%s: %s --help lists the flags", err, nearFlag(fs, err), p.call(c))
	}
	return run(ctx, rest, stdout, stderr)
}

func (c *Command) flags() (*flag.FlagSet, Run) {
	fs := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs, c.Setup(fs)
}

// parse allows flags after arguments, which the flag package does not.
func parse(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		used := len(args) - fs.NArg()
		if fs.NArg() == 0 || used > 0 && args[used-1] == "--" {
			return append(rest, fs.Args()...), nil
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
}

// call is how a command is called.
func (p *Program) call(c *Command) string { return strings.TrimSpace(p.Name + " " + c.Name) }

func (p *Program) fail(stderr io.Writer, format string, args ...any) int {
	fmt.Fprintf(stderr, p.Name+": "+format+"\n", args...)
	return StatusUsage
}

func (p *Program) version(stdout io.Writer) int {
	fmt.Fprintf(stdout, "%s %s\n", p.Name, p.Version)
	return 0
}

func isHelp(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }

// checked remembers the first write that failed.
type checked struct {
	w   io.Writer
	err error
}

func (c *checked) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	if err != nil && c.err == nil {
		c.err = err
	}
	return n, err
}
