//go:build inside

package inside

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// only runs fn on a thread in an isolated namespace that has no capability but
// those in effect.
func only(t *testing.T, fn func() error, capabilities ...int) error {
	t.Helper()
	ns := nstest.New(t)
	accepted(t, ns.Path)
	return ns.Try(func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var had, has [2]unix.CapUserData
		if err := unix.Capget(&header, &had[0]); err != nil {
			return err
		}
		for i := range has {
			has[i].Permitted = had[i].Permitted
		}
		for _, c := range capabilities {
			has[c/32].Effective |= 1 << (c % 32)
		}
		if err := unix.Capset(&header, &has[0]); err != nil {
			return err
		}
		err := fn()
		return errors.Join(err, unix.Capset(&header, &had[0]))
	})
}

// dummy0 returns the number of the host's dummy0, which its module makes.
func dummy0(t *testing.T) int {
	t.Helper()
	l, err := netlink.LinkByName("dummy0")
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}

// TestSysModule: CAP_SYS_MODULE in an isolated namespace is enough to take an
// interface of the host away and to make another: a module works on the kernel,
// not on a namespace.
func TestSysModule(t *testing.T) {
	module, err := os.Open("/modules/dummy.ko")
	if err != nil {
		t.Fatal(err)
	}
	defer module.Close()
	reload := func() error {
		if err := unix.DeleteModule("dummy", unix.O_NONBLOCK); err != nil {
			return fmt.Errorf("delete_module: %w", err)
		}
		return unix.FinitModule(int(module.Fd()), "", 0)
	}
	before := dummy0(t)
	if err := only(t, reload); !errors.Is(err, unix.EPERM) {
		t.Errorf("without the capability: %v", err)
	}
	if got := dummy0(t); got != before {
		t.Errorf("without the capability the host's dummy0 was %d and is %d", before, got)
	}
	if err := only(t, reload, unix.CAP_SYS_MODULE); err != nil {
		t.Errorf("with CAP_SYS_MODULE: %v", err)
	}
	if got := dummy0(t); got == before {
		t.Errorf("with CAP_SYS_MODULE the host's dummy0 stays %d", got)
	}
}

// TestBPF: with CAP_BPF and CAP_PERFMON a program in an isolated namespace follows
// every process of the machine; with CAP_BPF alone, or neither, it may not.
func TestBPF(t *testing.T) {
	const calls = 1000
	var heard uint64
	listen := func() error {
		n, err := counter()
		if err != nil {
			return fmt.Errorf("make a map: %w", err)
		}
		defer unix.Close(n)
		fd, err := countCalls(unix.SYS_GETPRIORITY, n)
		if err != nil {
			return fmt.Errorf("count: %w", err)
		}
		defer unix.Close(fd)
		done := make(chan struct{})
		go func() { // on a thread outside of that namespace
			defer close(done)
			for range calls {
				unix.Getpriority(unix.PRIO_PROCESS, 0)
			}
		}()
		<-done
		heard, err = count(n)
		return err
	}
	for _, c := range [][]int{{}, {unix.CAP_BPF}} {
		if err := only(t, listen, c...); !errors.Is(err, unix.EPERM) {
			t.Errorf("with the capabilities %v: %v", c, err)
		}
	}
	if err := only(t, listen, unix.CAP_BPF, unix.CAP_PERFMON); err != nil || heard < calls {
		t.Errorf("with CAP_BPF and CAP_PERFMON: heard %d of %d, %v", heard, calls, err)
	}
}
