// Package loopback brings a network namespace's loopback interface up, with its
// addresses, and tells whether the namespace holds anything else.
//
// It is what the none plugin does to a namespace, for a runtime that would
// rather call it than exec a plugin:
//
//	ns, err := loopback.Open("/run/netns/sandbox")
//	if err != nil {
//		return err
//	}
//	defer ns.Close()
//	_, err = ns.Up(loopback.Exclusive)
//
// # What it does not do
//
// It looks at interfaces, addresses, XDP programs and known namespaces, and not at
// routes, rules, nftables and qdiscs, which a former owner may have left.
// It creates no namespace, deletes none, takes nothing down and keeps no state.
// There is no Down: lo dies with its namespace, and until then a process may use it.
//
// # Namespaces and threads
//
// The calling goroutine never changes its network namespace. A netlink socket
// belongs for good to the namespace that it was opened in (netlink(7)), so the
// package enters the namespace for as long as opening one takes, on a thread
// that no other goroutine uses meanwhile. That thread is handed back to the Go runtime
// only after it has verifiably returned; otherwise it ends.
//
// All functions and methods may be called from several goroutines at once.
// Close is the exception: it must be the last call on its Netns.
//
// # Errors
//
// A caller branches with errors.Is on [ErrNotExist], [ErrNotNetns], [ErrHost]
// and [ErrChanging], and with errors.As on [*Findings]. Everything else is an
// [*OpError]: the kernel refused an operation, and Unwrap gives the errno, or
// [os.ErrDeadlineExceeded] where the kernel did not answer in time.
package loopback
