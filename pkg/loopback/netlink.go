package loopback

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conn is a NETLINK_ROUTE socket. It stays in the namespace that it was opened
// in. It is our own rather than nl's because that one switches namespaces
// without verifying its return, and goes through epoll, of which a process that
// asks five questions and ends has no use.
type conn struct {
	path string // the namespace, for errors
	fd   int
	seq  uint32
	buf  []byte
}

// dumpTries bounds how often a dump is repeated that a change in the namespace
// has made inconsistent.
const dumpTries = 32

var errInterrupted = errors.New("netlink dump interrupted")

// dialHere opens a conn in the namespace of the calling thread.
func dialHere(path string) (*conn, error) {
	fd, err := retryInt(func() (int, error) {
		return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	})
	if err != nil {
		return nil, &OpError{"open a netlink socket", path, err}
	}
	// rtnetlink answers before sendto returns; the limit is for a kernel that does not.
	limit := unix.Timeval{Sec: 10}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		unix.Close(fd)
		return nil, &OpError{"limit the time of a netlink socket", path, err}
	}
	// The kernel fills at most 32 KiB per datagram of a dump (netlink_dump).
	return &conn{path: path, fd: fd, buf: make([]byte, 64<<10)}, nil
}

func (c *conn) close() { unix.Close(c.fd) }

// do asks for a change and waits for the kernel's word on it.
func (c *conn) do(op string, req *nl.NetlinkRequest) error {
	req.Flags |= unix.NLM_F_ACK
	if err := c.exchange(req, func(uint16, []byte) error { return nil }); err != nil {
		return &OpError{op, c.path, err}
	}
	return nil
}

// dump calls visit with every message of type want. It starts again, after
// calling reset, when the kernel says that what it told may be inconsistent.
func (c *conn) dump(op string, req *nl.NetlinkRequest, want uint16, reset func(), visit func([]byte) error) error {
	req.Flags |= unix.NLM_F_DUMP
	err := untilConsistent(op, func() error {
		reset()
		return c.exchange(req, func(typ uint16, payload []byte) error {
			if typ != want {
				return nil
			}
			return visit(payload)
		})
	})
	if err == nil || errors.Is(err, ErrChanging) {
		return err
	}
	return &OpError{op, c.path, err}
}

// untilConsistent repeats a dump that was interrupted by a change.
func untilConsistent(op string, dump func() error) error {
	for range dumpTries {
		if err := dump(); !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return fmt.Errorf("%w: %s was interrupted %d times in a row", ErrChanging, op, dumpTries)
}

// exchange sends req and hands every message of the answer to visit, up to the
// one that ends it.
func (c *conn) exchange(req *nl.NetlinkRequest, visit func(typ uint16, payload []byte) error) error {
	c.seq++
	req.Seq = c.seq
	kernel := unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	request := req.Serialize()
	if err := retry(func() error { return unix.Sendto(c.fd, request, 0, &kernel) }); err != nil {
		return err
	}
	answer := answer{seq: c.seq, visit: visit}
	for {
		datagram, err := c.receive()
		if err != nil {
			return err
		}
		if done, err := answer.take(datagram); done || err != nil {
			return err
		}
	}
}

// answer is the kernel's answer to the request with number seq, as it comes in.
type answer struct {
	seq         uint32
	visit       func(typ uint16, payload []byte) error
	interrupted bool
}

// take reads one datagram and says whether it was the answer's last.
func (a *answer) take(datagram []byte) (done bool, err error) {
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
			if err := a.visit(m.typ, m.payload); err != nil {
				return false, err
			}
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

// receive returns the kernel's next datagram, which lives until the next call.
func (c *conn) receive() ([]byte, error) {
	for {
		var from unix.Sockaddr
		// MSG_TRUNC makes recvfrom return the true length of what did not fit.
		n, err := retryInt(func() (n int, err error) {
			n, from, err = unix.Recvfrom(c.fd, c.buf, unix.MSG_TRUNC)
			return n, err
		})
		if err != nil {
			return nil, err
		}
		if n > len(c.buf) {
			return nil, fmt.Errorf("a netlink datagram of %d bytes is too long: %w", n, unix.EMSGSIZE)
		}
		if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid == 0 {
			return c.buf[:n], nil
		} // else somebody's, not the kernel's: anybody may send to a netlink port
	}
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
