// Command none-audit tells which network namespaces of a machine are isolated:
// hold a loopback interface and nothing else.
//
//	none-audit                          every network namespace, and who is in it
//	none-audit PATH|PID|CONTAINER|POD   those asked for
//	none-audit self                     the namespace it runs in; for use in a container
//	none-audit watch                    keep looking, report changes, serve metrics
//
// It looks at what the kernel says now and not at records, so it works for
// namespaces that the none plugin did not make. It changes no namespace that it
// looks at. docs/audit.md says what it sees and what it cannot see.
package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"syscall"

	"github.com/cni-none/cni-none/internal/cli"
	"github.com/containernetworking/plugins/pkg/utils/buildversion"
)

// The exit status, for scripts.
const (
	exitOK       = 0 // all that was asked for is isolated
	exitViolated = 1 // something that was asked for is not
	exitUnknown  = 2 // something could not be looked at, or the call was wrong
)

var program = &cli.Program{
	Name:    "none-audit",
	Summary: "tell which network namespaces are isolated",
	Description: `Without arguments it lists every network namespace on the machine; with some,
those at a path, of a process (at most 7 digits), of a container (its id, at
least 4 characters that it begins with, or for podman, docker and nerdctl its
name) or of a pod (namespace/name). A path begins with / or ./ .

A namespace is isolated when it holds a loopback interface and nothing else.`,
	Version: buildversion.BuildVersion,
	Status: []cli.Term{
		{Name: "0", Text: "all that was asked for is isolated"},
		{Name: "1", Text: "something that was asked for is not isolated"},
		{Name: "2", Text: "something could not be looked at, or the call was wrong (if both apply, 1)"},
	},
	Files: []cli.Term{
		{Name: "/var/lib/cni/results, /var/lib/cni/multus/results", Text: "what the CNI library and Multus keep of attachments: says what ought to be isolated"},
		{Name: "/run/runc, /run/containerd/runc, /run/docker/runtime-runc", Text: "runc's state, which names containers and pods"},
		{Name: "/run/user/UID, ~/.local/share, ~/.config", Text: "the same of users without root"},
	},
	SeeAlso: "ip-netns(8), network_namespaces(7), none-install(8)",
}

func init() { // the list suggests the commands' names
	program.Commands = []cli.Command{
		{
			Args: "[PATH | PID | CONTAINER | POD]...", Summary: "list network namespaces",
			Description: "Without arguments, what is asked for is what the CNI cache says is on a none network.",
			Setup:       func(fs *flag.FlagSet) cli.Run { return listSetup(fs) },
		},
		{
			Name: "self", Summary: "judge the namespace that it runs in",
			Description: "Prints one line about the namespace that it runs in. It needs no privilege, no /proc and\nno file, and is meant for use inside a container.",
			Setup:       func(fs *flag.FlagSet) cli.Run { return selfSetup(fs) },
		},
		{
			Name: "watch", Summary: "keep looking, report changes and serve metrics",
			Description: watchDescription,
			Setup:       func(fs *flag.FlagSet) cli.Run { return watchSetup(fs) },
		},
		{
			Name: "report", Summary: "print what a bug report needs",
			Description: reportDescription,
			Setup:       func(fs *flag.FlagSet) cli.Run { return reportSetup(fs) },
		},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := program.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func sourceFlags(fs *flag.FlagSet) *sources {
	s := &sources{}
	fs.Func("cni-cache", "another `directory` where CNI runtimes keep their attachments, or its results/ (may be given several times)", func(dir string) error {
		results, err := resultsIn(dir)
		s.caches = append(s.caches, results)
		return err
	})
	fs.Func("runc-root", "another `directory` where runc keeps a folder per container (may be given several times)", func(dir string) error {
		s.runc = append(s.runc, dir)
		return nil
	})
	return s
}
