// Package podman drives the plugin through podman 4 and its CNI backend, with
// the shipped configs and the commands of docs/podman.md.
//
// Every test looks from inside a container, through test/podman/probe, and at
// the machine from outside.
package podman

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/podmantest"
)

func TestMain(m *testing.M) {
	podmantest.Main(m)
}

const (
	conflist = "/etc/cni/net.d/10-airgap.conflist"
	plugin   = "/opt/cni/bin/none"
	dropins  = "/etc/containers/containers.conf.d/"
)

// inside is what a container on the network must look like.
var inside = podmantest.Facts{
	"/proc/net/dev": {
		"Inter-| Receive | Transmit",
		"face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed",
		"lo: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
	},
	"/sys/class/net": {"lo"},
	"ip addr": {
		"1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue qlen 1000",
		"link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00",
		"inet 127.0.0.1/8 scope host lo valid_lft forever preferred_lft forever",
		"inet6 ::1/128 scope host valid_lft forever preferred_lft forever",
	},
	"ip route": {
		"local 127.0.0.0/8 dev lo table local scope host src 127.0.0.1",
		"local 127.0.0.1 dev lo table local scope host src 127.0.0.1",
		"broadcast 127.255.255.255 dev lo table local scope link src 127.0.0.1",
		"local ::1 dev lo table local metric 0",
	},
	"tcp 127.0.0.1": {"answers"},
	"tcp ::1":       {"answers"},
	"tcp localhost": {"answers"},
	"udp 127.0.0.1": {"answers"},
	"udp ::1":       {"answers"},
	"tcp 192.0.2.1": {"network is unreachable"},
	"udp 192.0.2.1": {"network is unreachable"},
}

// isolated fails the test unless the facts are those of such a container.
func isolated(t *testing.T, got podmantest.Facts) {
	t.Helper()
	for name, want := range inside {
		if !slices.Equal(got[name], want) {
			t.Errorf("%s in the container:\n got %q\nwant %q", name, got[name], want)
		}
	}
}

// fixture is podman, set up, with the probe and the machine as it was before.
type fixture struct {
	testing.TB
	probe string
	doc   podmantest.Doc
	host  podmantest.Host
}

// setUp sets podman up and fails the test if, at its end, anything that a
// container could have left is on the machine. podman's bridge and its rules
// stay when its last container goes, so a test that uses one says bridged.
func setUp(t *testing.T, bridged bool) *fixture {
	t.Helper()
	podmantest.Podman(t)
	f := &fixture{TB: t, probe: podmantest.Probe(t), doc: podmantest.ReadDoc(t, "docs/podman.md"), host: podmantest.Survey(t)}
	t.Cleanup(func() {
		podmantest.Try(t, "podman", "rm", "--all", "--force", "--time", "0")
		if bridged {
			podmantest.Run(t, "ip", "link", "delete", "cni-podman0")
		} else {
			f.host.Clean(t)
		}
		os.RemoveAll(dropins)
		os.RemoveAll("/etc/cni/net.d")
		os.RemoveAll("/opt/cni")
		os.RemoveAll("/var/lib/cni")
	})
	return f
}

// look runs a container that looks around, and removes it.
func (f *fixture) look(args ...string) podmantest.Facts {
	f.Helper()
	args = append([]string{"podman", "run", "--rm", "--volume", f.probe + ":/probe:ro"}, append(args, "busybox", "/probe")...)
	return podmantest.ParseFacts(f, podmantest.Run(f, args...))
}

// start starts a container that answers on its localhost, and waits until it does.
func (f *fixture) start(name string, args ...string) {
	f.Helper()
	args = append([]string{"podman", "run", "--detach", "--name", name, "--volume", f.probe + ":/probe:ro"}, append(args, "busybox", "/probe", "serve")...)
	podmantest.Run(f, args...)
	harness.Until(f, name+" serves", func() bool { return f.answers(name) })
}

// inspect looks around in a running container.
func (f *fixture) inspect(name string) podmantest.Facts {
	f.Helper()
	facts := podmantest.ParseFacts(f, podmantest.Run(f, "podman", "exec", name, "/probe"))
	// The container has used its localhost by now.
	facts["/proc/net/dev"] = inside["/proc/net/dev"]
	return facts
}

