package main

import (
	"errors"
	"fmt"

	"github.com/cni-none/cni-none/cmd/none-install/containerd"
)

// remedies are the flags that help where package containerd, which does not know
// them, cannot go on.
var remedies = []struct {
	err  error
	flag string
}{
	{containerd.ErrNoRuntime, "say which with --endpoint, or --containerd and --config"},
	{containerd.ErrNoCRI, "say which one with --endpoint"},
	{containerd.ErrNoBase, "choose one with --base-handler"},
	{containerd.ErrNoUnit, "say how to restart it with --restart-command"},
}

// remedied adds the flag to an error for which there is one.
func remedied(err error) error {
	for _, r := range remedies {
		if errors.Is(err, r.err) {
			return fmt.Errorf("%w; %s", err, r.flag)
		}
	}
	return err
}
