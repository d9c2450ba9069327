package netns

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs fn on a thread that is in the namespace, and returns its error. The
// caller's thread stays where it is. fn must not start goroutines that rely on
// the namespace; a program that it starts inherits it.
//
// Errors: fn's, and [*os.SyscallError] where the thread did not get there.
func (n *NS) Do(fn func() error) error {
	return inside(func() error { return os.NewSyscallError("setns", setns(n.fd)) }, fn)
}

// InNew is Do in a new network namespace, which ends after fn unless fn keeps it:
// with a mount of /proc/thread-self/ns/net, a descriptor, a socket or a process.
func InNew(fn func() error) error {
	return inside(func() error { return os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET)) }, fn)
}

// Visit runs fn on a thread of its own, which fn takes from namespace to
// namespace with enter. For many that costs a third of as many calls of Do.
//
// Errors: fn's, and [*os.SyscallError].
func Visit(fn func(enter func(*NS) error) error) error {
	return inside(func() error { return nil }, func() error {
		return fn(func(n *NS) error { return os.NewSyscallError("setns", setns(n.fd)) })
	})
}

// inside runs fn, after enter, on a thread that no other goroutine uses
// meanwhile, and waits for it.
func inside(enter, fn func() error) error {
	err := errors.New("the function ended its goroutine") // t.FailNow does
	done := make(chan struct{})
	go func() {
		defer close(done) // last of all, so that nothing of ours is open any more
		err = onThread(enter, fn)
	}()
	<-done
	return err
}

const own = "/proc/thread-self/ns/net"

// onThread takes the thread back to where it came from before anything else runs
// on it. Where that fails, it stays locked, and ends with its goroutine.
func onThread(enter, fn func() error) error {
	runtime.LockOSThread()
	home, err := open(own, unix.O_RDONLY)
	if err != nil {
		runtime.UnlockOSThread()
		return os.NewSyscallError("open "+own, err)
	}
	defer unix.Close(home)
	// The main thread never ends: lost in there, it would make /proc/self name
	// the wrong namespace from then on. So it goes only if it could come home now:
	// in a user namespace below the one that owns home, it could not
	// (net/core/net_namespace.c, netns_install).
	if unix.Gettid() == unix.Getpid() && setns(home) != nil {
		defer runtime.UnlockOSThread()
		return inside(enter, fn) // on another thread, since this one is taken
	}
	if err := enter(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if setns(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return fn()
}

func setns(fd int) error {
	return Retry(func() error { return unix.Setns(fd, unix.CLONE_NEWNET) })
}
