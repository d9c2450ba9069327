// Probe tries to get out of the container it is started in.
//
// Its argument is a JSON list of [spec.Probe], its output one [spec.Result]
// per line. Whether a probe got through is judged from inside where an answer
// proves it (a banner that only the target knows), and by the test at the
// target where it does not (datagrams, raw packets, frames): those carry the
// probe's token.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/isolation/spec"
)

const patience = 1500 * time.Millisecond

// kinds are the ways out. Each returns nil when it saw itself that it got
// through, errSent when only the target can tell, and else why it did not.
var kinds = map[string]func(spec.Probe) error{
	"tcp":       tcp,
	"tcp-ll":    tcpLinkLocal,
	"udp":       udp,
	"icmp":      icmp,
	"icmp6":     icmp6,
	"raw":       raw,
	"multicast": multicast,
	"broadcast": broadcast,
	"dns":       dns,
	"http":      metadata,
	"abstract":  abstract,
	"arp":       arp,
	"frame":     frame,
	"links":     links,
	"sysfs":     sysfs,
	"neigh":     neighbours,
	"nsid":      otherNamespaces,
	"via-nsid":  throughID,
	"move":      moveToProcess1,
	"vxlan":     vxlan,
	"macvlan":   macvlan,
	"tun":       tun,
	"route":     route,
	"setns":     setns,

	"inherited":      inherited,
	"move-by-socket": moveBySocket,
	"handle":         byHandle,

	"self":     self,
	"vsock":    vsock,
	"families": families,
	"io_uring": ioUring,
}

// errSent: it left this program without an error.
var errSent = errors.New("sent, no answer expected")

func main() {
	var probes []spec.Probe
	if err := json.Unmarshal([]byte(os.Args[1]), &probes); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	out := json.NewEncoder(os.Stdout)
	for _, p := range probes {
		fn := kinds[p.Kind]
		if fn == nil {
			fmt.Fprintf(os.Stderr, "no probe of kind %q\n", p.Kind)
			os.Exit(2)
		}
		err := fn(p)
		r := spec.Result{Name: p.Name, Through: err == nil, Detail: "got through"}
		if err != nil {
			r.Detail = err.Error()
		}
		if err := out.Encode(r); err != nil {
			os.Exit(2)
		}
	}
}

// banner reads what the target says and compares it with what only it knows.
func banner(c net.Conn, p spec.Probe) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, p.Token); err != nil {
		return err
	}
	buf := make([]byte, 256)
	n, err := c.Read(buf)
	if err != nil {
		return err
	}
	if !strings.Contains(string(buf[:n]), p.Expect) {
		return fmt.Errorf("another host answered: %q", buf[:n])
	}
	return nil
}

func dial(network, addr string, p spec.Probe) error {
	c, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	return banner(c, p)
}

func tcp(p spec.Probe) error      { return dial("tcp", p.Addr, p) }
func udp(p spec.Probe) error      { return dial("udp", p.Addr, p) }
func abstract(p spec.Probe) error { return dial("unix", p.Addr, p) }

// each tries fn on every interface, so that no probe fails for a wrong name.
func each(fn func(net.Interface) error) error {
	ifs, err := net.Interfaces()
	if err != nil {
		return err
	}
	var errs []error
	for _, i := range ifs {
		err := fn(i)
		if err == nil || errors.Is(err, errSent) {
			errs = append([]error{err}, errs...)
			continue
		}
		errs = append(errs, fmt.Errorf("%s: %w", i.Name, err))
	}
	for _, e := range errs {
		if e == nil {
			return nil
		}
	}
	return errors.Join(errs...)
}

func tcpLinkLocal(p spec.Probe) error {
	host, port, err := net.SplitHostPort(p.Addr)
	if err != nil {
		return err
	}
	return each(func(i net.Interface) error {
		return dial("tcp6", net.JoinHostPort(host+"%"+i.Name, port), p)
	})
}

// icmp sends an echo request that carries the token. The answer proves
// nothing, one's own kernel gives it too: the target listens for the request.
func icmp(p spec.Probe) error { return echo("ip4:icmp", p, 8) }

func icmp6(p spec.Probe) error { return echo("ip6:ipv6-icmp", p, 128) }

func echo(network string, p spec.Probe, typ byte) error {
	c, err := net.Dial(network, p.Addr)
	if err != nil {
		return err
	}
	defer c.Close()
	msg := append([]byte{typ, 0, 0, 0, 0, 1, 0, 1}, p.Token...)
	if typ == 8 { // for ICMPv6 the kernel computes the sum, with the addresses
		binary.BigEndian.PutUint16(msg[2:], checksum(msg))
	}
	return send(c, msg)
}

func send(c net.Conn, b []byte) error {
	if _, err := c.Write(b); err != nil {
		return err
	}
	return errSent
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// raw sends a packet of protocol 253, which RFC 3692 keeps for experiments.
func raw(p spec.Probe) error {
	c, err := net.Dial("ip4:253", p.Addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return send(c, []byte(p.Token))
}

// multicast sends to a group on every interface.
func multicast(p spec.Probe) error {
	addr, err := net.ResolveUDPAddr("udp", p.Addr)
	if err != nil {
		return err
	}
	return each(func(i net.Interface) error {
		to := *addr
		if to.IP.To4() == nil {
			to.Zone = i.Name
		}
		return bound(i.Name, to.String(), p)
	})
}

func broadcast(p spec.Probe) error {
	return each(func(i net.Interface) error { return bound(i.Name, p.Addr, p) })
}

// bound sends a datagram out of the named interface.
func bound(dev, to string, p spec.Probe) error {
	c, err := device(dev).Dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	return send(c, []byte(p.Token))
}

// device is a dialer whose sockets are bound to an interface.
func device(dev string) *net.Dialer {
	return &net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			if err = unix.BindToDevice(int(fd), dev); err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
			}
		})
		return errors.Join(cerr, err)
	}}
}

// dns asks the server in /etc/resolv.conf.
func dns(p spec.Probe) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, p.Addr)
	if err != nil {
		return err
	}
	if len(addrs) == 0 || addrs[0] != p.Expect {
		return fmt.Errorf("wrong answer %v", addrs)
	}
	return nil
}

func metadata(p spec.Probe) error {
	resp, err := (&http.Client{Timeout: patience}).Get(p.Addr)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1024))
	if err != nil {
		return err
	}
	if !strings.Contains(string(body), p.Expect) {
		return fmt.Errorf("wrong answer %q", body)
	}
	return nil
}

// self: the container reaches itself by its loopback addresses. Isolation is
// worth nothing when it is a broken network.
func self(p spec.Probe) error {
	l, err := net.Listen("tcp", p.Addr)
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, p.Expect)
			c.Close()
		}
	}()
	return dial("tcp", l.Addr().String(), p)
}
