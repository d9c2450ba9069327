// Command demo shows, with the real cnitool on a real network namespace, what a
// container on the none network has: loopback, and nothing else.
//
// usage: demo DIR CONFDIR [PICTURE], with none and cnitool in DIR, as root. It dials
// 127.0.0.1, ::1 and 192.0.2.1 (RFC 5737: assigned to no host), in the namespace
// only. PICTURE is an SVG file to draw the output into.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
	"github.com/cni-none/cni-none/pkg/loopback"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "inside" {
		inside()
		return
	}
	if len(os.Args) != 3 && len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: demo DIR CONFDIR [PICTURE] (make demo knows them)")
		os.Exit(2)
	}
	if len(os.Args) == 4 {
		if err := picture(os.Args[3], os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
			os.Exit(1)
		}
		return
	}
	if err := demo(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		if errors.Is(err, unix.EPERM) {
			fmt.Fprintln(os.Stderr, "demo: it makes a network namespace, so run it as root")
		}
		os.Exit(1)
	}
	fmt.Print("\nnothing is left: the namespace, its files and cnitool's cache are gone\n")
}

type show struct{ bin, conf, netns string }

func demo(bin, conf string) (err error) {
	dir, err := os.MkdirTemp("", "airgap-")
	if err != nil {
		return err
	}
	s := show{bin, conf, filepath.Join(dir, "netns")}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	defer removeCache()()

	heading("A network namespace, as a runtime makes it for a container")
	if err := makeNetns(s.netns); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Unmount(s.netns, unix.MNT_DETACH)) }()
	if err := s.addresses(); err != nil {
		return err
	}

	heading("ADD: bring up loopback, report no address")
	if err := s.cnitool("add"); err != nil {
		return err
	}
	if err := s.addresses(); err != nil {
		return err
	}

	heading("From inside")
	if err := s.inNetns(os.Args[0], "inside"); err != nil {
		return err
	}

	heading("CHECK: is it still so?  Then an interface is added")
	if err := s.cnitool("check"); err != nil {
		return err
	}
	if err := s.addInterface(); err != nil {
		return err
	}
	if err := s.cnitool("check"); err == nil {
		return errors.New("cnitool check did not notice an interface beside lo")
	}

	heading("DEL: nothing to undo; loopback ends with the namespace")
	return s.cnitool("del")
}

func heading(text string) { fmt.Printf("\n\x1b[1m%s\x1b[0m\n", text) }

// cnitool runs a command and shows it with its answer.
func (s show) cnitool(command string) error {
	fmt.Printf("  $ cnitool %s airgap %s\n", command, s.netns)
	cmd := exec.Command(filepath.Join(s.bin, "cnitool"), command, "airgap", s.netns)
	cmd.Env = []string{"CNI_PATH=" + s.bin, "NETCONFPATH=" + s.conf}
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Usage:") {
			break // cnitool explains itself after every error
		}
		if strings.TrimSpace(line) != "" {
			fmt.Print("  ", strings.ReplaceAll(line, "    ", "  "))
		}
	}
	if len(out) > 0 && !strings.HasSuffix(string(out), "\n") {
		fmt.Println()
	}
	if err == nil && len(out) == 0 {
		fmt.Println("  ok")
	}
	return err
}

// addresses shows what ip addr would.
func (s show) addresses() error {
	survey, err := loopback.Inspect(s.netns)
	if err != nil {
		return err
	}
	for _, l := range survey.Links {
		state := "DOWN"
		if l.Up {
			state = "UP"
		}
		fmt.Printf("  %d: %s  state %s  mtu %d", l.Index, l.Name, state, l.MTU)
		for _, a := range l.Addrs {
			family := "inet6"
			if a.Addr().Is4() {
				family = "inet"
			}
			fmt.Printf("  %s %s", family, a)
		}
		fmt.Println()
	}
	return nil
}

// makeNetns keeps a new network namespace at path.
func makeNetns(path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return netns.InNew(func() error {
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
}

// inNetns runs a program in the namespace: it is the thread's, and the child's.
func (s show) inNetns(name string, args ...string) error {
	return s.do(func() error {
		cmd := exec.Command(name, args...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		return cmd.Run()
	})
}

// do runs fn in the namespace.
func (s show) do(fn func() error) error {
	ns, err := netns.Open(s.netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(fn)
}

// inside runs in the namespace, as a container's process would.
func inside() {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		said, err := talk(ip)
		if err != nil {
			fmt.Println("  ", err)
			os.Exit(1)
		}
		fmt.Printf("  a server on %s answers %q\n", strings.TrimSuffix(net.JoinHostPort(ip, ""), ":"), said)
	}
	_, err := net.DialTimeout("tcp", "192.0.2.1:80", 5*time.Second)
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		fmt.Println("  192.0.2.1:", err)
		os.Exit(1)
	}
	text := errno.Error()
	fmt.Printf("  the way out, to 192.0.2.1: %s\n", strings.ToUpper(text[:1])+text[1:])
}

// talk has a server say hello on a loopback address.
func talk(ip string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			io.WriteString(c, "hello\n")
			c.Close()
		}
	}()
	c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// addInterface puts a veth into the namespace, as another network plugin would.
func (s show) addInterface() error {
	return s.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0-peer"})
	})
}

// removeCache notes which of cnitool's cache directories are there, and returns
// what removes those that were not.
func removeCache() func() {
	var missing []string
	for _, dir := range []string{"/var/lib/cni/results", "/var/lib/cni"} {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			missing = append(missing, dir)
		}
	}
	return func() {
		for _, dir := range missing {
			os.Remove(dir) // only if it is empty
		}
	}
}
