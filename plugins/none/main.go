// Command none is a CNI plugin for a container that must have no network: a
// network namespace of its own, with a loopback interface that is up and has its
// addresses, and nothing else, as with docker run --network none.
//
// A container runtime runs it with a CNI command in the environment and a
// network config on stdin (https://www.cni.dev/docs/spec/). ADD brings lo up
// and refuses a namespace that holds anything else; CHECK verifies the same; DEL
// has nothing to undo. The plugin keeps no state, writes no file, takes no lock
// and opens CNI_NETNS once.
//
// The dispatch is not skel's: CONTRIBUTING.md says why.
package main

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	os.Exit(run(process{os.Getenv, os.Stdin, fdWriter(1), os.Stderr}))
}

// process is all that the plugin has to do with the process it runs in.
type process struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// fdWriter writes to a file descriptor. os.Stdout would end the process with
// SIGPIPE when there is no reader, and no error could be printed.
type fdWriter int

func (fd fdWriter) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := unix.Write(int(fd), b[written:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}
