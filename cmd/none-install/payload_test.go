package main

import (
	"strings"
	"testing"

	"github.com/cni-none/cni-none/conf"
)

// TestNetworks: the shipped config passes, with another placeholder too; what gives
// a pod a network, or no address to report, does not.
func TestNetworks(t *testing.T) {
	other, err := withPlaceholder("192.0.0.8")
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(string(conf.AirgapCRI), "100:0:0:1::/64", "192.0.0.8", 1); string(other) != want || want == string(conf.AirgapCRI) {
		t.Errorf("with another placeholder the config is\n%s", other)
	}
	for text, says := range map[string]string{
		string(conf.AirgapCRI): "", string(other): "",
		string(conf.Airgap):                     "reports no address",
		`[]`:                                    "no CNI config list",
		`{"plugins": []}`:                       "no other",
		`{"type": "none"}`:                      "no other",
		`{"plugins": [{"type": "bridge"}]}`:     "bridge",
		`{"plugins": [{"type": "none"}, null]}`: "no other",
		`{"plugins": [{"type": "none", "placeholderIPs": ["192.0.0.8"]}, {"type": "portmap"}]}`: "portmap",
	} {
		if _, err := checkNetwork([]byte(text)); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
	if remembered(conf.AirgapCRI) != "" || remembered(other) != string(other) {
		t.Error("what is remembered is not what differs from the built-in config")
	}
}
