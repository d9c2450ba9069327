package gocni

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/internal/nstest"
	"github.com/cni-none/cni-none/test/internal/harness"
	cni "github.com/containerd/go-cni"
)

const (
	shipped    = "../../conf/10-airgap.conflist"
	installed  = "/etc/cni/net.d/10-airgap.conflist"
	pluginDir  = "/opt/cni/bin"
	identifier = "default-3f4e9b1d2c5a68770123456789abcdef0123456789abcdef0123456789abcdef" // as nerdctl's: <namespace>-<ID>
)

// secondNetwork is an ordinary network beside ours.
const secondNetwork = `{
	"cniVersion": "1.0.0",
	"name": "ordinary",
	"plugins": [{
		"type": "bridge",
		"bridge": "ordinary0",
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "198.18.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
	}]
}`

// page is what a user of nerdctl reads.
const page = "docs/nerdctl.md"

// install runs the commands of docs/nerdctl.md, beside upstream's plugins.
func install(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"/etc/cni", "/opt/cni"} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	harness.Sh(t, "install -D -m 755 -t /opt/cni/bin bin/cniplugins/*")
	harness.Sh(t, harness.Block(t, page, "nerdctl install"))
	harness.ReplacePlugin(t, pluginDir+"/none")
}

// isDocumented fails the test unless the error is, to the letter, the one that
// docs/nerdctl.md shows.
func isDocumented(t *testing.T, err error, name string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, though docs/nerdctl.md shows one in block %q", name)
	}
	if want := harness.Block(t, page, name); err.Error() != want {
		t.Errorf("error, and what docs/nerdctl.md shows in block %q:\n%v\n%s", name, err, want)
	}
}

func load(t *testing.T, opts ...cni.Opt) cni.CNI {
	t.Helper()
	c, err := cni.New(cni.WithMinNetworkCount(len(opts)))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Load(opts...); err != nil {
		t.Fatal(err)
	}
	return c
}

// look lists the interfaces, addresses (without link-local ones) and routes
// (without those over lo) of a namespace.
func look(n *nstest.NS) (links, addrs, routes []string) {
	n.Do(func() error {
		list, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, i := range list {
			name := i.Name
			if i.Flags&net.FlagUp == 0 {
				name += " (down)"
			}
			links = append(links, name)
			all, err := i.Addrs()
			if err != nil {
				return err
			}
			for _, a := range all {
				if !a.(*net.IPNet).IP.IsLinkLocalUnicast() {
					addrs = append(addrs, a.String())
				}
			}
		}
		for _, file := range []string{"route", "ipv6_route"} {
			data, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(data)) {
				fields := strings.Fields(line)
				if fields[0] != "Iface" && fields[0] != "lo" && fields[len(fields)-1] != "lo" {
					routes = append(routes, strings.Join(fields, " "))
				}
			}
		}
		return nil
	})
	return links, addrs, routes
}

func hasLoopbackOnly(t *testing.T, n *nstest.NS) {
	t.Helper()
	want := []string{"127.0.0.1/8"}
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil {
		want = append(want, "::1/128")
	}
	links, addrs, routes := look(n)
	if !slices.Equal(links, []string{"lo"}) || !slices.Equal(addrs, want) || len(routes) != 0 {
		t.Errorf("interfaces %v, addresses %v, routes %v, want lo only, up, with %v, and no route", links, addrs, routes, want)
	}
}

// hasNoCache fails the test if libcni remembers an attachment.
func hasNoCache(t *testing.T) {
	t.Helper()
	cached, err := filepath.Glob("/var/lib/cni/results/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(cached) != 0 {
		t.Errorf("left in libcni's cache: %v", cached)
	}
}

