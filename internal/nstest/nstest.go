// Package nstest gives a test network namespaces of its own.
//
// A namespace lives as a bind mount in the test's temporary directory, as a
// runtime would keep it, and is gone when the test ends, whether it passed or
// not. Nothing here touches the namespace that the test itself runs in.
package nstest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
)

// NS is a network namespace of a test's own. Its loopback interface is down,
// as the kernel made it.
type NS struct {
	tb testing.TB
	// Path is the bind mount that holds the namespace: what a runtime would
	// pass as CNI_NETNS.
	Path string
}

// New makes a network namespace and unmounts it when the test ends. It skips
// the test where the process may not create namespaces.
func New(tb testing.TB) *NS {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	err := netns.InNew(func() error {
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
	// With CI set nothing is skipped.
	if errors.Is(err, unix.EPERM) && os.Getenv("CI") == "" {
		tb.Skipf("needs CAP_SYS_ADMIN to make a network namespace: %v", err)
	}
	if err != nil {
		tb.Fatalf("make a network namespace: %v", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmount %s: %v", path, err)
		}
	})
	return &NS{tb: tb, Path: path}
}

// Do runs fn on a thread inside the namespace and fails the test on its error.
// fn must not start goroutines that rely on the namespace.
func (n *NS) Do(fn func() error) {
	n.tb.Helper()
	if err := n.Try(fn); err != nil {
		n.tb.Fatalf("in %s: %v", n.Path, err)
	}
}

// Try is Do for a caller that wants the error.
func (n *NS) Try(fn func() error) error {
	ns, err := netns.Open(n.Path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(fn)
}

// At is a namespace that is there already.
func At(tb testing.TB, path string) *NS { return &NS{tb: tb, Path: path} }
