package isolation

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/plugintest"
	"github.com/cni-none/cni-none/test/isolation/spec"
)

// world is everything that a container could reach, in namespaces of the
// test's own: a stand-in for the host with its services and a bridge, a
// neighbour on that bridge, and a second container on the none network.
type world struct {
	host      *plugintest.Node
	neighbour string // netns
	second    string // netns
	process1  int    // PID of a process that stands for the machine's process 1

	bridge, none *network

	dir, rootfs   string
	socketDir     string // holds a unix socket of the host
	hostLL        string // link-local address of the host's bridge
	neighbourAddr string
	vsockPort     uint32 // held by the test, 0 where there is no AF_VSOCK

	mu       sync.Mutex
	arrivals []string
}

// saw notes what arrived at a target.
func (w *world) saw(where string, payload []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arrivals = append(w.arrivals, where+" "+string(payload))
}

// arrived tells where a probe's token was seen. A probe that left the container
// has until the deadline to arrive.
func (w *world) arrived(r spec.Result, token string, deadline time.Time) string {
	if r.Through || !strings.Contains(r.Detail, "sent") {
		deadline = time.Time{}
	}
	for {
		w.mu.Lock()
		for _, a := range w.arrivals {
			if strings.Contains(a, token) {
				w.mu.Unlock()
				return strings.Fields(a)[0]
			}
		}
		w.mu.Unlock()
		if time.Now().After(deadline) {
			return ""
		}
		time.Sleep(20 * time.Millisecond)
	}
}

const bridgeConf = `{
	"cniVersion": "1.0.0", "name": "control", "plugins": [{
		"type": "bridge", "bridge": "control0", "isGateway": true, "ipMasq": false,
		"ipam": {
			"type": "host-local", "dataDir": %q,
			"ranges": [[{"subnet": "` + spec.Subnet + `"}], [{"subnet": "` + spec.Subnet6 + `"}]],
			"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
		}}]}`

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{host: plugintest.NewNode(t), neighbour: newNetns(t), second: newNetns(t)}
	var err error
	// Short, for the sockets that runc makes below it.
	if w.dir, err = os.MkdirTemp("/tmp", "cn-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(w.dir) })

	conf, err := os.ReadFile("../../conf/10-airgap.conflist")
	if err != nil {
		t.Fatal(err)
	}
	w.none = newNetwork(t, conf, filepath.Dir(harness.Plugin()))
	w.bridge = newNetwork(t, fmt.Appendf(nil, bridgeConf, t.TempDir()), harness.Bin("cniplugins"))

	w.makeRootfs(t)
	if err := w.attach(t, w.bridge, "neighbour", w.neighbour); err != nil {
		t.Fatal(err)
	}
	if err := w.attach(t, w.none, "second", w.second); err != nil {
		t.Fatal(err)
	}
	w.addresses(t)
	w.serve(t)
	w.startProcess1(t)
	return w
}