// TestLifecycle makes the calls that nerdctl makes for a container: DEL before
// the first ADD, and DEL without a namespace at the end.
func TestLifecycle(t *testing.T) {
	install(t)
	if a, b := harness.Read(t, shipped), harness.Read(t, installed); a != b {
		t.Fatal("docs/nerdctl.md installs something else than the shipped conflist")
	}
	for name, opt := range map[string]cni.Opt{"by file": cni.WithConfListFile(installed), "by directory": cni.WithDefaultConf} {
		t.Run(name, func(t *testing.T) {
			ns, ctx := nstest.New(t), harness.Context(t)
			c := load(t, opt)
			if err := c.Status(); err != nil {
				t.Errorf("status: %v", err)
			}
			if err := c.Remove(ctx, identifier, ""); err != nil {
				t.Errorf("remove before setup: %v", err)
			}
			if links, addrs, _ := look(ns); !slices.Equal(links, []string{"lo (down)"}) || len(addrs) != 0 {
				t.Fatalf("before setup: interfaces %v, addresses %v", links, addrs)
			}

			result, err := c.Setup(ctx, identifier, ns.Path)
			if err != nil {
				t.Fatal(err)
			}
			lo := result.Interfaces["lo"]
			if lo == nil || lo.Sandbox != ns.Path || lo.Mac != "00:00:00:00:00:00" || len(lo.IPConfigs) != 0 {
				t.Errorf("result has lo as %+v, want it in %s without an address", lo, ns.Path)
			}
			if len(result.Routes) != 0 || len(result.Interfaces["eth0"].IPConfigs) != 0 {
				t.Errorf("result has routes %v and, for eth0, %+v, want nothing", result.Routes, result.Interfaces["eth0"])
			}
			if got := result.Raw()[0].CNIVersion; got != "1.1.0" && got != "1.0.0" {
				t.Errorf("result of version %q", got)
			}
			hasLoopbackOnly(t, ns)
			if err := c.Check(ctx, identifier, ns.Path); err != nil {
				t.Errorf("check: %v", err)
			}
			if err := c.Remove(ctx, identifier, ""); err != nil {
				t.Errorf("remove without a namespace: %v", err)
			}
			hasLoopbackOnly(t, ns)
			hasNoCache(t)

			// nerdctl start after stop, and a removal with the namespace.
			if _, err := c.Setup(ctx, identifier, ns.Path); err != nil {
				t.Fatal(err)
			}
			if err := c.Remove(ctx, identifier, ns.Path); err != nil {
				t.Errorf("remove: %v", err)
			}
			if err := c.Remove(ctx, identifier, ns.Path); err != nil {
				t.Errorf("remove twice: %v", err)
			}
			hasLoopbackOnly(t, ns)
			hasNoCache(t)
		})
	}
}

// TestCheck sees what was added to a namespace after ADD, for a runtime that
// asks; nerdctl and containerd do not.
func TestCheck(t *testing.T) {
	install(t)
	ns, ctx := nstest.New(t), harness.Context(t)
	airgap := load(t, cni.WithConfListFile(installed))
	if _, err := airgap.Setup(ctx, identifier, ns.Path); err != nil {
		t.Fatal(err)
	}
	ordinary := load(t, cni.WithConfListBytes([]byte(secondNetwork)))
	if _, err := ordinary.Setup(ctx, identifier, ns.Path); err != nil {
		t.Fatal(err)
	}
	err := airgap.Check(ctx, identifier, ns.Path)
	if err == nil || !strings.Contains(err.Error(), "eth0 (veth)") {
		t.Errorf("check: %v, want it to name eth0 and its kind", err)
	}
	for _, c := range []cni.CNI{ordinary, airgap} {
		if err := c.Remove(ctx, identifier, ns.Path); err != nil {
			t.Error(err)
		}
	}
	hasLoopbackOnly(t, ns)
}

