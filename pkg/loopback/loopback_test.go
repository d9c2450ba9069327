package loopback

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

func open1(t *testing.T, ns *nstest.NS) *Netns {
	t.Helper()
	n, err := Open(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func TestUp(t *testing.T) {
	n := open1(t, nstest.New(t))
	before, err := n.Survey()
	if err != nil {
		t.Fatal(err)
	}
	var f *Findings
	if err := before.Check(Exclusive); !errors.As(err, &f) || !f.Down || len(f.Missing) != len(loAddrs(before)) || len(f.Violations()) != 0 {
		t.Errorf("a new namespace: %v", err)
	}
	s, err := n.Up(Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	// What lo is like in a new namespace (drivers/net/loopback.c); fallback tunnels may be beside it.
	want := Link{Index: 1, Name: "lo", Kind: "loopback", Up: true, Loopback: true, MTU: 65536, MAC: make([]byte, 6), Addrs: loAddrs(s)}
	got := *s.Lo()
	if len(s.Others()) != 0 || got.String() != "lo (loopback)" || !slices.Equal(got.Addrs, want.Addrs) || !slices.Equal(got.MAC, want.MAC) ||
		got.Index != want.Index || got.MTU != want.MTU || !got.Up {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := s.Check(Exclusive); err != nil {
		t.Error(err)
	}
}

// loAddrs are the addresses that lo should have on this machine's kernel, which
// may have been started without IPv6.
func loAddrs(s *Survey) []netip.Prefix {
	if s.Lo().IPv6 {
		return []netip.Prefix{lo4, lo6}
	}
	return []netip.Prefix{lo4}
}

// TestUpHeals: what is missing comes back, and nothing is done twice.
func TestUpHeals(t *testing.T) {
	for name, damage := range map[string]func(lo netlink.Link) error{
		"nothing": func(netlink.Link) error { return nil },
		"down":    netlink.LinkSetDown,
		"no IPv4": func(lo netlink.Link) error { return netlink.AddrDel(lo, mustAddr("127.0.0.1/8")) },
		"no IPv6": func(lo netlink.Link) error {
			if _, err := os.Stat("/proc/sys/net/ipv6"); errors.Is(err, fs.ErrNotExist) {
				return nil // there is none to take away
			}
			return netlink.AddrDel(lo, mustAddr("::1/128"))
		},
		"down, and no IPv4": func(lo netlink.Link) error {
			return errors.Join(netlink.LinkSetDown(lo), netlink.AddrDel(lo, mustAddr("127.0.0.1/8")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := nstest.New(t)
			n := open1(t, ns)
			if _, err := n.Up(Exclusive); err != nil {
				t.Fatal(err)
			}
			routes := allRoutes(ns)
			ns.Do(func() error {
				lo, err := netlink.LinkByName("lo")
				return errors.Join(err, damage(lo))
			})
			s, err := n.Up(Exclusive)
			if err != nil {
				t.Fatal(err)
			}
			addrs := slices.Clone(s.Lo().Addrs)
			slices.SortFunc(addrs, netip.Prefix.Compare)
			if !s.Lo().Up || !slices.Equal(addrs, loAddrs(s)) {
				t.Errorf("%+v", s.Lo())
			}
			if healed := allRoutes(ns); healed != routes {
				t.Errorf("routes were\n%sand are\n%s", routes, healed)
			}
		})
	}
}

// allRoutes lists the routes of all tables, so that what was healed is no
// different from what the kernel makes.
func allRoutes(ns *nstest.NS) string {
	var lines []string
	ns.Do(func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			lines = append(lines, r.String()+"\n")
		}
		return err
	})
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func mustAddr(s string) *netlink.Addr {
	a, err := netlink.ParseAddr(s)
	if err != nil {
		panic(err)
	}
	return a
}

// TestUpRefusesBeforeItTouches: an exclusive namespace with something in it
// keeps lo as it was.
func TestUpRefusesBeforeItTouches(t *testing.T) {
	ns := nstest.New(t)
	ns.Do(func() error { return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}) })
	n := open1(t, ns)
	_, err := n.Up(Exclusive)
	var f *Findings
	if !errors.As(err, &f) || len(f.Extra) != 1 || f.Extra[0].Name != "br0" || f.Extra[0].Kind != "bridge" {
		t.Fatalf("%v", err)
	}
	if s, err := n.Survey(); err != nil || s.Lo().Up {
		t.Errorf("lo was touched: %v", err)
	}
	if _, err := n.Up(Shared); err != nil {
		t.Errorf("shared: %v", err)
	}
}

// TestConnectedOnce: a namespace keeps the number of another one when the
// interface that led there is gone, and that is not isolated.
func TestConnectedOnce(t *testing.T) {
	ns := nstest.New(t)
	other, err := os.Open(nstest.New(t).Path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	n := open1(t, ns)
	ns.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", TxQLen: -1}, PeerName: "peer", PeerNamespace: netlink.NsFd(other.Fd())}
		return errors.Join(netlink.LinkAdd(veth), netlink.LinkDel(veth))
	})
	s, err := n.Survey()
	if err != nil || len(s.Others()) != 0 || len(s.NSIDs) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	var f *Findings
	if _, err := n.Up(Exclusive); !errors.As(err, &f) || len(f.NSIDs) != 1 || f.Down {
		t.Errorf("%v", err)
	}
	if _, err := n.Up(Shared); err != nil {
		t.Errorf("shared: %v", err)
	}
}

// TestUpGivesUp: what Up cannot put right it does not try to for ever. ::1 with
// another prefix length is such a thing: the kernel adds no address twice
// (addrconf.c, ipv6_add_addr).
func TestUpGivesUp(t *testing.T) {
	ns := nstest.New(t)
	n := open1(t, ns)
	s, err := n.Up(Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Lo().IPv6 {
		t.Skip("needs IPv6")
	}
	ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		return errors.Join(err, netlink.AddrDel(lo, mustAddr("::1/128")), netlink.AddrAdd(lo, mustAddr("::1/64")))
	})
	done := make(chan error, 1)
	go func() { _, err := n.Up(Exclusive); done <- err }()
	select {
	case err := <-done:
		if !errors.Is(err, ErrChanging) || !strings.HasSuffix(err.Error(), ": lo lacks ::1/128") {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it still tries after a minute")
	}
}

// addPairs puts pairs of veths into a namespace.
func addPairs(ns *nstest.NS, pairs int) {
	ns.Do(func() (err error) {
		for i := range pairs {
			veth := netlink.LinkAttrs{Name: fmt.Sprintf("a%d", i), TxQLen: -1}
			err = errors.Join(err, netlink.LinkAdd(&netlink.Veth{LinkAttrs: veth, PeerName: fmt.Sprintf("b%d", i)}))
		}
		return err
	})
}

// TestGivenUp: what is left of a list that was given up, as after ENOBUFS, is not
// in the way of the next one: the kernel tells one list at a time on a socket.
func TestGivenUp(t *testing.T) {
	const pairs = 100 // several datagrams
	ns := nstest.New(t)
	addPairs(ns, pairs)
	c, err := open1(t, ns).dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	if err := unix.Sendto(c.fd, req.Serialize(), 0, kernel()); err != nil {
		t.Fatal(err)
	}
	if s, err := c.survey(); err != nil || len(s.Others()) != 2*pairs {
		t.Errorf("%d interfaces beside lo, %v", len(s.Others()), err)
	}
	if c.seq < 4 {
		t.Error("nothing was in the way: this test has seen nothing")
	}
}

// TestInterrupted: a list of interfaces that changes while it is told is asked
// for again, until it is consistent or was not for too often.
func TestInterrupted(t *testing.T) {
	const stable = 120 // more than fit into one datagram, so that a change can come between two
	ns := nstest.New(t)
	n := open1(t, ns)
	attrs := func(name string) netlink.LinkAttrs { return netlink.LinkAttrs{Name: name, TxQLen: -1} }
	addPairs(ns, stable/2)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := ns.Try(func() error {
			br := &netlink.Bridge{LinkAttrs: attrs("c")}
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				if err := errors.Join(netlink.LinkAdd(br), netlink.LinkDel(br)); err != nil {
					return err
				}
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer close(stop)
	c, err := n.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	interrupted := 0
	for deadline := time.Now().Add(time.Minute); interrupted < 5; {
		if time.Now().After(deadline) {
			t.Fatal("no list was interrupted in a minute: this test has seen nothing")
		}
		before := c.seq
		s, err := c.survey()
		if c.seq > before+3 || errors.Is(err, ErrChanging) { // three lists, asked for once each
			interrupted++
		}
		if errors.Is(err, ErrChanging) {
			continue
		}
		if err != nil || len(s.Others()) != stable && len(s.Others()) != stable+1 {
			t.Fatalf("%d interfaces beside lo, %v", len(s.Others()), err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	fifo := dir + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	loop := dir + "/loop"
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		"/proc/self/ns/net":              ErrHost,
		"/proc/thread-self/ns/net":       ErrHost,
		"/proc/self/ns/uts":              ErrNotNetns,
		"/proc/self/ns/user":             ErrNotNetns,
		fifo:                             ErrNotNetns,
		dir:                              ErrNotNetns,
		"/dev/null":                      ErrNotNetns,
		"/proc/self/status":              ErrNotNetns,
		dir + "/missing":                 ErrNotExist,
		fifo + "/below":                  ErrNotExist,
		"/proc/4194304/ns/net":           ErrNotExist,
		strings.Repeat("x", 300):         ErrNotExist,
		"/" + strings.Repeat("x/", 3000): ErrNotExist,
		loop:                             unix.ELOOP,
	} {
		n, err := Open(path)
		if !errors.Is(err, want) {
			t.Errorf("Open(%s): %v, want %v", path, err, want)
		}
		if err == nil {
			n.Close()
		}
	}
}

// TestOpenRefusesTheMainThreadsNamespace: a goroutine that has gone elsewhere
// still may not touch the namespace that the process lives in.
func TestOpenRefusesTheMainThreadsNamespace(t *testing.T) {
	ns := nstest.New(t)
	home, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	ns.Do(func() error {
		if unix.Gettid() == unix.Getpid() {
			return nil // the main thread is elsewhere then, and both are one
		}
		if _, err := Open("/proc/self/fd/" + strconv.Itoa(int(home.Fd()))); !errors.Is(err, ErrHost) {
			t.Errorf("the main thread's: %v", err)
		}
		if _, err := Open(ns.Path); !errors.Is(err, ErrHost) {
			t.Errorf("this thread's: %v", err)
		}
		return nil
	})
}

// TestInspect looks at namespaces that Open would refuse.
func TestInspect(t *testing.T) {
	nstest.New(t) // needs root
	byPath, err := Inspect("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	self, err := InspectSelf()
	if err != nil {
		t.Fatal(err)
	}
	if len(byPath.Links) != len(self.Links) || byPath.Lo() == nil {
		t.Errorf("%v, %v", byPath.Links, self.Links)
	}
	if _, err := Inspect("/nowhere"); !errors.Is(err, ErrNotExist) {
		t.Error(err)
	}
}

// TestCallerStays: the calling goroutine's namespace is the same after all of it,
// and no thread is left in another.
func TestCallerStays(t *testing.T) {
	n := open1(t, nstest.New(t))
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := n.Up(Exclusive); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		ns, err := os.Readlink("/proc/self/task/" + thread.Name() + "/ns/net")
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended
		}
		if err != nil || ns != home {
			t.Errorf("thread %s is in %s, not %s: %v", thread.Name(), ns, home, err)
		}
	}
}

// TestKernelRefuses: the kernel's refusals come out as what they are.
func TestKernelRefuses(t *testing.T) {
	ns := nstest.New(t)
	gone, err := Open(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	_, err = gone.Survey()
	var op *OpError
	if !errors.As(err, &op) || op.Op != "setns" || op.Path != ns.Path || !errors.Is(err, syscall.EBADF) {
		t.Errorf("%v", err)
	}
	if _, err := gone.Up(Exclusive); !errors.Is(err, syscall.EBADF) {
		t.Error(err)
	}
	c, err := open1(t, ns).dial()
	if err != nil {
		t.Fatal(err)
	}
	const none = 1 << 30 // no kernel has given this index
	if err := c.setUp(none); !errors.Is(err, syscall.ENODEV) || !strings.Contains(err.Error(), "bring lo up ("+ns.Path+"): no such device (ENODEV)") {
		t.Error(err)
	}
	if err := c.heal(none, &Findings{Missing: []netip.Prefix{lo4}}); !errors.Is(err, syscall.ENODEV) {
		t.Error(err)
	}
	c.close()
	if _, err := c.survey(); !errors.Is(err, syscall.EBADF) {
		t.Error(err)
	}
}

// TestAvailable: a thread without a capability is told which, and may still look
// at its own namespace.
func TestAvailable(t *testing.T) {
	nstest.New(t) // needs root
	if err := Available(); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}} {
		without(t, c.bit, func() {
			if err := Available(); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), c.name+" is missing") {
				t.Errorf("without %s: %v", c.name, err)
			}
			if _, err := InspectSelf(); err != nil {
				t.Errorf("without %s: %v", c.name, err)
			}
		})
	}
}

// without runs fn on a thread whose effective capabilities lack one.
func without(t *testing.T, bit int, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var had, has [2]unix.CapUserData
		if err := unix.Capget(&header, &had[0]); err != nil {
			t.Error(err)
			return
		}
		has = had
		has[bit/32].Effective &^= 1 << (bit % 32)
		if err := unix.Capset(&header, &has[0]); err != nil {
			t.Error(err)
			return
		}
		fn()
		if err := unix.Capset(&header, &had[0]); err != nil {
			t.Error(err)
			return // the thread ends with the goroutine
		}
		runtime.UnlockOSThread()
	}()
	<-done
}
