package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/cni-none/cni-none/pkg/loopback"
)

// result is a CNI result as all versions from 0.3.0 write it. The types of the
// cni module are not used: a conversion there leaks mtu into 1.0.0 and takes
// three passes.
type result struct {
	CNIVersion string      `json:"cniVersion"`
	Interfaces []iface     `json:"interfaces"`
	IPs        []ipAddress `json:"ips,omitempty"`
	DNS        *types.DNS  `json:"dns,omitempty"`
}

type iface struct {
	Name    string `json:"name"`
	MAC     string `json:"mac"`
	MTU     int    `json:"mtu,omitempty"` // bytes; from 1.1.0
	Sandbox string `json:"sandbox"`
}

type ipAddress struct {
	Version string `json:"version,omitempty"` // "4" or "6"; until 0.4.0
	Address string `json:"address"`
	// No "interface": the address is on none. containerd takes such an address
	// for the sandbox's.
}

// result says that there is lo, and no address but the placeholders.
func (c *call) result(conf *config, lo *loopback.Link) []byte {
	r := result{
		CNIVersion: c.cniVersion,
		Interfaces: []iface{{Name: lo.Name, MAC: lo.MAC.String(), Sandbox: c.getenv("CNI_NETNS")}},
	}
	if c.cniVersion == "1.1.0" {
		r.Interfaces[0].MTU = lo.MTU
	}
	for _, p := range conf.placeholders {
		address := p.address(c.getenv("CNI_CONTAINERID"))
		ip := ipAddress{Address: address.String()}
		if c.cniVersion[0] == '0' {
			ip.Version = "6"
			if address.Addr().Is4() {
				ip.Version = "4"
			}
		}
		r.IPs = append(r.IPs, ip)
	}
	if !conf.dns.IsEmpty() {
		r.DNS = &conf.dns
	}
	return encode(r)
}

// validResult refuses what would make a reader of the result crash: a result of
// another version, nulls in its lists, an index that points nowhere.
func validResult(cniVersion string, raw json.RawMessage) error {
	var r struct {
		CNIVersion string `json:"cniVersion"`
		Interfaces []*struct{}
		IPs        []*struct{ Interface *int }
		Routes     []*struct{}
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return errors.New("it has other types than a result")
	}
	// Before 1.0.0 a result need not say its version: the config's counts.
	if r.CNIVersion != "" && r.CNIVersion != cniVersion {
		return fmt.Errorf("its cniVersion is %q", r.CNIVersion)
	}
	for i, v := range r.Interfaces {
		if v == nil {
			return fmt.Errorf("interfaces[%d] is null", i)
		}
	}
	for i, v := range r.Routes {
		if v == nil {
			return fmt.Errorf("routes[%d] is null", i)
		}
	}
	for i, v := range r.IPs {
		if v == nil {
			return fmt.Errorf("ips[%d] is null", i)
		}
		if v.Interface != nil && (*v.Interface < 0 || *v.Interface >= len(r.Interfaces)) {
			return fmt.Errorf("ips[%d].interface is %d, and there are %d interfaces", i, *v.Interface, len(r.Interfaces))
		}
	}
	var typed any = &types100.Result{}
	if cniVersion[0] == '0' {
		typed = &types040.Result{}
	}
	return json.Unmarshal(raw, typed)
}
