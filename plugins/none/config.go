package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/cni-none/cni-none/pkg/loopback"
)

// config is a network config that ADD can honour.
type config struct {
	policy       loopback.Policy
	placeholders []placeholder
	dns          types.DNS
	prevResult   json.RawMessage // as it came; nil for none
}

// loMAC is what the kernel reports as lo's own address.
const loMAC = "00:00:00:00:00:00"

// config reads the network config and refuses, before anything is touched, what
// the none network cannot give.
func (c *call) config() (*config, error) {
	if c.conf.get("plugins") != nil {
		return nil, invalidConfig("plugins", "this is a list of plugins, and not the config of one",
			"give the plugin one entry of plugins, with the cniVersion and name of the list: cnitool and runtimes do that")
	}
	err := c.conf.requireUnambiguous("", "cniVersion", "name", "exclusive", "placeholderIPs", "ipam", "ipMasq", "runtimeConfig", "dns", "prevResult")
	if err != nil {
		return nil, err
	}
	if err := c.conf.refuseTypos("exclusive", "placeholderIPs"); err != nil {
		return nil, err
	}
	var name string
	if err := c.conf.decode("name", &name); err != nil {
		return nil, err
	}
	if name == "" || badInName(name) >= 0 {
		return nil, invalidConfig("name", quoteValue(name)+" is not a letter or digit followed by letters, digits, '_', '.' and '-'", "give the network a name, for instance airgap")
	}
	conf := config{prevResult: c.conf.get("prevResult")}
	exclusive := true
	if err := c.conf.decode("exclusive", &exclusive); err != nil {
		return nil, err
	}
	if !exclusive {
		conf.policy = loopback.Shared
	}
	if err := c.conf.decode("dns", &conf.dns); err != nil {
		return nil, err
	}
	if conf.placeholders, err = c.placeholders(); err != nil {
		return nil, err
	}
	if err := c.refuseIPAM(); err != nil {
		return nil, err
	}
	if err := c.refuseRuntimeConfig(); err != nil {
		return nil, err
	}
	return &conf, nil
}

func (c *call) refuseIPAM() error {
	ipam, err := c.conf.decodeObject("ipam")
	if err != nil {
		return err
	}
	if err := ipam.requireUnambiguous("ipam.", "type"); err != nil {
		return err
	}
	var kind string
	if err := ipam.decodeAs("ipam.type", "type", &kind); err != nil {
		return err
	}
	if kind != "" {
		return cannotHonour("ipam.type", fmt.Sprintf("%q", kind), "a container on this network has no address to manage", "remove ipam")
	}
	masquerade := false
	if err := c.conf.decode("ipMasq", &masquerade); err != nil {
		return err
	}
	if masquerade {
		return cannotHonour("ipMasq", "true", "there is no traffic to masquerade", "remove ipMasq")
	}
	return nil
}

// refuseRuntimeConfig refuses what a user asked the runtime for (a published
// port, a fixed address) and the runtime passed on.
func (c *call) refuseRuntimeConfig() error {
	rc, err := c.conf.decodeObject("runtimeConfig")
	if err != nil {
		return err
	}
	asked := []struct{ key, why, remedy string }{
		{"portMappings", "a container on this network cannot be reached", "publish no port, or use another network"},
		{"ips", "a container on this network has no address", "ask for no address, or use another network"},
		{"mac", "lo has no hardware address of its own", "ask for no MAC address, or use another network"},
		{"bandwidth", "there is no traffic to shape", "ask for no bandwidth limit, or use another network"},
	}
	for _, a := range asked {
		if err := rc.requireUnambiguous("runtimeConfig.", a.key); err != nil {
			return err
		}
		if raw := rc.get(a.key); !asksForNothing(raw) {
			return cannotHonour("runtimeConfig."+a.key, string(raw), a.why, a.remedy)
		}
	}
	return nil
}

// asksForNothing says whether a value is absent, null, an empty list or string,
// zero, or an object of such: containerd and podman send those without a request.
func asksForNothing(raw json.RawMessage) bool {
	if bytes.Count(raw, []byte{','}) > maxElements {
		return false // that is a request, whatever for
	}
	var value any
	if len(raw) == 0 || json.Unmarshal(raw, &value) != nil {
		return len(raw) == 0
	}
	switch v := value.(type) {
	case []any:
		return len(v) == 0
	case map[string]any:
		for _, field := range v {
			if field != nil && field != 0.0 && field != "" && field != false {
				return false
			}
		}
		return true
	default:
		return v == nil || v == "" || v == 0.0 || v == false
	}
}

// refuseArgs refuses the addresses that podman and nerdctl pass in CNI_ARGS.
// lo's own MAC address is fine: podman network reload asks for what it was told.
func (c *call) refuseArgs() error {
	for pair := range strings.SplitSeq(c.getenv("CNI_ARGS"), ";") {
		key, value, isPair := strings.Cut(pair, "=")
		switch {
		case pair == "":
		case !isPair:
			return invalidEnv("CNI_ARGS", pair, "is not of the form KEY=VALUE",
				"write pairs with ';' between them, such as IgnoreUnknown=1;K8S_POD_NAME=web")
		case value == "":
		case strings.EqualFold(key, "IP"):
			return cannotHonour("CNI_ARGS IP", plain(value), "a container on this network has no address",
				"ask for no address (podman and nerdctl: --ip; elsewhere what sets IP), or use another network")
		case strings.EqualFold(key, "MAC") && !isLoMAC(value):
			return cannotHonour("CNI_ARGS MAC", plain(value), "lo has no hardware address of its own",
				"ask for no MAC address (podman: --mac-address; elsewhere what sets MAC), or use another network")
		}
	}
	return nil
}

func isLoMAC(s string) bool {
	mac, err := net.ParseMAC(s)
	return err == nil && mac.String() == loMAC
}
