package loopback

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// asFlooder makes the test binary flood the namespace that it is in.
const asFlooder = "LOOPBACK_TEST_AS_FLOODER"

func TestMain(m *testing.M) {
	if os.Getenv(asFlooder) != "" {
		flood()
	}
	os.Exit(m.Run())
}

// flood sends junk of all sizes to every netlink port that /proc tells of, from
// four threads, until it is killed.
func flood() {
	for range 4 {
		go func() {
			runtime.LockOSThread()
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
			if err != nil {
				panic(err)
			}
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20)
			junk := make([]byte, 70_000)
			seen := map[uint32]bool{} // a process mostly gets its own number, again and again
			for round := 0; ; round++ {
				if round%64 == 0 {
					for _, port := range netlinkPorts() {
						seen[port] = true
					}
				}
				for port := range seen {
					size := []int{0, 1, 15, 16, 17, 100, 4096, 40_000, 70_000}[rand.IntN(9)]
					copy(junk, nlmsg(unix.NLMSG_ERROR, unix.NLM_F_DUMP_INTR, uint32(rand.IntN(4)), errnoPayload(unix.EPERM)...))
					_ = unix.Sendto(fd, junk[:size], unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port})
				}
			}
		}()
	}
	select {}
}

// netlinkPorts lists the ports of this thread's namespace (net/netlink/af_netlink.c,
// netlink_native_seq_show: address, protocol, port).
func netlinkPorts() (ports []uint32) {
	f, err := os.Open("/proc/thread-self/net/netlink")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if port, err := strconv.ParseUint(fields[2], 10, 32); err == nil && port != 0 && fields[1] == "0" {
			ports = append(ports, uint32(port))
		}
	}
	return ports
}

// startFlooder has another process flood a namespace until the test ends.
func startFlooder(t *testing.T, ns *nstest.NS) (stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asFlooder+"=1")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	ns.Do(cmd.Start)
	stop = func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if output.Len() > 0 {
			t.Errorf("the flooder failed: %s", &output)
		}
	}
	t.Cleanup(stop)
	return stop
}

// TestFlooded: a process in the namespace that sends to the survey's socket
// changes neither what is found nor, by more than a factor of five, the time that
// it takes. A flooder in another namespace takes as much of the machine's time.
func TestFlooded(t *testing.T) {
	ns, elsewhere := nstest.New(t), nstest.New(t)
	ns.Do(func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}})
	})
	stop := startFlooder(t, elsewhere)
	calm := surveys(t, ns)
	stop()
	startFlooder(t, ns)
	waitForJunk(t, ns)
	flooded := surveys(t, ns)
	t.Logf("median of a survey: %v beside a flood, %v in one", calm, flooded)
	if flooded > 5*calm {
		t.Errorf("a survey takes %v, and %v under a flood", calm, flooded)
	}
}

// waitForJunk waits until a socket that is not connected is sent junk.
func waitForJunk(t *testing.T, ns *nstest.NS) {
	t.Helper()
	ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		limit := unix.Timeval{Sec: 60}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		_, _, err = unix.Recvfrom(fd, make([]byte, 1), 0)
		if err != nil {
			return fmt.Errorf("the flooder floods nothing: %w", err)
		}
		return nil
	})
}

// surveys returns the median time of many surveys, each of which must find br0.
func surveys(t *testing.T, ns *nstest.NS) time.Duration {
	t.Helper()
	n := 3000
	if testing.Short() {
		n = 300
	}
	var times []time.Duration
	for range n {
		start := time.Now()
		s, err := Inspect(ns.Path)
		times = append(times, time.Since(start))
		if err != nil || len(s.Others()) != 1 || s.Others()[0].Name != "br0" {
			t.Fatalf("%+v, %v", s, err)
		}
	}
	slices.Sort(times)
	return times[len(times)/2]
}
