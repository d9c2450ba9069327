package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/isolation/spec"
)

// vsock binds a port that a process in another network namespace holds. Getting
// EADDRINUSE means that both share the machine's one vsock: network namespaces
// do not divide it.
func vsock(p spec.Probe) error {
	port, err := strconv.ParseUint(p.Addr, 10, 32)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: uint32(port)})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return errors.New("the port was free here")
}

// families opens a socket of every address family, also with rubbish in the
// upper half of the register, which the kernel ignores and a filter may not.
// It got through when it got one that is not in Expect.
func families(p spec.Probe) error {
	allowed := strings.Fields(p.Expect)
	var got []string
	for family := range uintptr(64) {
		for _, typ := range []uintptr{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			for _, high := range []uintptr{0, 1 << 32} {
				fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, family|high, typ|unix.SOCK_CLOEXEC, 0)
				if errno != 0 {
					continue
				}
				unix.Close(int(fd))
				name := strconv.Itoa(int(family))
				if !slices.Contains(allowed, name) && !slices.Contains(got, name) {
					got = append(got, name)
				}
			}
		}
	}
	if len(got) > 0 {
		return nil
	}
	return errors.New("only families " + p.Expect)
}

// ioUring sets up a ring: IORING_OP_SOCKET would open a socket that no filter
// for socket(2) sees.
func ioUring(spec.Probe) error {
	var params [120]byte // struct io_uring_params
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	unix.Close(int(fd))
	return nil
}
