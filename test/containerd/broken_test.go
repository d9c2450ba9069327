package containerd

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/containerd"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/machine"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// edit replaces what must be there in a file.
func edit(t *testing.T, path, from, to string) {
	t.Helper()
	text := harness.Read(t, path)
	if !strings.Contains(text, from) {
		t.Fatalf("%s does not contain %q", path, from)
	}
	harness.Write(t, path, strings.ReplaceAll(text, from, to), 0o644)
}

// TestPlaceholders reports addresses of either family and of both.
func TestPlaceholders(t *testing.T) {
	for _, k := range []kind{debian, v3} {
		t.Run(k.name, func(t *testing.T) {
			n := k.start(t)
			listener := listen(t)
			for _, test := range []struct {
				placeholders string
				want         []string
			}{
				{`["192.0.0.8"]`, []string{"192.0.0.8"}},
				{`["100:0:0:1::8"]`, []string{"100:0:0:1::8"}},
				{`["192.0.0.8", "100:0:0:1::8"]`, []string{"192.0.0.8", "100:0:0:1::8"}},
				{`["100:0:0:1::8", "192.0.0.8"]`, []string{"192.0.0.8", "100:0:0:1::8"}}, // containerd's ip_pref
			} {
				t.Run(test.placeholders, func(t *testing.T) {
					n.in(t)
					shipped := harness.Read(t, conflist)
					edit(t, conflist, `["100:0:0:1::/64"]`, test.placeholders)
					n.restart()
					p := n.runPod(airgap)
					if got := p.ips(); !sameAddresses(got, test.want) {
						t.Errorf("containerd reports %v, want %v", got, test.want)
					}
					hasLoopbackOnly(t, p, listener)
					p.stop()
					p.remove()
					harness.Write(t, conflist, shipped, 0o644)
				})
			}
		})
	}
}

// TestBroken breaks a node in one way at a time. What containerd says then is
// in docs/containerd.md to the letter, with a remedy.
func TestBroken(t *testing.T) {
	for _, k := range []kind{debian, v17, v3, v4} {
		t.Run(k.name, func(t *testing.T) {
			n := k.start(t)
			tests := []struct {
				name    string // also the block of docs/containerd.md
				only    []kind // on these; on all if empty
				breakIt func(t *testing.T, pod *cri.PodSandboxConfig)
			}{
				{name: "host port", breakIt: func(t *testing.T, pod *cri.PodSandboxConfig) {
					pod.PortMappings = []*cri.PortMapping{{HostPort: 8080, ContainerPort: 80}}
				}},
				{name: "bandwidth", breakIt: func(t *testing.T, pod *cri.PodSandboxConfig) {
					pod.Annotations = map[string]string{"kubernetes.io/egress-bandwidth": "1M"}
				}},
				{name: "no placeholder", breakIt: func(t *testing.T, pod *cri.PodSandboxConfig) {
					harness.Sh(t, "cp conf/10-airgap.conflist "+conflist)
				}},
				{name: "an address of a host", breakIt: func(t *testing.T, pod *cri.PodSandboxConfig) {
					edit(t, conflist, "100:0:0:1::/64", "10.0.0.1")
				}},
				{name: "no plugin", breakIt: func(t *testing.T, pod *cri.PodSandboxConfig) {
					remove(t, k.plugins+"/none")
				}},
				{name: "no loopback plugin", only: []kind{debian, v17, v3}, breakIt: func(t *testing.T, pod *cri.PodSandboxConfig) {
					remove(t, k.plugins+"/loopback")
				}},
				{name: "cniVersion too new", breakIt: func(t *testing.T, pod *cri.PodSandboxConfig) {
					edit(t, conflist, `"cniVersions": ["0.4.0", "1.0.0", "1.1.0"],`, "")
					edit(t, conflist, "1.0.0", "1.2.0")
				}},
				{name: "cniVersion 1.1.0 on 1.x", only: []kind{debian, v17}, breakIt: func(t *testing.T, pod *cri.PodSandboxConfig) {
					edit(t, conflist, `"cniVersions": ["0.4.0", "1.0.0", "1.1.0"],`, "")
					edit(t, conflist, "1.0.0", "1.1.0")
				}},
				{name: "no handler", only: []kind{v3, v4}, breakIt: func(t *testing.T, pod *cri.PodSandboxConfig) {
					n.editConfig(t, "runtimes.airgap]", "runtimes.airgrap]")
				}},
				{name: "no handler on 1.x", only: []kind{debian, v17}, breakIt: func(t *testing.T, pod *cri.PodSandboxConfig) {
					n.editConfig(t, "runtimes.airgap]", "runtimes.airgrap]")
				}},
				{name: "empty directory", breakIt: func(t *testing.T, pod *cri.PodSandboxConfig) {
					n.editConfig(t, "/etc/cni/airgap.d", "/etc/cni/airgrap.d")
				}},
			}
			for _, test := range tests {
				if test.only != nil && !slices.Contains(test.only, k) {
					continue
				}
				t.Run(test.name, func(t *testing.T) {
					n.in(t)
					config := n.podConfig()
					test.breakIt(t, config)
					n.restart()
					_, err := n.try(airgap, config)
					isDocumented(t, err, "containerd: "+test.name, k.plugins)
					// With the remedy the runtime's next attempt clears up: 1.x keeps
					// a sandbox whose DEL failed as well, 2.4 does not.
					k.install(t)
					n.restart()
					if test.name == "no loopback plugin" && k == v3 {
						// 2.4 forgets the sandbox, but gives up at the first failed
						// DEL, which is loopback's, and so leaves libcni's cache.
						cached, _ := filepath.Glob("/var/lib/cni/results/airgap-*-eth0")
						if len(cached) != 1 {
							t.Errorf("left in libcni's cache: %v; docs/containerd.md says that there is one", cached)
						}
						for _, file := range cached {
							remove(t, file)
						}
					}
					n.removeAll()
				})
			}
		})
	}
}

