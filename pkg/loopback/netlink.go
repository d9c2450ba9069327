package loopback

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
)

// conn is a NETLINK_ROUTE socket. It stays in the namespace that it was opened
// in. It is our own rather than nl's, which switches namespaces without verifying
// its return and waits by epoll: with that one a CHECK takes 1.06 to 1.10 times as long.
type conn struct {
	path string // the namespace, for errors
	fd   int
	seq  uint32
	end  time.Time
	max  int    // bytes in the longest datagram
	free []byte // where the next ones go; what was received is not overwritten

	first *[]byte // of the buffers, for the next conn
}

// buffers spares a caller that surveys thousands of namespaces a buffer for each.
var buffers sync.Pool

const (
	// dumpTries bounds how often a dump is repeated that a change in the namespace
	// has made inconsistent.
	dumpTries = 32

	// The kernel fills at most 32 KiB per datagram of a dump (af_netlink.c, netlink_dump).
	maxDatagram = 32 << 10
)

// answerLimit is how long the kernel may take for a datagram. It answers
// rtnetlink before sendto returns; the limit is for one that does not.
var answerLimit = 10 * time.Second

// connLimit is how long all that is asked through one conn may take.
const connLimit = 30 * time.Second

var errInterrupted = errors.New("netlink dump interrupted")

// dialCurrent opens a conn in the namespace of the calling thread.
func dialCurrent(path string) (*conn, error) {
	fd, err := netns.RetryInt(func() (int, error) {
		return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	})
	if err != nil {
		return nil, &OpError{"open a netlink socket", path, err}
	}
	// A process with CAP_NET_ADMIN here may send to any netlink port (netlink(7)). The
	// kernel delivers to a connected one only what comes from its peer
	// (af_netlink.c, netlink_getsockbyportid).
	if err := netns.Retry(func() error { return unix.Connect(fd, kernel()) }); err != nil {
		unix.Close(fd)
		return nil, &OpError{"connect a netlink socket", path, err}
	}
	limit := unix.NsecToTimeval(int64(answerLimit))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		unix.Close(fd)
		return nil, &OpError{"limit the time of a netlink socket", path, err}
	}
	return &conn{path: path, fd: fd, end: time.Now().Add(connLimit), max: maxDatagram}, nil
}

// kernel is the kernel's address. Package unix writes into one that it is given.
func kernel() *unix.SockaddrNetlink { return &unix.SockaddrNetlink{Family: unix.AF_NETLINK} }

// close ends the life of all that was received.
func (c *conn) close() {
	unix.Close(c.fd)
	if c.first != nil {
		buffers.Put(c.first)
	}
}

// request asks for a change and waits for the kernel's word on it.
func (c *conn) request(op string, req *nl.NetlinkRequest) error {
	req.Flags |= unix.NLM_F_ACK
	if _, err := c.exchange(req); err != nil {
		return &OpError{op, c.path, err}
	}
	return nil
}

// dump returns the payload of every message of type want. It asks again when the
// kernel says that what it told may be inconsistent.
func (c *conn) dump(op string, req *nl.NetlinkRequest, want uint16) (payloads [][]byte, err error) {
	req.Flags |= unix.NLM_F_DUMP
	messages, err := untilConsistent(op, func() ([]message, error) { return c.exchange(req) })
	if errors.Is(err, ErrChanging) {
		return nil, err
	}
	if err != nil {
		return nil, &OpError{op, c.path, err}
	}
	for _, m := range messages {
		if m.typ == want {
			payloads = append(payloads, m.payload)
		}
	}
	return payloads, nil
}

// untilConsistent repeats a dump that was interrupted by a change, of which the
// kernel dropped a part (netlink(7), ENOBUFS), or which has to wait for the rest of
// such a one to be read (af_netlink.c, __netlink_dump_start: EBUSY).
func untilConsistent(op string, dump func() ([]message, error)) ([]message, error) {
	for range dumpTries {
		messages, err := dump()
		if !errors.Is(err, errInterrupted) && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EBUSY) {
			return messages, err
		}
	}
	return nil, fmt.Errorf("%w: %s was interrupted %d times in a row", ErrChanging, op, dumpTries)
}

