package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/cni-none/cni-none/pkg/loopback"
)

// result says that there is lo, and no address but the placeholders, as all
// versions from 0.3.0 write it. The types of the cni module are not used: a
// conversion there leaks mtu into 1.0.0 and takes three passes. Nor is a struct:
// encoding/json would build encoders for it in every process, a twentieth of an ADD.
func (c *call) result(conf *config, lo *loopback.Link) []byte {
	mtu := ""
	if c.cniVersion == "1.1.0" {
		mtu = `,"mtu":` + strconv.Itoa(lo.MTU) // bytes
	}
	// No "interface": a placeholder is on none. containerd takes such an address
	// for the sandbox's.
	var ips []string
	for _, p := range conf.placeholders {
		address, version := p.address(c.getenv("CNI_CONTAINERID")), ""
		switch {
		case c.cniVersion[0] != '0':
		case address.Addr().Is4():
			version = `"version":"4",`
		default:
			version = `"version":"6",`
		}
		ips = append(ips, "{"+version+`"address":`+text(address.String())+"}")
	}
	rest := ""
	if len(ips) > 0 {
		rest += `,"ips":[` + strings.Join(ips, ",") + "]"
	}
	if !conf.dns.IsEmpty() {
		rest += `,"dns":` + text(conf.dns)
	}
	return []byte(`{"cniVersion":` + text(c.cniVersion) + `,"interfaces":[{"name":` + text(lo.Name) +
		`,"mac":` + text(lo.MAC.String()) + mtu + `,"sandbox":` + text(c.getenv("CNI_NETNS")) + "}]" + rest + "}\n")
}

// text is v in JSON, without a newline.
func text(v any) string { return strings.TrimSuffix(string(encode(v)), "\n") }

// validResult refuses what would make a reader of the result crash: a result of
// another version, nulls in its lists, an index that points nowhere.
func validResult(cniVersion string, raw json.RawMessage) error {
	var r struct {
		CNIVersion string `json:"cniVersion"`
		Interfaces []*struct{}
		IPs        []*struct{ Interface *int }
		Routes     []*struct{}
	}
	if bytes.Count(raw, []byte{','}) > maxElements {
		return fmt.Errorf("it has more than %d elements", maxElements)
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
