package docker

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/podmantest"
)

// other is a network with a real way out, from Debian's plugins.
const other = `{
  "cniVersion": "1.0.0",
  "name": "other",
  "plugins": [{"type": "bridge", "bridge": "cn-other", "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"}}]
}
`

// TestCnitool runs the commands of docs/cnitool.md, and what the
// document says beside them. The plugin itself is tested in test/cnitool.
func TestCnitool(t *testing.T) {
	const netns = "/run/netns/demo"
	doc := podmantest.ReadDoc(t, "docs/cnitool.md")
	commands := doc.Commands()
	if len(commands) != 2 {
		t.Fatalf("%d blocks of commands, not 2", len(commands))
	}
	setUp, away := commands[0], commands[1]
	// The first line builds and installs; what it prints is not in the document.
	build, use, _ := strings.Cut(setUp, "\n")
	podmantest.Run(t, "sh", "-euc", build)
	harness.ReplacePlugin(t, "/opt/cni/bin/none")
	host := podmantest.Survey(t)
	doc.Has(t, podmantest.Run(t, "sh", "-euc", use))
	podmantest.Run(t, "sh", "-euc", away)
	host.Clean(t)

	// Each case starts with a namespace of its own, and with `other` known.
	cnitool := func(t *testing.T, command, network string) string {
		return fmt.Sprintf("CNI_PATH=/opt/cni/bin:/usr/lib/cni bin/cnitool %s %s %s", command, network, netns)
	}
	tests := []struct {
		name, heading string
		run           func(t *testing.T) string
	}{
		{"ports", "What is refused", func(t *testing.T) string {
			return podmantest.Fail(t, "sh", "-euc", `CAP_ARGS='{"portMappings":[{"hostPort":8080,"containerPort":80}]}' `+cnitool(t, "add", "airgap"))
		}},
		{"after another network", "What is refused", func(t *testing.T) string {
			podmantest.Run(t, "sh", "-euc", cnitool(t, "add", "other"))
			return podmantest.Fail(t, "sh", "-euc", "CNI_IFNAME=eth1 "+cnitool(t, "add", "airgap"))
		}},
		{"before another network", "What goes unseen", func(t *testing.T) string {
			podmantest.Run(t, "sh", "-euc", cnitool(t, "add", "airgap"))
			podmantest.Run(t, "sh", "-euc", cnitool(t, "check", "airgap"))
			podmantest.Run(t, "sh", "-euc", "CNI_IFNAME=eth1 "+cnitool(t, "add", "other"))
			return podmantest.Fail(t, "sh", "-euc", cnitool(t, "check", "airgap"))
		}},
		{"no plugin", "Errors and remedies", func(t *testing.T) string {
			return podmantest.Fail(t, "sh", "-euc", "CNI_PATH=/usr/lib/cni bin/cnitool add airgap "+netns)
		}},
		{"no conflist", "Errors and remedies", func(t *testing.T) string {
			if err := os.Remove("/etc/cni/net.d/10-airgap.conflist"); err != nil {
				t.Fatal(err)
			}
			return podmantest.Fail(t, "sh", "-euc", cnitool(t, "add", "airgap"))
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			podmantest.Run(t, "install", "-D", "-m", "644", "conf/10-airgap.conflist", "/etc/cni/net.d/10-airgap.conflist")
			harness.Write(t, "/etc/cni/net.d/20-other.conflist", other, 0o644)
			podmantest.Run(t, "ip", "netns", "add", "demo")
			t.Cleanup(func() {
				podmantest.Run(t, "ip", "netns", "delete", "demo")
				podmantest.Try(t, "ip", "link", "delete", "cn-other")
				os.RemoveAll("/var/lib/cni")
				os.RemoveAll("/etc/cni/net.d")
			})
			out := test.run(t)
			// Below the error, cnitool shows how it is used.
			message, _, _ := strings.Cut(out[strings.Index(out, "Error:"):], "\n")
			doc.Under(t, test.heading).Has(t, message)
		})
	}
}

// TestGC: what cnitool forgets, the container keeps.
func TestGC(t *testing.T) {
	podmantest.Run(t, "sh", "-euc", `make install bin/cnitool
		install -D -m 644 conf/10-airgap.conflist /etc/cni/net.d/10-airgap.conflist
		ip netns add demo`)
	harness.ReplacePlugin(t, "/opt/cni/bin/none")
	t.Cleanup(func() {
		podmantest.Run(t, "ip", "netns", "delete", "demo")
		os.RemoveAll("/etc/cni/net.d")
	})
	const tool = "CNI_PATH=/opt/cni/bin bin/cnitool "
	podmantest.Run(t, "sh", "-euc", tool+"add airgap /run/netns/demo")
	podmantest.Run(t, "sh", "-euc", tool+"gc airgap /run/netns/demo")
	var links []struct{ Flags []string }
	out := podmantest.Run(t, "ip", "-netns", "demo", "-json", "link", "show", "lo")
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) != 1 || !strings.Contains(fmt.Sprint(links[0].Flags), "UP") {
		t.Errorf("lo is not up any more: %v: %s", err, out)
	}
}
