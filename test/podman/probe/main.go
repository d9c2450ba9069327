// Command probe looks at the network from inside a container and tells what is
// there, so that a test can compare containers of different runtimes fact by
// fact. It needs /bin/busybox beside it and is linked statically.
//
//	probe         print the facts as JSON: a name, and a list of lines
//	probe serve   answer on 127.0.0.1:8080, TCP and UDP, until killed
//	probe ask     ask what serve answers, and print it
//	probe dial A  connect to the address A over TCP, and print what came of it
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// outside is reserved for documentation (RFC 5737): no host has it, and the
// tests dial nothing else that is not loopback.
const outside = "192.0.2.1"

const (
	service = "127.0.0.1:8080"
	timeout = 10 * time.Second
)

func main() {
	if len(os.Args) < 2 {
		json.NewEncoder(os.Stdout).Encode(facts())
		return
	}
	switch os.Args[1] {
	case "serve":
		serve()
	case "ask":
		fmt.Println("tcp", ask("tcp4", service))
		fmt.Println("udp", ask("udp4", service))
	case "dial":
		fmt.Println(dial("tcp", os.Args[2]))
	default:
		fmt.Fprintln(os.Stderr, "usage: probe [serve | ask | dial ADDRESS]")
		os.Exit(2)
	}
}

func facts() map[string][]string {
	f := map[string][]string{
		// Counters first: the sockets below move those of lo.
		"/proc/net/dev":    lines(read("/proc/net/dev")),
		"ip addr":          addr(),
		"ip route":         lines(busybox("ip", "route", "show", "table", "all")),
		"/sys/class/net":   names("/sys/class/net"),
		"/etc/hosts":       lines(read("/etc/hosts")),
		"/etc/resolv.conf": lines(read("/etc/resolv.conf")),
		"sysctl":           sysctls(),
		"tcp 127.0.0.1":    {echoTCP("127.0.0.1")},
		"tcp ::1":          {echoTCP("::1")},
		"tcp localhost":    {echoTCP("localhost")},
		"udp 127.0.0.1":    {echoUDP("127.0.0.1")},
		"udp ::1":          {echoUDP("::1")},
		"tcp " + outside:   {dial("tcp", outside+":80")},
		"udp " + outside:   {dial("udp", outside+":53")},
	}
	link, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		link = err.Error()
	}
	f["netns"] = []string{link}
	return f
}

// addr is what `ip addr` says, an address and its lifetime in one line.
func addr() []string {
	text := busybox("ip", "addr")
	var out []string
	for _, l := range lines(text) {
		if strings.HasPrefix(l, "valid_lft") && len(out) > 0 {
			out[len(out)-1] += " " + l
			continue
		}
		out = append(out, l)
	}
	return out
}

// sysctls is every readable setting of the network, as name=value.
func sysctls() []string {
	var out []string
	filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		// A secret that is not set reads as EIO: not there, then.
		b, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		name := strings.ReplaceAll(strings.TrimPrefix(path, "/proc/sys/"), "/", ".")
		out = append(out, name+"="+strings.Join(strings.Fields(string(b)), " "))
		return nil
	})
	return out
}

func echoTCP(host string) string {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "listen: " + reason(err)
	}
	defer l.Close()
	go answerTCP(l)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return ask("tcp", net.JoinHostPort(host, port))
}

func echoUDP(host string) string {
	c, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "listen: " + reason(err)
	}
	defer c.Close()
	go answerUDP(c)
	return ask("udp", c.LocalAddr().String())
}

func answerTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, 16)
			if n, err := c.Read(b); err == nil {
				c.Write(b[:n])
			}
		}()
	}
}

func answerUDP(c net.PacketConn) {
	b := make([]byte, 16)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo(b[:n], from)
	}
}

func serve() {
	l, err := net.Listen("tcp4", service)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	c, err := net.ListenPacket("udp4", service)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go answerUDP(c)
	answerTCP(l)
}

// ask sends a word and says "answers" when it comes back.
func ask(network, address string) string {
	c, err := net.DialTimeout(network, address, timeout)
	if err != nil {
		return reason(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	if _, err := c.Write([]byte("hello")); err != nil {
		return reason(err)
	}
	b := make([]byte, 16)
	n, err := c.Read(b)
	if err != nil {
		return reason(err)
	}
	if string(b[:n]) != "hello" {
		return fmt.Sprintf("answers %q", b[:n])
	}
	return "answers"
}

func dial(network, address string) string {
	c, err := net.DialTimeout(network, address, timeout)
	if err != nil {
		return reason(err)
	}
	c.Close()
	return "connected"
}

// reason is the kernel's own word for it, without the ports that vary.
func reason(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return "unknown name"
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

func busybox(args ...string) string {
	out, err := exec.Command("/bin/busybox", args...).CombinedOutput()
	if err != nil {
		return string(out) + err.Error()
	}
	return string(out)
}

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return reason(err)
	}
	return string(b)
}

func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return []string{reason(err)}
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out
}

// lines splits a text, with white space made even so that only words count.
func lines(text string) []string {
	out := []string{}
	for l := range strings.Lines(text) {
		if l = strings.Join(strings.Fields(l), " "); l != "" {
			out = append(out, l)
		}
	}
	return out
}