// exchange sends req and returns the answer without the message that ends it.
func (c *conn) exchange(req *nl.NetlinkRequest) ([]message, error) {
	c.seq++
	req.Seq = c.seq
	request := req.Serialize()
	if err := netns.Retry(func() error { return unix.Sendto(c.fd, request, 0, kernel()) }); err != nil {
		return nil, err
	}
	answer := answer{seq: c.seq}
	for {
		datagram, err := c.receive()
		if err != nil {
			return nil, err
		}
		if done, err := answer.add(datagram); done || err != nil {
			return answer.messages, err
		}
	}
}

// answer is the kernel's answer to the request with number seq, as it comes in.
type answer struct {
	seq         uint32
	messages    []message
	interrupted bool
}

// add reads one datagram and says whether it was the answer's last.
func (a *answer) add(datagram []byte) (done bool, err error) {
	for len(datagram) > 0 {
		var m message
		if m, datagram, err = nextMessage(datagram); err != nil {
			return false, err
		}
		if m.seq != a.seq {
			continue // left over from a dump that was given up
		}
		a.interrupted = a.interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
		if m.typ != unix.NLMSG_DONE && m.typ != unix.NLMSG_ERROR {
			a.messages = append(a.messages, m)
			continue
		}
		if err := m.errno(); err != nil {
			return true, err
		}
		if a.interrupted {
			return true, errInterrupted
		}
		return true, nil
	}
	return false, nil
}

// receive returns the kernel's next datagram.
func (c *conn) receive() ([]byte, error) {
	if len(c.free) < c.max {
		c.free = c.buffer()
	}
	for {
		if time.Now().After(c.end) {
			return nil, os.ErrDeadlineExceeded
		}
		var from unix.Sockaddr
		// MSG_TRUNC makes recvfrom return the true length of what did not fit.
		n, err := netns.RetryInt(func() (n int, err error) {
			n, from, err = unix.Recvfrom(c.fd, c.free, unix.MSG_TRUNC)
			return n, err
		})
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil, os.ErrDeadlineExceeded
		case err != nil:
			return nil, err
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue // it came between the binding and the connecting
		}
		if n > len(c.free) {
			return nil, fmt.Errorf("a netlink datagram of %d bytes is too long: %w", n, unix.EMSGSIZE)
		}
		datagram := c.free[:n:n]
		c.free = c.free[n:]
		return datagram, nil
	}
}

func (c *conn) buffer() []byte {
	if c.first == nil && c.max == maxDatagram {
		if b, ok := buffers.Get().(*[]byte); ok {
			c.first = b
			return *b
		}
	}
	b := make([]byte, 2*c.max)
	if c.first == nil && c.max == maxDatagram {
		c.first = &b
	}
	return b
}

// message is a netlink message (netlink(7), struct nlmsghdr).
type message struct {
	typ, flags uint16
	seq        uint32
	payload    []byte
}

// nextMessage takes the first message off b.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.NLMSG_HDRLEN {
		return m, nil, errMalformed
	}
	native := binary.NativeEndian
	length := int(native.Uint32(b))
	if length < unix.NLMSG_HDRLEN || length > len(b) {
		return m, nil, errMalformed
	}
	m = message{native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[8:]), b[unix.NLMSG_HDRLEN:length]}
	return m, b[min(align(length), len(b)):], nil
}

// align rounds up to where the next message or attribute starts.
func align(length int) int { return (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// errno is the result that an NLMSG_ERROR or NLMSG_DONE carries: 0 or a
// negative errno. A DONE without one ended well.
func (m message) errno() error {
	if len(m.payload) < 4 {
		if m.typ == unix.NLMSG_DONE {
			return nil
		}
		return errMalformed
	}
	if e := int32(binary.NativeEndian.Uint32(m.payload)); e != 0 {
		return unix.Errno(-e)
	}
	return nil
}

var errMalformed = fmt.Errorf("malformed netlink message: %w", unix.EBADMSG)