// answers says whether the service in a container answers on its localhost.
func (f *fixture) answers(name string) bool {
	f.Helper()
	out, err := podmantest.Try(f, "podman", "exec", name, "/probe", "ask")
	return err == nil && out == "tcp answers\nudp answers"
}

func (f *fixture) mustAnswer(name, when string) {
	f.Helper()
	if !f.answers(name) {
		f.Errorf("%s: localhost in %s does not answer", when, name)
	}
}

// networks is what podman inspect says of a container's networks.
func (f *fixture) networks(name string) map[string]struct{ IPAddress, GlobalIPv6Address, Gateway, MacAddress string } {
	f.Helper()
	out := podmantest.Run(f, "podman", "inspect", "--format", "{{json .NetworkSettings.Networks}}", name)
	var n map[string]struct{ IPAddress, GlobalIPv6Address, Gateway, MacAddress string }
	if err := json.Unmarshal([]byte(out), &n); err != nil {
		f.Fatalf("%v: %s", err, out)
	}
	return n
}

// edit changes the installed conflist.
func (f *fixture) edit(old, new string) {
	f.Helper()
	b, err := os.ReadFile(conflist)
	if err != nil {
		f.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		f.Fatalf("%s has no %q", conflist, old)
	}
	harness.Write(f, conflist, strings.Replace(string(b), old, new, 1), 0o644)
}

// driver is what podman network ls says of the network airgap.
func (f *fixture) driver() string {
	f.Helper()
	return podmantest.Run(f, "podman", "network", "ls", "--filter", "name=^airgap$", "--format", "{{.Name}} {{.Driver}}")
}

// TestCommands runs the commands of the document that come after the setup,
// and compares with the output that it shows.
func TestCommands(t *testing.T) {
	f := setUp(t, false)
	commands := f.doc.Under(t, "Use").Commands()
	if len(commands) != 1 {
		t.Fatalf("%d blocks of commands, not 1", len(commands))
	}
	out := podmantest.Run(t, "sh", "-euc", commands[0])
	_, container, ok := strings.Cut(out, "\n]\n")
	if !ok {
		t.Fatalf("no end of podman network inspect in:\n%s", out)
	}
	f.doc.Has(t, container)
}

func TestNetwork(t *testing.T) {
	f := setUp(t, false)
	if got := f.driver(); got != "airgap none" {
		t.Errorf("podman network ls: %q", got)
	}
	var networks []struct {
		Name, Driver string
		Subnets      []any
	}
	out := podmantest.Run(t, "podman", "network", "inspect", "airgap")
	if err := json.Unmarshal([]byte(out), &networks); err != nil {
		t.Fatal(err)
	}
	if len(networks) != 1 || networks[0].Name != "airgap" || networks[0].Driver != "none" || len(networks[0].Subnets) != 0 {
		t.Errorf("podman network inspect: %s", out)
	}
}

func TestRun(t *testing.T) {
	f := setUp(t, false)
	isolated(t, f.look("--network", "airgap"))
}

// TestControl shows that the probe and the machine would tell a container that
// has a way out: on podman's bridge it has one, and 192.0.2.1 answers.
func TestControl(t *testing.T) {
	f := setUp(t, true)
	f.start("bridged", "--network", "podman")
	got := f.inspect("bridged")
	if want := []string{"eth0", "lo"}; !slices.Equal(got["/sys/class/net"], want) {
		t.Errorf("interfaces %q, not %q", got["/sys/class/net"], want)
	}
	// The machine has nothing on that port: it refuses, and is there.
	if want := []string{"connection refused"}; !slices.Equal(got["tcp 192.0.2.1"], want) {
		t.Errorf("tcp 192.0.2.1: %q, not %q", got["tcp 192.0.2.1"], want)
	}
	// And the survey of the machine would tell what is left.
	if now := podmantest.Survey(t); now.Netns == f.host.Netns || now.Links == f.host.Links || now.Processes == f.host.Processes || now.Cache == f.host.Cache {
		t.Errorf("a running container does not show on the machine:\nbefore %v\nnow    %v", f.host, now)
	}
}