// TestSilent breaks a node in ways that containerd does not complain about.
func TestSilent(t *testing.T) {
	for _, k := range []kind{debian, v3} {
		t.Run(k.name, func(t *testing.T) {
			n := k.start(t)
			listener := listen(t)

			t.Run("in the default directory, for the CRI", func(t *testing.T) {
				n.in(t)
				harness.Sh(t, "cp conf/containerd/10-airgap-cri.conflist /etc/cni/net.d")
				n.restart()
				hasLoopbackOnly(t, n.runPod(""), listener)
				n.removeAll()
				k.install(t)
			})
			t.Run("in the default directory, sorted later", func(t *testing.T) {
				n.in(t)
				harness.Sh(t, "cp conf/containerd/10-airgap-cri.conflist /etc/cni/net.d/90-airgap-cri.conflist")
				n.restart()
				hasClusterNetwork(t, n.runPod(""), listener)
				n.removeAll()
				k.install(t)
			})
			t.Run("in the default directory, for other runtimes", func(t *testing.T) {
				n.in(t)
				harness.Sh(t, "cp conf/10-airgap.conflist /etc/cni/net.d")
				n.restart()
				_, err := n.try("", n.podConfig())
				isDocumented(t, err, "containerd: no placeholder", k.plugins)
				n.removeAll()
				k.install(t)
			})
			t.Run("no directory", func(t *testing.T) {
				n.in(t)
				n.editConfig(t, "  cni_conf_dir", "  cni_config_dir")
				n.restart()
				hasClusterNetwork(t, n.runPod(airgap), listener)
				n.removeAll()
				k.install(t)
			})
			// The control: the same node, as it should be.
			n.restart()
			hasClusterNetwork(t, n.runPod(""), listener)
			hasLoopbackOnly(t, n.runPod(airgap), listener)
		})
	}
}

// TestPluginRemovedFirst removes the plugin below a running pod, which cannot
// be stopped then until the plugin is back.
func TestPluginRemovedFirst(t *testing.T) {
	for _, k := range []kind{debian, v3} {
		t.Run(k.name, func(t *testing.T) {
			n := k.start(t)
			p := n.runPod(airgap)
			remove(t, k.plugins+"/none")
			_, err := n.StopPodSandbox(harness.Context(t), &cri.StopPodSandboxRequest{PodSandboxId: p.id})
			isDocumented(t, err, "containerd: plugin removed first", k.plugins)
			harness.Sh(t, harness.Block(t, page, k.commands))
			p.stop()
			p.remove()
			// The commands can be run again: the config is not broken now.
			n.restart()
			n.runPod(airgap)
		})
	}
}

// TestOldConfig pins why conf/containerd/ has a block to append for containerd
// 1.x, which names runc too, and no drop-in.
func TestOldConfig(t *testing.T) {
	for _, k := range []kind{debian, v17} {
		t.Run(k.name, func(t *testing.T) { testOldConfig(t, k) })
	}
}

func testOldConfig(t *testing.T, k kind) {
	dump := func() string {
		return machine.Here().Run(t, filepath.Join(containerd.Dirs[k.version], "containerd"), "config", "dump")
	}
	const runc, kept = `.containerd.runtimes.runc]`, `restrict_oom_score_adj = true`

	k.install(t)
	if out := dump(); !strings.Contains(out, runc) || !strings.Contains(out, kept) {
		t.Fatalf("containerd config dump has no %q or no %q: %s", runc, kept, out)
	}

	k.install(t)
	harness.Write(t, configFile, containerd.Config(2), 0o644)
	if out := dump(); !strings.Contains(out, runc) {
		t.Errorf("runc is not built in: %s", out)
	}
	harness.Sh(t, "cat conf/containerd/airgap-1.x.toml >>/etc/containerd/config.toml")
	if out := dump(); strings.Contains(out, runc) {
		t.Error("naming a handler leaves the built-in runc alone; runc-1.x.toml is no longer needed")
	}

	harness.Write(t, configFile, `imports = ["/etc/containerd/conf.d/*.toml"]`+"\n"+containerd.Config(2), 0o644)
	if out := dump(); !strings.Contains(out, kept) {
		t.Errorf("a config that imports nothing lost %q: %s", kept, out)
	}
	harness.Sh(t, `mkdir /etc/containerd/conf.d
	       { echo version = 2; cat conf/containerd/runc-1.x.toml conf/containerd/airgap-1.x.toml; } >/etc/containerd/conf.d/airgap.toml`)
	if out := dump(); strings.Contains(out, kept) {
		t.Error("an import leaves the CRI section alone; conf/containerd/ could have a drop-in for 1.x")
	}

	n := k.start(t)
	edit(t, configFile, harness.Read(t, harness.Repo("conf/containerd/runc-1.x.toml")), "")
	n.Stop()
	n.Daemon.Start(t)
	var err error
	harness.Until(t, "containerd to answer", func() bool {
		_, err = n.Version(harness.Context(t), &cri.VersionRequest{}, grpc.WaitForReady(true))
		return status.Code(err) == codes.Unimplemented
	})
	isDocumented(t, err, "containerd: no runc", k.plugins)
	k.install(t)
	n.restart()
}

// editConfig edits the file that defines the handler.
func (n *node) editConfig(t *testing.T, from, to string) {
	t.Helper()
	file := configFile
	if matches, _ := filepath.Glob("/etc/containerd/conf.d/*.toml"); len(matches) == 1 {
		file = matches[0]
	}
	edit(t, file, from, to)
}