// TestTwoNetworks attaches an ordinary network too, as nerdctl run --network a
// --network b does.
func TestTwoNetworks(t *testing.T) {
	install(t)
	shared := strings.Replace(harness.Read(t, shipped), `"type": "none",`, `"type": "none", "exclusive": false,`, 1)
	airgap, both := cni.WithConfListFile(installed), cni.WithConfListBytes([]byte(shared))
	ordinary := cni.WithConfListBytes([]byte(secondNetwork))

	t.Run("exclusive, ordinary first", func(t *testing.T) {
		ns, ctx := nstest.New(t), harness.Context(t)
		c := load(t, ordinary, airgap)
		_, err := c.SetupSerially(ctx, identifier, ns.Path)
		isDocumented(t, err, "go-cni: two networks")
		if err := c.Remove(ctx, identifier, ""); err != nil {
			t.Errorf("remove after a failed setup: %v", err)
		}
	})
	t.Run("exclusive, at once", func(t *testing.T) {
		// Either may come first. The one that loses sees the other at ADD, or
		// CHECK sees both: one of the two always does. An interface that arrives
		// while ADD looks, after the list of interfaces, has left the id of its other
		// end, and is there afterwards.
		for range 5 {
			ns, ctx := nstest.New(t), harness.Context(t)
			c := load(t, airgap, ordinary)
			_, err := c.Setup(ctx, identifier, ns.Path)
			if err == nil {
				err = c.Check(ctx, identifier, ns.Path)
			}
			links, _, _ := look(ns)
			late := err != nil && strings.Contains(err.Error(), "can be again: nsid 0") && slices.Contains(links, "eth1")
			if !late && (err == nil || !strings.Contains(err.Error(), "eth1 (veth)")) {
				t.Errorf("neither setup nor check names eth1 and its kind: %v", err)
			}
			if err := c.Remove(ctx, identifier, ns.Path); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("shared, at once", func(t *testing.T) {
		for range 5 {
			ns, ctx := nstest.New(t), harness.Context(t)
			c := load(t, both, ordinary)
			result, err := c.Setup(ctx, identifier, ns.Path)
			if err != nil {
				t.Fatal(err)
			}
			if lo, eth1 := result.Interfaces["lo"], result.Interfaces["eth1"]; lo == nil || len(lo.IPConfigs) != 0 || eth1 == nil || len(eth1.IPConfigs) != 1 {
				t.Errorf("result has lo as %+v and eth1 as %+v", lo, eth1)
			}
			if links, _, routes := look(ns); !slices.Equal(links, []string{"lo", "eth1"}) || len(routes) == 0 {
				t.Errorf("interfaces %v, routes %v", links, routes)
			}
			if err := c.Check(ctx, identifier, ns.Path); err != nil {
				t.Errorf("check: %v", err)
			}
			if err := c.Remove(ctx, identifier, ns.Path); err != nil {
				t.Error(err)
			}
			hasLoopbackOnly(t, ns)
		}
	})
	t.Run("with upstream's loopback, at once", func(t *testing.T) {
		// What containerd's CRI does.
		for range 5 {
			ns, ctx := nstest.New(t), harness.Context(t)
			c := load(t, cni.WithLoNetwork, airgap)
			if _, err := c.Setup(ctx, identifier, ns.Path); err != nil {
				t.Fatal(err)
			}
			hasLoopbackOnly(t, ns)
			if err := c.Remove(ctx, identifier, ns.Path); err != nil {
				t.Error(err)
			}
		}
	})
	hasNoCache(t)
}

// TestRefused asks for what the none network cannot give.
func TestRefused(t *testing.T) {
	install(t)
	tests := map[string]cni.NamespaceOpts{
		// As nerdctl 2.3.5 asks for -p, --ip and --ip6.
		"go-cni: port": cni.WithCapabilityPortMap([]cni.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp", HostIP: "0.0.0.0"}}),
		"go-cni: IP":   cni.WithArgs("IP", "10.4.0.9"),
		"go-cni: ips":  cni.WithCapability("ips", []string{"fd00::9"}),
		// nerdctl has no way to ask for these on a network of the none plugin.
		`runtimeConfig.bandwidth: {"IngressRate":1000,`: cni.WithCapabilityBandWidth(cni.BandWidth{IngressRate: 1000}),
		`runtimeConfig.mac: "02:00:00:00:00:01"`:        cni.WithCapability("mac", "02:00:00:00:00:01"),
		`CNI_ARGS MAC: 02:00:00:00:00:01`:               cni.WithArgs("MAC", "02:00:00:00:00:01"),
	}
	for name, opt := range tests {
		t.Run(name, func(t *testing.T) {
			ns, ctx := nstest.New(t), harness.Context(t)
			c := load(t, cni.WithConfListFile(installed))
			_, err := c.Setup(ctx, identifier, ns.Path, opt)
			if strings.HasPrefix(name, "go-cni: ") {
				isDocumented(t, err, name)
			} else if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "cannot be honoured") {
				t.Errorf("does not refuse %s: %v", name, err)
			}
			if links, _, _ := look(ns); !slices.Equal(links, []string{"lo (down)"}) {
				t.Errorf("a refused setup touched the namespace: %v", links)
			}
			if err := c.Remove(ctx, identifier, ns.Path, opt); err != nil {
				t.Errorf("remove with the same request: %v", err)
			}
		})
	}
	t.Run("nothing asked for", func(t *testing.T) {
		// nerdctl passes these whether or not a port was asked for.
		ns, ctx := nstest.New(t), harness.Context(t)
		c := load(t, cni.WithConfListFile(installed))
		_, err := c.Setup(ctx, identifier, ns.Path, cni.WithCapabilityPortMap(nil), cni.WithArgs("IgnoreUnknown", "1"), cni.WithArgs("NERDCTL_CNI_DHCP_HOSTNAME", "box"))
		if err != nil {
			t.Error(err)
		}
		if err := c.Remove(ctx, identifier, ""); err != nil {
			t.Error(err)
		}
	})
	hasNoCache(t)
}

// TestBroken pins what go-cni says of broken setups.
func TestBroken(t *testing.T) {
	t.Run("go-cni: no plugin", func(t *testing.T) {
		install(t)
		if err := os.Remove(pluginDir + "/none"); err != nil {
			t.Fatal(err)
		}
		_, err := load(t, cni.WithConfListFile(installed)).Setup(harness.Context(t), identifier, nstest.New(t).Path)
		isDocumented(t, err, "go-cni: no plugin")
	})
	t.Run("go-cni: cniVersion too new", func(t *testing.T) {
		install(t)
		text := strings.ReplaceAll(harness.Read(t, installed), `"cniVersions": ["0.4.0", "1.0.0", "1.1.0"],`, "")
		text = strings.ReplaceAll(text, "1.0.0", "1.2.0")
		_, err := load(t, cni.WithConfListBytes([]byte(text))).Setup(harness.Context(t), identifier, nstest.New(t).Path)
		isDocumented(t, err, "go-cni: cniVersion too new")
	})
	t.Run("go-cni: conf instead of conflist", func(t *testing.T) {
		install(t)
		if err := os.Rename(installed, strings.TrimSuffix(installed, "list")); err != nil {
			t.Fatal(err)
		}
		c, err := cni.New()
		if err != nil {
			t.Fatal(err)
		}
		isDocumented(t, c.Load(cni.WithDefaultConf), "go-cni: conf instead of conflist")
	})
}

// TestLabel checks what nerdctl reads in a conflist: no ID, with which network
// prune would delete the file, and no label that makes this nerdctl's default
// network, with which a plain nerdctl run fails on a new machine and warns on others.
func TestLabel(t *testing.T) {
	var conf struct {
		Name   string
		ID     *string           `json:"nerdctlID"`
		Labels map[string]string `json:"nerdctlLabels"`
	}
	if err := json.Unmarshal([]byte(harness.Read(t, shipped)), &conf); err != nil {
		t.Fatal(err)
	}
	if conf.Name != "airgap" || conf.ID != nil || len(conf.Labels) > 0 {
		t.Errorf("%s: %+v, want airgap without labels and without an ID", shipped, conf)
	}
}
