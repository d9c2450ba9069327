// Command lo brings lo up in the namespace that it is run in. A new one has it
// down, and the unit tests want what every machine has.
package main

import (
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func main() {
	if err := up(); err != nil {
		fmt.Fprintln(os.Stderr, "lo:", err)
		os.Exit(1)
	}
}

func up() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.LinkSetUp(lo)
}
