package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
)

// events hears of changes in many network namespaces through one socket.
//
// A netlink socket inside each namespace would need a descriptor for each and,
// worse, would keep the namespace alive: a container's veth or SR-IOV device
// would come back to the machine only when we noticed. A socket with
// NETLINK_LISTEN_ALL_NSID instead hears every namespace that has an id in the
// socket's own (kernel commit 59324cf35aba), and an id keeps nothing alive. The
// ids are given in a namespace made for this alone, so neither the machine's
// namespace nor any container's is changed.
//
// The ids are counted up and never reused, unlike inode numbers, which the
// kernel gives to the next namespace at once: an id names a namespace for good.
type events struct {
	sock *os.File // hears
	nl   *netlink.Handle
	ask  *nl.SocketHandle // for what netlink has no function for
	wake chan struct{}    // there is something to drain

	mu   sync.Mutex
	next int
	heard
}

// heard is what has happened since the last drain.
type heard struct {
	changed map[int]bool // ids of namespaces where an interface or an address changed
	ended   map[int]bool // ids of namespaces that are no more
	lost    bool         // there was more than the socket could hold: look everywhere
	err     error        // nothing more will be heard
}

// groups are what may break isolation, or show that it is whole again.
var groups = []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_NSID}

func listen() (*events, error) {
	e := &events{wake: make(chan struct{}, 1)}
	if err := netns.InNew(e.open); err != nil {
		return nil, fmt.Errorf("listen to netlink events (needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_BROADCAST): %w", err)
	}
	go e.hear()
	return e, nil
}

// open makes the sockets in the namespace. A socket stays in the namespace that it
// was opened in, and keeps it.
func (e *events) open() error {
	var err error
	if e.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	ask, err := nl.GetNetlinkSocketAt(vnetns.None(), vnetns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	e.ask = &nl.SocketHandle{Socket: ask}
	e.sock, err = openListener()
	return err
}

func openListener() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	sock := os.NewFile(uintptr(fd), "netlink")
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1); err != nil {
		sock.Close()
		return nil, fmt.Errorf("NETLINK_LISTEN_ALL_NSID: %w", err)
	}
	// A thousand containers may start at once. Where this is refused, events get lost sooner, and we notice.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		sock.Close()
		return nil, err
	}
	for _, group := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			sock.Close()
			return nil, fmt.Errorf("join group %d: %w", group, err)
		}
	}
	return sock, nil
}

func (e *events) close() {
	e.sock.Close()
	e.nl.Close()
	e.ask.Socket.Close()
}

// track returns the id of an open namespace, and gives it one if it has none.
// From then on its events are heard.
func (e *events) track(n *netns.NS) (id int, err error) {
	id, err = e.nl.GetNetNsIdByFd(n.FD())
	if err != nil || id >= 0 {
		return id, err
	}
	e.mu.Lock()
	id = e.next
	e.next++
	e.mu.Unlock()
	if err := e.nl.SetNetNsIdByFd(n.FD(), id); err != nil {
		return -1, err
	}
	return id, nil
}

// alive says whether the namespace with this id still exists, whatever holds it.
func (e *events) alive(id int) bool {
	req := nl.NewNetlinkRequest(unix.RTM_GETNSID, 0)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: e.ask}
	req.AddData(nl.NewRtGenMsg())
	req.AddData(nl.NewRtAttr(unix.NETNSA_NSID, nl.Uint32Attr(uint32(id))))
	_, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNSID)
	return err == nil
}

// drain returns what has been heard and forgets it.
func (e *events) drain() heard {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.heard
	e.heard = heard{err: h.err}
	return h
}

func (e *events) hear() {
	raw, err := e.sock.SyscallConn()
	if err != nil {
		e.note(func(h *heard) { h.err = err })
		return
	}
	buf := make([]byte, 64<<10)
	oob := make([]byte, 256)
	for {
		var n, oobn int
		var recvErr error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, _, recvErr = unix.Recvmsg(int(fd), buf, oob, 0)
			return recvErr != unix.EAGAIN && recvErr != unix.EINTR
		})
		switch {
		case err != nil:
			e.note(func(h *heard) { h.err = err })
			return
		case errors.Is(recvErr, unix.ENOBUFS): // netlink(7): messages were dropped
			e.note(func(h *heard) { h.lost = true })
		case recvErr != nil:
			e.note(func(h *heard) { h.err = recvErr })
			return
		default:
			e.dispatch(buf[:n], oob[:oobn])
		}
	}
}

// dispatch files one datagram. A namespace's event comes with its id beside the
// data; an event of our own namespace has none, and is about ids.
func (e *events) dispatch(data, oob []byte) {
	if id, ok := namespaceID(oob); ok {
		e.note(func(h *heard) {
			if h.changed == nil {
				h.changed = map[int]bool{}
			}
			h.changed[id] = true
		})
		return
	}
	msgs, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		e.note(func(h *heard) { h.lost = true })
		return
	}
	for _, m := range msgs {
		// struct rtgenmsg, padded, and then the attribute NETNSA_NSID (rtnetlink(7)).
		if m.Header.Type != unix.RTM_DELNSID || len(m.Data) < 12 {
			continue
		}
		if binary.NativeEndian.Uint16(m.Data[6:]) == netlink.NETNSA_NSID {
			id := int(int32(binary.NativeEndian.Uint32(m.Data[8:])))
			e.note(func(h *heard) {
				if h.ended == nil {
					h.ended = map[int]bool{}
				}
				h.ended[id] = true
			})
		}
	}
}

func (e *events) note(what func(*heard)) {
	e.mu.Lock()
	what(&e.heard)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// namespaceID reads the id from a datagram's control messages.
func namespaceID(oob []byte) (int, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return int(int32(binary.NativeEndian.Uint32(m.Data))), true
		}
	}
	return 0, false
}