func TestTwoContainers(t *testing.T) {
	f := setUp(t, false)
	f.start("a", "--network", "airgap")
	f.start("b", "--network", "airgap")
	a, b := f.inspect("a"), f.inspect("b")
	isolated(t, a)
	isolated(t, b)
	self, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if a["netns"][0] == b["netns"][0] || a["netns"][0] == self || b["netns"][0] == self {
		t.Errorf("namespaces are shared: a %s, b %s, the machine %s", a["netns"], b["netns"], self)
	}
	for _, name := range []string{"a", "b"} {
		if got := f.networks(name); len(got) != 1 || got["airgap"].IPAddress != "" || got["airgap"].GlobalIPv6Address != "" || got["airgap"].Gateway != "" {
			t.Errorf("podman inspect %s: %+v", name, got)
		}
	}

	podmantest.Run(t, "podman", "stop", "--time", "0", "a")
	f.mustAnswer("b", "a stopped")
	podmantest.Run(t, "podman", "start", "a")
	harness.Until(t, "a serves again", func() bool { return f.answers("a") })
	isolated(t, f.inspect("a"))
	podmantest.Run(t, "podman", "restart", "--time", "0", "a")
	harness.Until(t, "a serves again", func() bool { return f.answers("a") })
	isolated(t, f.inspect("a"))

	podmantest.Run(t, "podman", "rm", "--force", "--time", "0", "a")
	f.mustAnswer("b", "a removed")
	podmantest.Run(t, "podman", "rm", "--force", "--time", "0", "b")
	f.host.Clean(t)
}

// TestReload: podman adds again, under the name of the interface in the result
// and with its MAC address.
func TestReload(t *testing.T) {
	f := setUp(t, false)
	f.start("a", "--network", "airgap")
	before := f.inspect("a")
	podmantest.Run(t, "podman", "network", "reload", "a")
	f.mustAnswer("a", "reloaded")
	after := f.inspect("a")
	isolated(t, after)
	if before["netns"][0] != after["netns"][0] {
		t.Errorf("another namespace after reload: %s, then %s", before["netns"], after["netns"])
	}
	id := podmantest.Run(t, "podman", "inspect", "--format", "{{.Id}}", "a")
	podmantest.Run(t, "podman", "rm", "--force", "--time", "0", "a")

	// podman's own leftover, as the document says; nothing else stays.
	left := "/var/lib/cni/results/airgap-" + id + "-lo"
	if err := os.Remove(left); err != nil {
		t.Errorf("podman used to leave this behind: %v", err)
	}
	f.host.Clean(t)
}

// TestReloadHeals: podman and runc bring lo up by themselves, so that a plugin
// which does nothing would pass for one that works. This one also restores what
// a container with CAP_NET_ADMIN took away.
func TestReloadHeals(t *testing.T) {
	for name, broken := range map[string][]string{
		"no 127.0.0.1": {"ip", "address", "delete", "127.0.0.1/8", "dev", "lo"},
		"no ::1":       {"ip", "address", "delete", "::1/128", "dev", "lo"},
		"lo down":      {"ip", "link", "set", "lo", "down"},
	} {
		t.Run(name, func(t *testing.T) {
			f := setUp(t, false)
			f.start("a", "--network", "airgap", "--cap-add", "NET_ADMIN")
			podmantest.Run(t, append([]string{"podman", "exec", "a", "busybox"}, broken...)...)
			addr := func() string { return podmantest.Run(t, "podman", "exec", "a", "ip", "addr") }
			if out := addr(); strings.Contains(out, "LOWER_UP") && strings.Contains(out, "127.0.0.1/8") && strings.Contains(out, "::1/128") {
				t.Fatalf("nothing was broken: %s", out)
			}
			podmantest.Run(t, "podman", "network", "reload", "a")
			f.mustAnswer("a", "reloaded")
			got := f.inspect("a")
			// The kernel gives ::1 no prefix route either, but says so only of one that came by netlink.
			for i, line := range got["ip addr"] {
				got["ip addr"][i] = strings.Replace(line, " noprefixroute", "", 1)
			}
			isolated(t, got)
			// What podman leaves behind when it reloads, see TestReload.
			id := podmantest.Run(t, "podman", "inspect", "--format", "{{.Id}}", "a")
			podmantest.Run(t, "podman", "rm", "--force", "--time", "0", "a")
			os.Remove("/var/lib/cni/results/airgap-" + id + "-lo")
		})
	}
}

