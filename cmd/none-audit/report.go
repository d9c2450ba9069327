package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const reportDescription = `Prints what a bug report needs: the versions of the programs, the kernel and the
runtimes, the CNI configs, the node's state as none-install sees it, and the audit
of every network namespace as JSON. It changes nothing. The output names
containers, pods and processes: read it before you publish it.`

// reported are the programs whose word goes into a report, where they are installed.
var reported = [][]string{
	{"uname", "-srvm"},
	{"none-install", "version"},
	{"none-install", "status", "--json"},
	{"containerd", "--version"},
	{"runc", "--version"},
	{"podman", "version"},
	{"nerdctl", "--version"},
	{"crio", "--version"},
	{"kubelet", "--version"},
}

// reportedFiles are configs that say which network a container gets.
var reportedFiles = []string{"/etc/os-release", "/etc/cni/net.d/*", "/etc/cni/airgap.d/*", "/etc/containerd/conf.d/*", "/etc/containers/containers.conf.d/*"}

// pluginDirs is where runtimes look for plugins.
var pluginDirs = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni", "/usr/local/libexec/cni"}

const (
	reportTimeout = 20 * time.Second // for one program
	maxReported   = 16 << 10         // bytes of one config, or of what one program says
)

func reportSetup(fs *flag.FlagSet) func(context.Context, []string, io.Writer, io.Writer) int {
	l := &lister{from: sourceFlags(fs), asJSON: true, rows: []row{}, listed: map[uint64]bool{}}
	return func(ctx context.Context, args []string, stdout, stderr io.Writer) int {
		if len(args) > 0 {
			return fail(stderr, "report takes no arguments")
		}
		fmt.Fprintf(stdout, "## none-audit %s\n", program.Version)
		for _, command := range reported {
			if _, err := exec.LookPath(command[0]); err == nil {
				say(ctx, stdout, command)
			}
		}
		for _, dir := range pluginDirs {
			plugin := filepath.Join(dir, "none")
			if _, err := os.Stat(plugin); err == nil {
				say(ctx, stdout, []string{plugin}, "CNI_COMMAND=VERSION")
			}
		}
		for _, pattern := range reportedFiles {
			files, _ := filepath.Glob(pattern) // the patterns are well-formed
			for _, file := range files {
				show(stdout, file)
			}
		}
		fmt.Fprintf(stdout, "\n## none-audit --json\n")
		// What is found is no failure of the report.
		l.stderr = stderr
		status := l.run(nil, stdout)
		fmt.Fprintf(stdout, "exit status %d\n", status)
		return exitOK
	}
}

// say prints what a program says of itself.
func say(ctx context.Context, stdout io.Writer, command []string, env ...string) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	fmt.Fprintf(stdout, "\n## %s\n", strings.Join(append(env, command...), " "))
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	writeCut(stdout, out)
	if err != nil {
		fmt.Fprintln(stdout, err)
	}
}

// show prints a file, or why it cannot be read.
func show(stdout io.Writer, file string) {
	fmt.Fprintf(stdout, "\n## %s\n", file)
	data, err := os.ReadFile(file)
	if err != nil {
		fmt.Fprintln(stdout, err)
		return
	}
	writeCut(stdout, data)
}

// writeCut prints text, so that it is fit for a terminal, and not too much of it.
func writeCut(stdout io.Writer, text []byte) {
	cut := ""
	if len(text) > maxReported {
		text, cut = text[:maxReported], fmt.Sprintf("... cut after %d bytes\n", maxReported)
	}
	for line := range strings.Lines(string(text)) {
		fmt.Fprintln(stdout, printable(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    ")))
	}
	fmt.Fprint(stdout, cut)
}