// makeRootfs makes what every container has: busybox, the probe, and a
// resolv.conf that names the stand-in's DNS server.
func (w *world) makeRootfs(t *testing.T) {
	t.Helper()
	w.rootfs = filepath.Join(w.dir, "rootfs")
	for _, d := range []string{"bin", "dev", "etc", "host", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(w.rootfs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile("/bin/busybox")
	if err == nil {
		err = os.WriteFile(filepath.Join(w.rootfs, "bin/busybox"), raw, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(w.rootfs, "etc/resolv.conf"), []byte("nameserver "+spec.HostAddr+"\noptions attempts:1 timeout:1\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	build := func(out, pkg string, env ...string) {
		cmd := exec.Command("go", "build", "-o", filepath.Join(w.rootfs, "bin", out), pkg)
		cmd.Env = append(os.Environ(), append([]string{"CGO_ENABLED=0"}, env...)...)
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, msg)
		}
	}
	build("probe", "./probe")
	build("probe32", "./probe32", "GOARCH=386")
}

// addresses gives the host what a node has besides its bridge: the metadata
// address, and a VXLAN that would answer.
func (w *world) addresses(t *testing.T) {
	t.Helper()
	err := plugintest.With(w.host.Path, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		meta, _ := netlink.ParseAddr("169.254.169.254/32")
		if err := h.AddrAdd(lo, meta); err != nil {
			return err
		}
		la := netlink.NewLinkAttrs()
		la.Name = "vx-host"
		vx := &netlink.Vxlan{LinkAttrs: la, VxlanId: spec.VNI, Port: spec.VxlanPort, Learning: true}
		if err := h.LinkAdd(vx); err != nil {
			return fmt.Errorf("add vxlan: %w", err)
		}
		inside, _ := netlink.ParseAddr(spec.VxlanHost)
		if err := h.AddrAdd(vx, inside); err != nil {
			return err
		}
		if err := h.LinkSetUp(vx); err != nil {
			return err
		}
		br, err := h.LinkByName("control0")
		if err != nil {
			return err
		}
		w.hostLL, err = settled(h, br)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = plugintest.With(w.neighbour, func(h *netlink.Handle) error {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := h.AddrList(eth0, netlink.FAMILY_V4)
		if err != nil || len(addrs) == 0 {
			return fmt.Errorf("the neighbour has no address: %w", err)
		}
		w.neighbourAddr = addrs[0].IP.String()
		_, err = settled(h, eth0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// settled waits until the kernel has made sure that no other host has the link's
// IPv6 addresses, and returns the link-local one.
func settled(h *netlink.Handle, l netlink.Link) (ll string, err error) {
	for end := time.Now().Add(harness.Patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		addrs, err := h.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return "", err
		}
		ll, tentative := "", len(addrs) < 2
		for _, a := range addrs {
			tentative = tentative || a.Flags&unix.IFA_F_TENTATIVE != 0
			if a.IP.IsLinkLocalUnicast() {
				ll = a.IP.String()
			}
		}
		if ll != "" && !tentative {
			return ll, nil
		}
	}
	return "", fmt.Errorf("%s got no IPv6 addresses", l.Attrs().Name)
}

// serve opens what containers try to reach. A socket belongs to the namespace
// of the thread that opened it, and is served from anywhere.
func (w *world) serve(t *testing.T) {
	t.Helper()
	ns := map[string]*nstest.NS{"host": w.host.NS, "neighbour": {Path: w.neighbour}, "second": {Path: w.second}}
	in := func(where string, open func() error) {
		if err := ns[where].Try(open); err != nil {
			t.Fatalf("serve at %s: %v", where, err)
		}
	}
	stream := func(where, network, addr string) {
		in(where, func() error {
			l, err := net.Listen(network, addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go accept(l, func(c net.Conn) {
				buf := make([]byte, 256)
				n, _ := c.Read(buf)
				w.saw(where, buf[:n])
				_, _ = io.WriteString(c, "this is "+where)
			})
			return nil
		})
	}
	packets := func(where, network, addr string, serve func(c net.PacketConn, from net.Addr, b []byte)) {
		in(where, func() error {
			c, err := net.ListenPacket(network, addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go receive(c, serve)
			return nil
		})
	}
	note := func(where string) func(net.PacketConn, net.Addr, []byte) {
		return func(_ net.PacketConn, _ net.Addr, b []byte) { w.saw(where, b) }
	}
	for _, where := range []string{"host", "neighbour", "second"} {
		stream(where, "tcp", ":7001")
		packets(where, "udp", ":7001", func(c net.PacketConn, from net.Addr, b []byte) {
			w.saw(where, b)
			_, _ = c.WriteTo([]byte("this is "+where), from)
		})
		packets(where, "ip4:icmp", "0.0.0.0", note(where))
		packets(where, "ip6:ipv6-icmp", "::", note(where))
		packets(where, "ip4:253", "0.0.0.0", note(where))
		stream(where, "unix", "@cni-none-test-"+where)
	}
	stream("host", "tcp", "127.0.0.1:7002")
	stream("host", "tcp", "[::1]:7002")
	w.socketDir = filepath.Join(w.dir, "run")
	if err := os.Mkdir(w.socketDir, 0o755); err != nil {
		t.Fatal(err)
	}
	stream("host", "unix", filepath.Join(w.socketDir, "socket"))
	packets("host", "udp", spec.HostAddr+":53", func(c net.PacketConn, from net.Addr, b []byte) {
		if a := answer(b); a != nil {
			_, _ = c.WriteTo(a, from)
		}
	})
	in("host", func() error {
		l, err := net.Listen("tcp", "169.254.169.254:80")
		if err != nil {
			return err
		}
		srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(rw, "iam-credentials-of-the-host")
		})}
		t.Cleanup(func() { srv.Close() })
		go srv.Serve(l)
		return nil
	})
	in("host", func() error {
		br, err := net.InterfaceByName("control0")
		if err != nil {
			return err
		}
		c, err := net.ListenMulticastUDP("udp4", br, &net.UDPAddr{IP: net.ParseIP(spec.Group), Port: 7003})
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		go receive(c, note("host"))
		return nil
	})
	in("host", func() error { return w.listenFrames(t) })
	w.holdVsockPort(t)
}

func accept(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			serve(c)
			c.Close()
		}()
	}
}

func receive(c net.PacketConn, serve func(net.PacketConn, net.Addr, []byte)) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			serve(c, from, buf[:n])
		}
	}
}

// answer gives 203.0.113.53 for any question about an A record, and nothing
// but the question for the rest.
func answer(q []byte) []byte {
	if len(q) < 12+5 {
		return nil
	}
	end := 12
	for end < len(q) && q[end] != 0 {
		end += int(q[end]) + 1
	}
	end += 5
	if end > len(q) {
		return nil
	}
	a := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
	if binary.BigEndian.Uint16(q[end-4:]) == 1 {
		a[7] = 1
		a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 203, 0, 113, 53)
	}
	return a
}

// listenFrames notes the frames that reach any interface of the host.
func (w *world) listenFrames(t *testing.T) error {
	proto := uint16(spec.Ethertype)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(proto<<8|proto>>8))
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "frames")
	t.Cleanup(func() { f.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, err := f.Read(buf)
			if err != nil {
				return
			}
			w.saw("host", buf[:n])
		}
	}()
	return nil
}

// holdVsockPort binds an AF_VSOCK port outside of every container. Nothing is
// ever sent: what AF_VSOCK reaches is the machine's hypervisor.
func (w *world) holdVsockPort(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Logf("no AF_VSOCK here: %v", err)
		return
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: unix.VMADDR_PORT_ANY}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	w.vsockPort = sa.(*unix.SockaddrVM).Port
}

// startProcess1 starts a process 1 whose network namespace is the host's, in a
// PID namespace of its own. A container that shares that PID namespace is as
// close to the machine as hostPID makes it.
func (w *world) startProcess1(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "unshare", "--pid", "--fork", "--kill-child", "sleep", "600")
	if err := w.host.Try(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	children := fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid)
	harness.Eventually(t, "unshare starts its child", func() error {
		raw, _ := os.ReadFile(children)
		_, err := fmt.Sscan(string(raw), &w.process1)
		return err
	})
}

func (w *world) hostHas(t *testing.T, link string) bool {
	t.Helper()
	lines, err := plugintest.Look(w.host.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if strings.HasPrefix(l, "link "+link+" ") {
			return true
		}
	}
	return false
}