func TestDisconnect(t *testing.T) {
	f := setUp(t, false)
	f.start("a", "--network", "airgap")
	podmantest.Run(t, "podman", "network", "disconnect", "airgap", "a")
	f.mustAnswer("a", "disconnected")
	isolated(t, f.inspect("a"))
	if got := f.networks("a"); len(got) != 0 {
		t.Errorf("still connected: %+v", got)
	}
	podmantest.Run(t, "podman", "network", "connect", "airgap", "a")
	f.mustAnswer("a", "connected again")
	isolated(t, f.inspect("a"))
}

// TestConnectToBridged is the refusal that Docker's none has too: no second
// network beside it.
func TestConnectToBridged(t *testing.T) {
	f := setUp(t, true)
	f.start("a", "--network", "podman")
	before := f.inspect("a")
	refused := f.doc.Under(t, "What is refused")
	out := podmantest.Fail(t, "podman", "network", "connect", "airgap", "a")
	refused.Has(t, out)
	if !strings.Contains(out, "eth0 (veth)") {
		t.Errorf("does not name what is in the way: %s", out)
	}
	refused.Has(t, podmantest.Fail(t, "podman", "inspect", "--format", "{{.NetworkSettings.Networks}}", "a"))
	podmantest.Run(t, "podman", "network", "disconnect", "airgap", "a")
	if got := f.networks("a"); len(got) != 1 || got["podman"].IPAddress == "" {
		t.Errorf("podman inspect: %+v", got)
	}
	f.mustAnswer("a", "refused a second network")
	after := f.inspect("a")
	if !reflect.DeepEqual(before["ip addr"], after["ip addr"]) || !reflect.DeepEqual(before["ip route"], after["ip route"]) {
		t.Errorf("the refusal changed the container: %q %q, then %q %q", before["ip addr"], before["ip route"], after["ip addr"], after["ip route"])
	}

	// The namespace is known on the other side for as long as it lives.
	podmantest.Run(t, "podman", "network", "disconnect", "podman", "a")
	refused.Has(t, podmantest.Fail(t, "podman", "network", "connect", "airgap", "a"))
	// A restart gives the container a new one.
	podmantest.Run(t, "podman", "restart", "--time", "0", "a")
	harness.Until(t, "a serves again", func() bool { return f.answers("a") })
	isolated(t, f.inspect("a"))
}

// TestConnectedLater pins what the plugin cannot prevent: it is not called for
// another network. CHECK would report it, and podman does not call it.
func TestConnectedLater(t *testing.T) {
	f := setUp(t, true)
	f.start("a", "--network", "airgap")
	check := func() (string, error) {
		netns := podmantest.Run(t, "podman", "inspect", "--format", "{{.NetworkSettings.SandboxKey}}", "a")
		cmd := exec.Command(plugin)
		cmd.Env = []string{"CNI_COMMAND=CHECK", "CNI_CONTAINERID=a", "CNI_IFNAME=eth0", "CNI_NETNS=" + netns, "CNI_PATH=/opt/cni/bin"}
		cmd.Stdin = strings.NewReader(`{"cniVersion": "1.0.0", "name": "airgap", "type": "none"}`)
		out, err := cmd.Output()
		return string(out), err
	}
	if out, err := check(); err != nil {
		t.Errorf("CHECK of an isolated container: %v: %s", err, out)
	}
	podmantest.Run(t, "podman", "network", "connect", "podman", "a")
	if got := f.inspect("a")["/sys/class/net"]; !slices.Equal(got, []string{"eth1", "lo"}) {
		t.Errorf("interfaces %q: podman does not do any more what the document warns of", got)
	}
	if out, err := check(); err == nil || !strings.Contains(out, "eth1") {
		t.Errorf("CHECK does not name what came later: %v: %s", err, out)
	}
	podmantest.Run(t, "podman", "network", "disconnect", "podman", "a")
	isolated(t, f.inspect("a"))
	if out, err := check(); err == nil {
		t.Errorf("CHECK forgets that there was another network: %s", out)
	}
}

