// Package gocni drives the none plugin through github.com/containerd/go-cni,
// the layer between nerdctl or containerd and CNI plugins, with the conflist
// and the commands that the project ships.
//
// nerdctl itself is in neither Debian 12 nor the Go module proxy, so it is not
// run here. What is tested is every call that it makes of its library.
//
// go-cni keeps libcni's cache in /var/lib/cni and cannot be told otherwise. So
// the tests run on a machine of their own.
package gocni

import (
	"testing"

	"github.com/cni-none/cni-none/test/internal/machine"
)

func TestMain(m *testing.M) { machine.Main(m, machine.Config{}) }
