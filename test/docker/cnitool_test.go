package docker

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/podman/sandbox"
)

// other is a network with a real way out, from Debian's plugins.
const other = `{
  "cniVersion": "1.0.0",
  "name": "other",
  "plugins": [{"type": "bridge", "bridge": "cn-other", "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"}}]
}
`

// TestCnitool runs the commands of docs/runtimes.md for cnitool, and what the
// document says beside them. The plugin itself is tested in test/cnitool.
func TestCnitool(t *testing.T) {
	const netns = "/run/netns/demo"
	doc := sandbox.ReadDoc(t, "docs/runtimes.md", "cnitool")
	commands := doc.Commands()
	if len(commands) != 2 {
		t.Fatalf("%d blocks of commands, not 2", len(commands))
	}
	setUp, away := commands[0], commands[1]
	// The first line builds and installs; what it prints is not in the document.
	build, use, _ := strings.Cut(setUp, "\n")
	sandbox.Run(t, "sh", "-euc", build)
	sandbox.Plugin(t, "/opt/cni/bin/none")
	host := sandbox.Survey(t)
	doc.Has(t, sandbox.Run(t, "sh", "-euc", use))
	sandbox.Run(t, "sh", "-euc", away)
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
			return sandbox.Fail(t, "sh", "-euc", `CAP_ARGS='{"portMappings":[{"hostPort":8080,"containerPort":80}]}' `+cnitool(t, "add", "airgap"))
		}},
		{"after another network", "What is refused", func(t *testing.T) string {
			sandbox.Run(t, "sh", "-euc", cnitool(t, "add", "other"))
			return sandbox.Fail(t, "sh", "-euc", "CNI_IFNAME=eth1 "+cnitool(t, "add", "airgap"))
		}},
		{"before another network", "What is refused", func(t *testing.T) string {
			sandbox.Run(t, "sh", "-euc", cnitool(t, "add", "airgap"))
			sandbox.Run(t, "sh", "-euc", cnitool(t, "check", "airgap"))
			sandbox.Run(t, "sh", "-euc", "CNI_IFNAME=eth1 "+cnitool(t, "add", "other"))
			return sandbox.Fail(t, "sh", "-euc", cnitool(t, "check", "airgap"))
		}},
		{"no plugin", "When it does not work", func(t *testing.T) string {
			return sandbox.Fail(t, "sh", "-euc", "CNI_PATH=/usr/lib/cni bin/cnitool add airgap "+netns)
		}},
		{"no conflist", "When it does not work", func(t *testing.T) string {
			if err := os.Remove("/etc/cni/net.d/10-airgap.conflist"); err != nil {
				t.Fatal(err)
			}
			return sandbox.Fail(t, "sh", "-euc", cnitool(t, "add", "airgap"))
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			sandbox.Run(t, "install", "-D", "-m", "644", "conf/10-airgap.conflist", "/etc/cni/net.d/10-airgap.conflist")
			sandbox.Write(t, "/etc/cni/net.d/20-other.conflist", other)
			sandbox.Run(t, "ip", "netns", "add", "demo")
			t.Cleanup(func() {
				sandbox.Run(t, "ip", "netns", "delete", "demo")
				sandbox.Try(t, "ip", "link", "delete", "cn-other")
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
	sandbox.Run(t, "sh", "-euc", `make install bin/cnitool
		install -D -m 644 conf/10-airgap.conflist /etc/cni/net.d/10-airgap.conflist
		ip netns add demo`)
	sandbox.Plugin(t, "/opt/cni/bin/none")
	t.Cleanup(func() {
		sandbox.Run(t, "ip", "netns", "delete", "demo")
		os.RemoveAll("/etc/cni/net.d")
	})
	const tool = "CNI_PATH=/opt/cni/bin bin/cnitool "
	sandbox.Run(t, "sh", "-euc", tool+"add airgap /run/netns/demo")
	sandbox.Run(t, "sh", "-euc", tool+"gc airgap /run/netns/demo")
	var links []struct{ Flags []string }
	out := sandbox.Run(t, "ip", "-netns", "demo", "-json", "link", "show", "lo")
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) != 1 || !strings.Contains(fmt.Sprint(links[0].Flags), "UP") {
		t.Errorf("lo is not up any more: %v: %s", err, out)
	}
}
