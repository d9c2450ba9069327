// Command none-audit tells which network namespaces of a machine are isolated:
// hold a loopback interface and nothing else.
//
//	none-audit                     every network namespace, and who is in it
//	none-audit PATH|PID|CONTAINER  those asked for
//	none-audit self                the namespace it runs in; for use in a container
//	none-audit watch               keep looking, report changes, serve metrics
//
// It looks at what the kernel says now and at nobody's records, so it works for
// namespaces that the none plugin did not make. It changes no namespace that it
// looks at. docs/audit.md says what it sees and what it cannot see.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// The exit status, for scripts. Where both apply, a violation that was seen
// counts for more than a namespace that could not be.
const (
	exitOK       = 0 // all that was asked for is isolated
	exitViolated = 1 // something that was asked for is not
	exitUnknown  = 2 // something could not be looked at, or the call was wrong
)

const usage = `usage: none-audit [flags] [PATH | PID | CONTAINER]...
       none-audit self
       none-audit watch [flags]

Without arguments it lists every network namespace on the machine; with some,
those at a path (one with a slash), of a process (at most 7 digits) or of a
container (its id, or at least 4 characters that it begins with).
self judges the namespace that it runs in and needs no privilege.
watch keeps looking. none-audit watch -h lists its flags.

Exit status: 0 all that was asked for is isolated, 1 something is not,
2 something could not be looked at, or the call was wrong. Without arguments,
what is asked for is what the CNI cache says is on a none network.

flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "self":
			return self(args[1:], stdout, stderr)
		case "watch":
			return watch(ctx, args[1:], stdout, stderr)
		}
	}
	return list(args, stdout, stderr)
}

func fail(stderr io.Writer, format string, args ...any) int {
	fmt.Fprintf(stderr, "none-audit: "+format+"\n", args...)
	return exitUnknown
}

// sources is where the records lie that give a namespace the name of its
// container and pod. None of them is needed for a verdict.
type sources struct {
	cniCache string
	runc     []string
}

func sourceFlags(fs *flag.FlagSet) *sources {
	s := &sources{}
	fs.StringVar(&s.cniCache, "cni-cache", "/var/lib/cni", "`directory` where CNI runtimes cache their attachments (its results/)")
	fs.Func("runc-root", "another `directory` where runc keeps a folder per container (may be given several times)", func(dir string) error {
		s.runc = append(s.runc, dir)
		return nil
	})
	return s
}
