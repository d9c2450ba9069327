// Package cnitool drives the plugin through the real cnitool and the shipped
// conflist, on real network namespaces.
package cnitool

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
	"github.com/cni-none/cni-none/pkg/loopback"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/machine"
)

const healthyLo = "lo up 127.0.0.1/8 ::1/128"

// cnitool keeps its cache in /var/lib/cni, and cannot be told another place.
func TestMain(m *testing.M) {
	machine.Main(m, machine.Config{MountsOnly: true, Furnish: func() error { return machine.Tmpfs("/var/lib") }})
}

// tool is a cnitool with the plugin and a network config directory.
type tool struct {
	t                  *testing.T
	plugins, netconfig string
}

// newTool takes the conflist as it is shipped, or another one.
func newTool(t *testing.T, conflist string) tool {
	t.Helper()
	if conflist == "" {
		return tool{t, filepath.Dir(harness.Plugin()), harness.Repo("conf")}
	}
	dir := t.TempDir()
	harness.Write(t, filepath.Join(dir, "10-airgap.conflist"), conflist, 0o644)
	return tool{t, filepath.Dir(harness.Plugin()), dir}
}

// run returns what cnitool said on stdout, and its error output as the error.
func (c tool) run(command, netns string, env ...string) (string, error) {
	cmd := exec.Command(harness.Bin("cnitool"), command, "airgap", netns)
	cmd.Env = append([]string{"CNI_PATH=" + c.plugins, "NETCONFPATH=" + c.netconfig}, env...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("cnitool %s: %w: %s%s", command, err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

func (c tool) must(command, netns string, env ...string) string {
	c.t.Helper()
	out, err := c.run(command, netns, env...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func wantLo(t *testing.T, netns, want string) {
	t.Helper()
	s, err := loopback.Inspect(netns)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{s.Lo().Name, map[bool]string{true: "up", false: "down"}[s.Lo().Up]}
	for _, a := range s.Lo().Addrs {
		got = append(got, a.String())
	}
	if strings.Join(got, " ") != want || len(s.Others()) > 0 {
		t.Errorf("%s, others %v, want %s alone", got, s.Others(), want)
	}
}

func cached(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/var/lib/cni/results/*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestLifecycle(t *testing.T) {
	c := newTool(t, "")
	ns := nstest.New(t).Path
	var result struct {
		CNIVersion string
		Interfaces []map[string]any
		IPs        []any
		Routes     []any
	}
	if err := json.Unmarshal([]byte(c.must("add", ns)), &result); err != nil {
		t.Fatal(err)
	}
	if result.CNIVersion != "1.1.0" || len(result.Interfaces) != 1 || result.Interfaces[0]["name"] != "lo" || result.Interfaces[0]["sandbox"] != ns || len(result.IPs)+len(result.Routes) > 0 {
		t.Errorf("%+v", result)
	}
	wantLo(t, ns, healthyLo)
	c.must("check", ns)
	c.must("status", ns)
	c.must("add", ns)
	c.must("check", ns)
	c.must("del", ns)
	wantLo(t, ns, healthyLo)
	c.must("del", ns)
	if left := cached(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestVersions: cnitool's library understands the result of every version.
func TestVersions(t *testing.T) {
	for _, v := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(v, func(t *testing.T) {
			c := newTool(t, `{"cniVersion": "`+v+`", "name": "airgap", "plugins": [{"type": "none", "placeholderIPs": ["192.0.0.8", "100:0:0:1::/64"]}]}`)
			ns := nstest.New(t).Path
			if out := c.must("add", ns); !strings.Contains(out, "192.0.0.8/32") || !strings.Contains(out, `"100:0:0:1:`) && !strings.Contains(out, `"100::1:`) {
				t.Error(out)
			}
			if v >= "0.4.0" {
				c.must("check", ns)
			} else if _, err := c.run("check", ns); err == nil {
				t.Error("CHECK does not exist before 0.4.0")
			}
			c.must("del", ns)
		})
	}
}

// TestSeveralContainers interleaves the lives of three.
func TestSeveralContainers(t *testing.T) {
	c := newTool(t, "")
	a, b, d := nstest.New(t), nstest.New(t).Path, nstest.New(t).Path
	c.must("add", a.Path)
	c.must("add", b)
	c.must("check", a.Path)
	c.must("del", b)
	c.must("add", d)
	c.must("check", a.Path)
	c.must("check", d)
	c.must("add", b)
	// What happens to one does not affect the others.
	a.Do(func() error { return setLoDown() })
	if _, err := c.run("check", a.Path); err == nil || !strings.Contains(err.Error(), "lo is down") {
		t.Errorf("check: %v", err)
	}
	c.must("check", b)
	c.must("check", d)
	c.must("add", a.Path)
	c.must("check", a.Path)
	for _, ns := range []string{a.Path, b, d} {
		wantLo(t, ns, healthyLo)
		c.must("del", ns)
	}
	if left := cached(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestGC: cnitool gc DELs every attachment that it remembers, living ones too,
// and a running container must not notice.
func TestGC(t *testing.T) {
	c := newTool(t, "")
	a, b := nstest.New(t).Path, nstest.New(t).Path
	c.must("add", a)
	c.must("add", b)
	c.must("gc", a)
	wantLo(t, a, healthyLo)
	wantLo(t, b, healthyLo)
	if left := cached(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	c.must("gc", a)
	c.must("check", a) // without a prevResult now
	c.must("del", a)
	c.must("del", b)
}

// TestRefusals: what the user reads when a request is refused.
func TestRefusals(t *testing.T) {
	c := newTool(t, "")
	ns := nstest.New(t).Path
	for name, r := range map[string]struct{ env, want string }{
		"a port":       {`CAP_ARGS={"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]}`, "runtimeConfig.portMappings: "},
		"an address":   {`CAP_ARGS={"ips": ["10.0.0.1/24"]}`, "runtimeConfig.ips: "},
		"a MAC":        {`CAP_ARGS={"mac": "02:00:00:00:00:01"}`, "runtimeConfig.mac: "},
		"bandwidth":    {`CAP_ARGS={"bandwidth": {"ingressRate": 1000}}`, "runtimeConfig.bandwidth: "},
		"an IP in ARG": {"CNI_ARGS=IP=10.0.0.1", "CNI_ARGS IP: 10.0.0.1 cannot be honoured"},
	} {
		if _, err := c.run("add", ns, r.env); err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%s: %v", name, err)
		}
		wantLo(t, ns, "lo down")
		c.must("del", ns, r.env)
	}
	if _, err := c.run("add", "/proc/self/ns/net"); err == nil || !strings.Contains(err.Error(), "not a namespace of a container's own") {
		t.Errorf("its own namespace: %v", err)
	}
	if _, err := c.run("add", ns+"-missing"); err == nil || !strings.Contains(err.Error(), "no such network namespace") {
		t.Errorf("no namespace: %v", err)
	}
}

// TestParallel has many containers start and end at once.
func TestParallel(t *testing.T) {
	c := newTool(t, "")
	var wg sync.WaitGroup
	for range 16 {
		ns := nstest.New(t).Path
		wg.Go(func() {
			for _, command := range []string{"add", "check", "add", "del", "add", "check", "del"} {
				if _, err := c.run(command, ns); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if left := cached(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDemo: what make demo shows is what it says and what the picture in README has,
// and it leaves nothing behind.
func TestDemo(t *testing.T) {
	c := newTool(t, "")
	picture := filepath.Join(t.TempDir(), "demo.svg")
	out, err := exec.Command("go", "run", "./demo", harness.Bin(), c.netconfig, picture).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if harness.Read(t, picture) != harness.Read(t, harness.Repo("docs/demo.svg")) {
		t.Error("docs/demo.svg is not what the demo prints: make demo PICTURE=docs/demo.svg")
	}
	for _, want := range []string{
		`"name": "lo"`, "inet 127.0.0.1/8", "inet6 ::1/128", `127.0.0.1 answers "hello"`, "[::1] answers",
		"192.0.2.1: Network is unreachable", "interfaces beside lo: eth0", "nothing is left",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the demo does not say %q:\n%s", want, out)
		}
	}
	if _, err := os.Stat("/var/lib/cni"); len(cached(t)) > 0 {
		t.Errorf("it left something in /var/lib/cni: %v", err)
	}
}

func setLoDown() error {
	req, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(req)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(0)
	return unix.IoctlIfreq(req, unix.SIOCSIFFLAGS, ifr)
}
