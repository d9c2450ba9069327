package main

import (
	"testing"

	"github.com/cni-none/cni-none/internal/nstest"
	"github.com/cni-none/cni-none/pkg/loopback"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The benchmarks compare what a runtime could call in its own process. Each
// starts from a namespace whose lo is down, as a new container's is, or up, as
// it is when the runtime starts again.
//
//	go test -run '^$' -bench . -count 5

func BenchmarkLoDown(b *testing.B) { each(b, false) }
func BenchmarkLoUp(b *testing.B)   { each(b, true) }

func each(b *testing.B, up bool) {
	for _, way := range []struct {
		name string
		run  func(path string) error
	}{
		{"loopback.Up", func(path string) error {
			n, err := loopback.Open(path)
			if err != nil {
				return err
			}
			defer n.Close()
			_, err = n.Up(loopback.Exclusive)
			return err
		}},
		{"containerd", bringUp},
	} {
		b.Run(way.name, func(b *testing.B) {
			n := nstest.New(b)
			container, err := inside(n)
			if err != nil {
				b.Fatal(err)
			}
			defer container.h.Close()
			for b.Loop() {
				b.StopTimer()
				if err := container.setUp(up); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := way.run(n.Path); err != nil {
					b.Fatal(err)
				}
			}
			if err := container.expectLo(true); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// bringUp is what containerd does with use_internal_loopback (bringUpLoopback,
// internal/cri/server/podsandbox). It verifies nothing.
func bringUp(path string) error {
	return ns.WithNetNSPath(path, func(ns.NetNS) error {
		link, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
}

// inside opens a socket in the namespace.
func inside(n *nstest.NS) (*namespace, error) {
	container := &namespace{path: n.Path}
	err := n.Try(func() (err error) {
		container.h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return container, err
}

// BenchmarkInspect is what an audit of a namespace costs.
func BenchmarkInspect(b *testing.B) {
	n := nstest.New(b)
	for b.Loop() {
		if _, err := loopback.Inspect(n.Path); err != nil {
			b.Fatal(err)
		}
	}
}
