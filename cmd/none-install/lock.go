package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile keeps two runs on one node apart: the second one waits. It stays until
// the machine starts anew: removing it would let a third run lock another file of
// that name.
const lockFile = "/run/cni-none.lock"

// lock takes the lock; the kernel releases it when the process ends.
func (in *installer) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil // no /run: an image that is being built
	}
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(in.timeout); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("another none-install works on this node (%s): %w", lockFile, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
