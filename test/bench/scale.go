package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
)

// crowd times one ADD while more and more other namespaces live. Every number
// is visited on the way up and again on the way down, so that a machine that
// becomes faster or slower meanwhile does not pass for an effect; the empty
// program, which has nothing to do with namespaces, shows what remains of that.
func (b *bench) crowd() error {
	dir, err := b.copyBinaries()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var acts []act
	for _, program := range []string{none, upstream, empty} {
		a, err := b.add(program)
		if err != nil {
			return err
		}
		if program == empty {
			a.after = nil
		}
		acts = append(acts, a)
	}
	samples := map[int]map[string][]sample{}
	visit := func(n int) error {
		if samples[n] == nil {
			samples[n] = map[string][]sample{}
		}
		for round := range b.nsRounds + 1 {
			rand.Shuffle(len(acts), func(i, j int) { acts[i], acts[j] = acts[j], acts[i] })
			for i := range acts {
				s, _, err := acts[i].do(dir, spawn)
				if err != nil {
					return err
				}
				if round > 0 {
					samples[n][acts[i].program] = append(samples[n][acts[i].program], s)
				}
			}
		}
		return nil
	}

	var others []*namespace
	for _, n := range b.namespaces {
		// The one under test counts; the other programs' two are always there.
		for len(others) < n-1 {
			ns, err := b.namespace()
			if err != nil {
				return fmt.Errorf("namespace %d of %d: %w", len(others)+1, n, err)
			}
			if err := ns.setUp(true); err != nil {
				return err
			}
			ns.h.Close() // or every fork and exec would copy and close it, and be the dearer for it
			others = append(others, ns)
		}
		if err := visit(n); err != nil {
			return err
		}
	}
	for i := len(b.namespaces) - 1; i >= 0; i-- {
		n := b.namespaces[i]
		if err := b.removeAll(others[min(n-1, len(others)):]); err != nil {
			return err
		}
		others = others[:min(n-1, len(others))]
		if err := visit(n); err != nil {
			return err
		}
	}
	for _, n := range b.namespaces {
		for _, program := range []string{none, upstream, empty} {
			b.Namespaces = append(b.Namespaces, newCrowd(n, program, samples[n][program]))
		}
	}
	return nil
}

// removeAll removes the namespaces and waits until the kernel has taken them
// apart, which it does in the background (cleanup_net, net/core/net_namespace.c)
// and in the order of their end. So the last one gets one end of a veth: when
// the other end goes, all are gone.
func (b *bench) removeAll(namespaces []*namespace) error {
	if len(namespaces) == 0 {
		return nil
	}
	last, err := b.namespace()
	if err != nil {
		return err
	}
	fd, err := os.Open(last.path)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "sentinel"
	err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "sentinel", PeerNamespace: netlink.NsFd(fd.Fd())})
	fd.Close()
	if err != nil {
		return fmt.Errorf("add a veth: %w", err)
	}
	for _, ns := range append(namespaces, last) {
		if err := ns.remove(); err != nil {
			return err
		}
	}
	for range 1200 {
		if _, err := netlink.LinkByName("sentinel"); err != nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%d namespaces are still not gone after two minutes", len(namespaces))
}

// parallel counts how many containers' worth of ADD and DEL get done when
// several callers ask at once. Before each pair lo is taken down again.
func (b *bench) parallel() error {
	dir, err := b.copyBinaries()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	most := 0
	for _, n := range b.callers {
		most = max(most, n)
	}
	// bridge has its own: with a veth, a namespace learns a number for the node's
	// and keeps it, and ours refuses such a one.
	shared, bridged := make([]*namespace, most), make([]*namespace, most)
	for i := range most {
		if shared[i], err = b.namespace(); err != nil {
			return err
		}
		if bridged[i], err = b.namespace(); err != nil {
			return err
		}
	}
	programs := []string{none, upstream, bridge, floor}
	rates := map[int]map[string]float64{}
	for _, callers := range b.callers {
		rates[callers] = map[string]float64{}
		rand.Shuffle(len(programs), func(i, j int) { programs[i], programs[j] = programs[j], programs[i] })
		for _, program := range programs {
			namespaces, pairs := shared, b.pairs
			if program == bridge {
				namespaces, pairs = bridged, (pairs+2)/3 // it is several times slower
			}
			took, err := b.pairsOf(program, dir, namespaces[:callers], pairs)
			if err != nil {
				return fmt.Errorf("%d callers: %w", callers, err)
			}
			rates[callers][program] = float64(pairs) / took.Seconds()
		}
	}
	for _, callers := range b.callers {
		for _, program := range []string{none, upstream, bridge, floor} {
			b.Callers = append(b.Callers, Throughput{callers, program, rates[callers][program]})
		}
	}
	return nil
}

// pairsOf does that many pairs of ADD and DEL, one caller per namespace.
func (b *bench) pairsOf(program, dir string, namespaces []*namespace, pairs int) (time.Duration, error) {
	var left atomic.Int64
	left.Store(int64(pairs))
	errs := make(chan error, len(namespaces))
	var callers sync.WaitGroup
	start := time.Now()
	for _, ns := range namespaces {
		callers.Go(func() {
			add := act{program: program, command: "ADD", ns: ns, conf: conf(program, b.dir)}
			del := later(add, "DEL", nil)
			if program == floor {
				del.program = empty // the least that a DEL can be
			}
			for left.Add(-1) >= 0 {
				if err := ns.setUp(false); err != nil {
					errs <- err
					return
				}
				for _, a := range []*act{&add, &del} {
					_, out, err := a.do(dir, spawn)
					if err != nil {
						errs <- err
						return
					}
					if a == &add {
						del.conf["prevResult"] = rawJSON(out)
					}
				}
			}
		})
	}
	callers.Wait()
	took := time.Since(start)
	close(errs)
	return took, <-errs
}
