package loopback

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// TestOutOfFiles takes the file descriptors away one by one: each step that
// wants one says so, and leaves none open.
func TestOutOfFiles(t *testing.T) {
	ns := nstest.New(t)
	var had unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &had); err != nil {
		t.Fatal(err)
	}
	free, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(free)
	refused := map[string]bool{}
	for spare := range 5 {
		limit := unix.Rlimit{Cur: uint64(free + spare), Max: had.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		err := openAndUp(ns.Path)
		_, selfErr := InspectSelf()
		availableErr := Available()
		if back := unix.Setrlimit(unix.RLIMIT_NOFILE, &had); back != nil {
			t.Fatal(back)
		}
		if spare == 0 && (!errors.Is(selfErr, unix.EMFILE) || !errors.Is(availableErr, unix.EMFILE)) {
			t.Errorf("with none: %v, %v", selfErr, availableErr)
		}
		var op *OpError
		switch {
		case err == nil && spare < 3:
			t.Errorf("%d descriptors were enough", spare)
		case err == nil:
		case !errors.As(err, &op) || !errors.Is(err, unix.EMFILE):
			t.Errorf("with %d: %v", spare, err)
		default:
			refused[op.Op] = true
		}
	}
	for _, op := range []string{"open", "open a netlink socket"} {
		if !refused[op] {
			t.Errorf("%s was never refused: %v", op, refused)
		}
	}
	again, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(again)
	if again > free {
		t.Errorf("descriptor %d was free before, and now %d", free, again)
	}
}

func openAndUp(path string) error {
	n, err := Open(path)
	if err != nil {
		return err
	}
	defer n.Close()
	_, err = n.Up(Exclusive)
	return err
}

// TestDatagramTooLong: a datagram that does not fit is an error, not half a survey.
func TestDatagramTooLong(t *testing.T) {
	c, err := dialCurrent("")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	c.max = 50
	if _, err := c.survey(); !errors.Is(err, unix.EMSGSIZE) || !strings.Contains(err.Error(), "list interfaces: a netlink datagram of ") {
		t.Error(err)
	}
}

// TestNoAnswer: a kernel that does not answer is not waited for.
func TestNoAnswer(t *testing.T) {
	defer func(was time.Duration) { answerLimit = was }(answerLimit)
	answerLimit = time.Millisecond
	c, err := dialCurrent("")
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		defer c.close()
		_, err := c.receive() // nothing was asked
		answered <- err
	}()
	select {
	case err := <-answered:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it waits for an answer after 30 seconds")
	}
}

// TestDeadline: all answers together have a limit too, since each of many may
// take a while.
func TestDeadline(t *testing.T) {
	c, err := dialCurrent("/x")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if left := time.Until(c.end); left <= 0 || left > connLimit {
		t.Errorf("%v left", left)
	}
	c.end = time.Now()
	if _, err := c.survey(); !errors.Is(err, os.ErrDeadlineExceeded) || err.Error() != "list interfaces (/x): i/o timeout" {
		t.Error(err)
	}
}

// TestForgedAnswer: the socket hears the kernel alone. Another one, not connected,
// shows that the forger could have been heard.
func TestForgedAnswer(t *testing.T) {
	nstest.New(t) // needs root
	c, err := dialCurrent("")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	control, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(control)
	if err := unix.Bind(control, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	forged := nlmsg(unix.NLMSG_ERROR, 0, 1, errnoPayload(unix.EPERM)...)
	for fd, want := range map[int]error{c.fd: unix.ECONNREFUSED, control: nil} {
		name, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		forger, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Sendto(forger, forged, 0, name); !errors.Is(err, want) {
			t.Errorf("send to the connected %v: %v, want %v", fd == c.fd, err, want)
		}
		unix.Close(forger)
	}
	if s, err := c.survey(); err != nil || s.Lo() == nil {
		t.Errorf("%v", err)
	}
}
