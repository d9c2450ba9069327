package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/cni-none/cni-none/internal/cli"
	"golang.org/x/sys/unix"
)

// setupRelay is for the container that watches: it becomes none-audit, whose
// output goes to the container that talks to the API server. So neither of them
// needs what the other one has.
func setupRelay(*flag.FlagSet) cli.Run {
	return func(ctx context.Context, args []string, _, stderr io.Writer) int {
		if len(args) < 2 {
			fmt.Fprintln(stderr, "none-install relay: a socket and a program are needed")
			return cli.StatusUsage
		}
		if err := relay(ctx, args[0], args[1:]); err != nil {
			fmt.Fprintf(stderr, "none-install relay: %v\n", err)
			return 1
		}
		return 0
	}
}

// relay connects standard output to the socket, once something listens there, and
// becomes the program. When the listener ends, the program does (SIGPIPE in
// os/signal), and is started again.
func relay(ctx context.Context, socket string, command []string) error {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	conn, err := connect(ctx, socket)
	if err != nil {
		return err
	}
	f, err := conn.File()
	if err != nil {
		return err
	}
	if err := unix.Dup3(int(f.Fd()), 1, 0); err != nil {
		return err
	}
	if err := unix.SetNonblock(1, false); err != nil {
		return err
	}
	return unix.Exec(path, command, os.Environ())
}

func connect(ctx context.Context, socket string) (*net.UnixConn, error) {
	for deadline := time.Now().Add(2 * time.Minute); ; {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
		if err == nil {
			return conn, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("nothing listens: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
