// Floor is the least that a plugin in Go can do to bring lo up: read stdin, one
// namespace entry, one netlink message, one write. It checks nothing and parses
// nothing. No plugin is to be faster; the distance is what ours pays for its checks.
package main

import (
	"runtime"
	"syscall"
	"unsafe"
)

const (
	rdonly    = syscall.O_RDONLY | syscall.O_CLOEXEC
	result    = `{"cniVersion":"1.1.0","interfaces":[{"name":"lo","mac":"00:00:00:00:00:00","sandbox":"`
	resultEnd = `"}],"dns":{}}`
)

// setns is not in package syscall; its number is from asm/unistd.h.
func setns(fd int) error {
	number := uintptr(268) // all that follow asm-generic, arm64 for one
	if runtime.GOARCH == "amd64" {
		number = 308
	}
	if _, _, errno := syscall.RawSyscall(number, uintptr(fd), syscall.CLONE_NEWNET, 0); errno != 0 {
		return errno
	}
	return nil
}

func main() {
	stdin := make([]byte, 4096)
	for {
		n, err := syscall.Read(0, stdin)
		check(err)
		if n == 0 {
			break
		}
	}
	netns, _ := syscall.Getenv("CNI_NETNS")
	ns, err := syscall.Open(netns, rdonly, 0)
	check(err)
	check(setns(ns))
	sock, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_ROUTE)
	check(err)
	up := struct {
		syscall.NlMsghdr
		syscall.IfInfomsg
	}{
		syscall.NlMsghdr{Len: 32, Type: syscall.RTM_SETLINK, Flags: syscall.NLM_F_REQUEST | syscall.NLM_F_ACK, Seq: 1},
		syscall.IfInfomsg{Index: 1, Flags: syscall.IFF_UP, Change: syscall.IFF_UP},
	}
	kernel := syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}
	check(syscall.Sendto(sock, (*[32]byte)(unsafe.Pointer(&up))[:], 0, &kernel))
	var ack [512]byte
	n, _, err := syscall.Recvfrom(sock, ack[:], 0)
	check(err)
	if errno := *(*int32)(unsafe.Pointer(&ack[syscall.SizeofNlMsghdr])); n < 20 || errno != 0 {
		check(syscall.Errno(-errno))
	}
	_, err = syscall.Write(1, append(append([]byte(result), netns...), resultEnd...))
	check(err)
}

func check(err error) {
	if err != nil {
		syscall.Write(2, []byte(err.Error()+"\n"))
		syscall.Exit(1)
	}
}
