// Command vsock sends a word over AF_VSOCK's loopback, from wherever it runs:
// "vsock listen" waits for it and prints it, "vsock send" sends it.
package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const port = 4711

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vsock:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 || args[0] != "listen" && args[0] != "send" {
		return errors.New("usage: vsock listen | send")
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if args[0] == "send" {
		if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: port}); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		_, err := unix.Write(fd, []byte("from inside"))
		return err
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}), unix.Listen(fd, 8)); err != nil {
		return err
	}
	conn, _, err := unix.Accept(fd)
	if err != nil {
		return err
	}
	data := make([]byte, 64)
	n, err := unix.Read(conn, data)
	fmt.Println(string(data[:max(0, n)]))
	return err
}
