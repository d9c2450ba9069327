package loopback

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
)

// Available says why [Netns.Up] would fail in any namespace whatsoever, or nil.
// It asks the kernel what this thread may do, not who it is: root in a container
// may do nothing, and a user with the capabilities everything.
//
// Errors: [*OpError], with EPERM for a missing capability.
func Available() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return &OpError{"capget", "", err}
	}
	for _, c := range []struct {
		bit       int
		name, use string
	}{
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "to enter a network namespace, setns(2)"},
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "to bring lo up"},
	} {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			return &OpError{fmt.Sprintf("%s is missing, which is needed %s", c.name, c.use), "", unix.EPERM}
		}
	}
	if _, err := netns.IDOf("/proc/thread-self/ns/net"); err != nil {
		return about("", err) // it tells the node's namespace from a container's
	}
	c, err := dialCurrent("")
	if err != nil {
		return err
	}
	c.close()
	return nil
}