func TestRefused(t *testing.T) {
	f := setUp(t, false)
	for _, args := range [][]string{
		{"--network", "airgap", "--publish", "8080:80"},
		{"--network", "airgap", "--ip", "10.0.0.1"},
		{"--network", "airgap", "--ip6", "fd00::1"},
		{"--network", "airgap:ip=10.0.0.1,ip=10.0.0.2"},
		{"--network", "airgap", "--mac-address", "02:00:00:00:00:01"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			args := append([]string{"podman", "run", "--rm"}, append(args, "busybox", "sh", "-c", "echo ran")...)
			out := podmantest.Fail(t, args...)
			f.doc.Under(t, "What is refused").Has(t, out)
			if strings.Contains(out, "ran\n") || !strings.Contains(out, "another network") {
				t.Errorf("does not say what to do: %s", out)
			}
			if out := podmantest.Run(t, "podman", "ps", "--all", "--quiet"); out != "" {
				t.Errorf("a container is left: %s", out)
			}
			f.host.Clean(t)
		})
	}
	// These options ask for nothing that the plugin refuses.
	isolated(t, f.look("--network", "airgap", "--publish-all", "--network-alias", "other", "--dns", "192.0.2.53"))
}

// TestEveryContainer: the default network, and that it fails closed.
func TestEveryContainer(t *testing.T) {
	f := setUp(t, false)
	doc := f.doc.Under(t, "Every container, unless it says otherwise")
	out := podmantest.Run(t, "sh", "-euc", doc.Commands()[0])
	harness.ReplacePlugin(t, "/opt/cni/airgap/bin/none")
	// make tells what it does, and then the container speaks.
	f.doc.Has(t, out[strings.LastIndex(out, "1: lo:"):])
	isolated(t, f.look())
	f.start("a")
	if got := f.networks("a"); len(got) != 1 || got["airgap"].IPAddress != "" {
		t.Errorf("podman inspect: %+v", got)
	}
	podmantest.Run(t, "podman", "rm", "--force", "--time", "0", "a")
	podmantest.Run(t, "podman", "network", "prune", "--force")
	if out := podmantest.Fail(t, "podman", "network", "rm", "airgap"); out != "Error: default network airgap cannot be removed" {
		t.Errorf("podman network rm: %s", out)
	}
	isolated(t, f.look())

	for name, path := range map[string]string{"conflist": conflist, "plugin": "/opt/cni/airgap/bin/none"} {
		t.Run("without the "+name, func(t *testing.T) {
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
			defer os.Rename(path+".away", path)
			out := podmantest.Fail(t, "podman", "run", "--rm", "busybox", "sh", "-c", "echo ran")
			doc.Has(t, out[strings.LastIndex(out, "Error:"):])
			f.host.Clean(t)
		})
	}
	isolated(t, f.look())
}

// TestDefaultFailsOpen pins why the shipped file sets cni_plugin_dirs: without,
// podman makes up a bridge under the name of the default network.
func TestDefaultFailsOpen(t *testing.T) {
	f := setUp(t, true)
	harness.Write(t, dropins+"20-default.conf", "[network]\ndefault_network = \"airgap\"\n", 0o644)
	isolated(t, f.look())
	if err := os.Remove(plugin); err != nil {
		t.Fatal(err)
	}
	out := podmantest.Run(t, "podman", "run", "--rm", "busybox", "sh", "-c", "ip -o link | cut -d: -f2")
	warning, links, _ := strings.Cut(out, "\n")
	f.doc.Under(t, "Every container, unless it says otherwise").Has(t, warning)
	if !strings.Contains(links, "eth0") {
		t.Errorf("podman does not fail open any more: drop the warning from the document. It has%s", links)
	}
	if got := f.driver(); !strings.HasSuffix(got, "airgap bridge") {
		t.Errorf("podman network ls: %s", got)
	}
}

