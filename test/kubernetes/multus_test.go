package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	cni "github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/cni-none/cni-none/internal/nstest"
	"github.com/cni-none/cni-none/pkg/loopback"
)

// multus gives the manifest to the API server, with the CRD that Multus brings,
// and then calls the plugin as Multus does. Multus itself cannot be had as a Go
// module; what it does with a delegate is one call to the CNI library (its
// pkg/multus, confAdd and conflistAdd), and that library is the real one here.
func (c *node) multus(t *testing.T) {
	c.MustKubectl(t, "apply", "-f", "test/kubernetes/testdata/multus-crd.yaml")
	c.MustKubectl(t, "wait", "--for=condition=Established", "crd/network-attachment-definitions.k8s.cni.cncf.io", "--timeout=60s")
	c.MustKubectl(t, "apply", "--validate=strict", "-f", "deploy/kubernetes/multus.yaml")
	config := c.MustKubectl(t, "--namespace=kube-system", "get", "net-attach-def", "airgap", "-o", "jsonpath={.spec.config}")

	t.Run("default network", func(t *testing.T) {
		pod := newSandbox(t, "default")
		result := pod.add(t, config, "eth0")
		pod.wantLo(t, result)
		if len(result.IPs) != 1 {
			t.Fatalf("IPs %v, want one placeholder", result.IPs)
		}
		if ip, _ := netip.AddrFromSlice(result.IPs[0].Address.IP); !placeholders.Contains(ip) || result.IPs[0].Interface != nil {
			t.Errorf("IPs %v, want one of %s that is on no interface", result.IPs, placeholders)
		}
		if got, want := pod.links(t), []string{"lo"}; !slices.Equal(got, want) {
			t.Errorf("the namespace holds %q, want %q", got, want)
		}
		pod.check(t, config, "eth0")
		pod.del(t, config, "eth0")
	})
	t.Run("secondary", func(t *testing.T) {
		pod := newSandbox(t, "secondary")
		bridge := c.run(t, "cat", "/etc/cni/net.d/10-bridge.conflist")
		pod.add(t, bridge, "eth0")

		// A pod that has a network does not become hermetic by a second one: it is refused.
		_, err := pod.tryAdd(config, "net1")
		var refused *cni.Error
		if !errors.As(err, &refused) || refused.Code != 100 || !strings.Contains(err.Error(), "eth0") {
			t.Errorf("as a secondary network beside eth0: %v; want code 100 that names eth0", err)
		}
		pod.del(t, config, "net1")

		shared := strings.Replace(config, `"type": "none",`, `"type": "none", "exclusive": false,`, 1)
		pod.wantLo(t, pod.add(t, shared, "net1"))
		if got, want := pod.links(t), []string{"lo", "eth0"}; !slices.Equal(got, want) {
			t.Errorf("the namespace holds %q, want %q", got, want)
		}
		pod.check(t, shared, "net1")
		pod.del(t, shared, "net1")
		if got, want := pod.links(t), []string{"lo", "eth0"}; !slices.Equal(got, want) {
			t.Errorf("after DEL the namespace holds %q, want %q", got, want)
		}
		pod.del(t, bridge, "eth0")
	})
}

// sandbox is a namespace that the CNI library is asked to attach to.
type sandbox struct {
	id  string
	ns  *nstest.NS
	cni *libcni.CNIConfig
}

func newSandbox(t *testing.T, name string) *sandbox {
	// The cache is where Multus has it.
	return &sandbox{name, nstest.New(t), libcni.NewCNIConfigWithCacheDir([]string{cniBin}, "/var/lib/cni/multus", nil)}
}

func (s *sandbox) conf(config, ifname string) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := libcni.ConfListFromBytes([]byte(config))
	return list, &libcni.RuntimeConf{
		ContainerID: s.id, NetNS: s.ns.Path, IfName: ifname,
		Args: [][2]string{
			{"IgnoreUnknown", "true"},
			{"K8S_POD_NAMESPACE", "default"},
			{"K8S_POD_NAME", s.id},
			{"K8S_POD_INFRA_CONTAINER_ID", s.id},
			{"K8S_POD_UID", "00000000-0000-0000-0000-000000000000"},
		},
	}, err
}

func (s *sandbox) tryAdd(config, ifname string) (*types100.Result, error) {
	list, rt, err := s.conf(config, ifname)
	if err != nil {
		return nil, err
	}
	result, err := s.cni.AddNetworkList(context.Background(), list, rt)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(result)
}

func (s *sandbox) add(t *testing.T, config, ifname string) *types100.Result {
	t.Helper()
	result, err := s.tryAdd(config, ifname)
	if err != nil {
		t.Fatalf("ADD %s: %v", ifname, err)
	}
	return result
}

func (s *sandbox) check(t *testing.T, config, ifname string) {
	t.Helper()
	list, rt, err := s.conf(config, ifname)
	if err == nil {
		err = s.cni.CheckNetworkList(context.Background(), list, rt)
	}
	if err != nil {
		t.Errorf("CHECK %s: %v", ifname, err)
	}
}

// del is called twice: the second time the library has no result in its cache
// any more, as when kubelet asks again.
func (s *sandbox) del(t *testing.T, config, ifname string) {
	t.Helper()
	for range 2 {
		list, rt, err := s.conf(config, ifname)
		if err == nil {
			err = s.cni.DelNetworkList(context.Background(), list, rt)
		}
		if err != nil {
			t.Errorf("DEL %s: %v", ifname, err)
		}
	}
}

// wantLo: without an interface that has a sandbox, Multus writes no network-status.
func (s *sandbox) wantLo(t *testing.T, result *types100.Result) {
	t.Helper()
	if len(result.Interfaces) != 1 || result.Interfaces[0].Name != "lo" || result.Interfaces[0].Sandbox != s.ns.Path {
		got, _ := json.Marshal(result)
		t.Errorf("the result is %s, want lo in %s", got, s.ns.Path)
	}
}

func (s *sandbox) links(t *testing.T) []string {
	t.Helper()
	survey, err := loopback.Inspect(s.ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, link := range survey.Links {
		names = append(names, link.Name)
	}
	return names
}
