// Probe32 is built for 32-bit x86, where a socket can also be opened through
// socketcall(2), whose arguments no seccomp filter sees.
package main

import (
	"fmt"
	"syscall"
)

func main() {
	const vsock = 40
	fd, err := syscall.Socket(vsock, syscall.SOCK_STREAM, 0) // socketcall on 386
	fmt.Println(fd, err)
}