// TestBroken: each way in which a setup can be wrong gives the message that the
// document shows.
func TestBroken(t *testing.T) {
	tests := []struct {
		name string
		do   func(*fixture) error
	}{
		{"no plugin", func(*fixture) error { return os.Remove(plugin) }},
		{"no conflist", func(*fixture) error { return os.Remove(conflist) }},
		{"a single conf", func(*fixture) error { return os.Rename(conflist, strings.TrimSuffix(conflist, "list")) }},
		{"no JSON", func(f *fixture) error {
			b, err := os.ReadFile(conflist)
			harness.Write(f, conflist, string(b)+"}\n", 0o644)
			return err
		}},
		{"cniVersion too new", func(f *fixture) error {
			f.edit(`"cniVersion": "1.0.0"`, `"cniVersion": "1.1.0"`)
			f.edit(`"cniVersions": ["0.4.0", "1.0.0", "1.1.0"]`, `"cniVersions": ["1.1.0"]`)
			return nil
		}},
		{"not executable", func(*fixture) error { return os.Chmod(plugin, 0o644) }},
		{"cut off", func(*fixture) error { return os.Truncate(plugin, 1000) }},
		{"a wrong value", func(f *fixture) error {
			f.edit(`"type": "none",`, `"type": "none", "exclusive": "yes",`)
			return nil
		}},
		{"netavark", func(f *fixture) error {
			harness.Write(f, dropins+"99-netavark.conf", "[network]\nnetwork_backend = \"netavark\"\n", 0o644)
			return nil
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := setUp(t, false)
			isolated(t, f.look("--network", "airgap")) // it worked before
			if err := test.do(f); err != nil {
				t.Fatal(err)
			}
			out := podmantest.Fail(t, "podman", "run", "--rm", "--network", "airgap", "busybox", "sh", "-c", "echo ran")
			out = strings.Join(slices.DeleteFunc(strings.Split(out, "\n"), func(line string) bool {
				return strings.Contains(line, "Failed to load cached network config")
			}), "\n")
			f.doc.Under(t, "Errors and remedies").Has(t, out)
			// Nothing may run as if it were isolated, and podman has to clean up again.
			os.Remove(dropins + "99-netavark.conf")
			if out := podmantest.Run(t, "podman", "ps", "--all", "--quiet"); out != "" {
				t.Errorf("a container is left: %s", out)
			}
		})
	}
}

// TestPruned pins how podman deletes a conflist that no container uses.
func TestPruned(t *testing.T) {
	f := setUp(t, false)
	f.start("a", "--network", "airgap")
	podmantest.Run(t, "podman", "network", "prune", "--force")
	podmantest.Fail(t, "podman", "network", "rm", "airgap")
	if got := f.driver(); got != "airgap none" {
		t.Errorf("a network in use is gone: %q", got)
	}
	f.mustAnswer("a", "pruned")
	podmantest.Run(t, "podman", "rm", "--force", "--time", "0", "a")
	podmantest.Run(t, "podman", "network", "prune", "--force")
	if _, err := os.Stat(conflist); !os.IsNotExist(err) {
		t.Errorf("podman network prune leaves the conflist now: change the document (%v)", err)
	}
}

// TestBuiltInName: a conflist named none is listed and never used.
func TestBuiltInName(t *testing.T) {
	f := setUp(t, false)
	f.edit(`"name": "airgap"`, `"name": "none"`)
	if out := podmantest.Run(t, "podman", "network", "ls", "--format", "{{.Name}} {{.Driver}}"); !strings.Contains(out, "none none\n") {
		t.Errorf("podman network ls: %s", out)
	}
	// The same without the plugin: podman's own none does not use it.
	if err := os.WriteFile(plugin, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(f.look("--network", "none")["/sys/class/net"]); got != "[lo]" {
		t.Errorf("interfaces %s", got)
	}
}
