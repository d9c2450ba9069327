package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/cni-none/cni-none/internal/nstest"
)

var update = flag.Bool("update", false, "rewrite testdata/versions.txt")

// versionsTested is every version a config may claim; "missing" leaves it out.
var versionsTested = []string{"missing", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.2.0", "1.1", "garbage"}

// TestVersions compares every version x every command with testdata/versions.txt:
// exit status and exact stdout. A call that is refused leaves the namespace as it was.
func TestVersions(t *testing.T) {
	var got bytes.Buffer
	for _, v := range versionsTested {
		for _, command := range []string{"ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"} {
			ns := nstest.New(t)
			if command == "CHECK" {
				ns.Do(func() error { return netlinkCommand([]string{"lo", "up"}) })
			}
			before := describeLo(ns.Path)
			conf := fmt.Sprintf(`{"cniVersion": %q, "name": "airgap", "placeholderIPs": ["192.0.0.8", "100::5"]}`, v)
			if v == "missing" {
				conf = `{"name": "airgap"}`
			}
			env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": ns.Path}
			var stdout, stderr bytes.Buffer
			status := asProcess(env, strings.NewReader(conf), &stdout, &stderr)
			fmt.Fprintf(&got, "%s %s %d %s\n", v, command, status, strings.ReplaceAll(strings.TrimSuffix(stdout.String(), "\n"), ns.Path, "$NETNS"))
			if stderr.Len() > 0 {
				t.Errorf("%s %s: stderr: %s", v, command, &stderr)
			}
			after, wantAfter := describeLo(ns.Path), before
			if command == "ADD" && status == 0 {
				wantAfter = whole
			}
			if after != wantAfter {
				t.Errorf("%s %s: lo is %q, want %q", v, command, after, wantAfter)
			}
			if status != 0 {
				if err := isErrorDocument(stdout.Bytes()); err != nil {
					t.Errorf("%s %s: %v", v, command, err)
				}
			} else if command == "ADD" {
				checkSchema(t, v, stdout.Bytes())
			}
		}
	}
	const golden = "testdata/versions.txt"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	wantLines := bufio.NewScanner(bytes.NewReader(want))
	for line := range strings.Lines(got.String()) {
		if !wantLines.Scan() || wantLines.Text()+"\n" != line {
			t.Errorf("got  %swant %s", line, wantLines.Text())
		}
	}
	if wantLines.Scan() {
		t.Errorf("missing: %s", wantLines.Text())
	}
}

// checkSchema reads a result as the cni module would and holds it against the
// schema of its version.
func checkSchema(t *testing.T, v string, stdout []byte) {
	t.Helper()
	parsed, err := version.NewResult(v, stdout)
	if err != nil {
		t.Errorf("%s: %v", v, err)
		return
	}
	switch r := parsed.(type) {
	case *types040.Result:
		if len(r.IPs) != 2 || r.IPs[0].Version != "4" || r.IPs[1].Version != "6" {
			t.Errorf("%s: ips: %v", v, r.IPs)
		}
		if bytes.Contains(stdout, []byte("mtu")) {
			t.Errorf("%s has no mtu: %s", v, stdout)
		}
	case *types100.Result:
		if bytes.Contains(stdout, []byte(`"version"`)) {
			t.Errorf("%s has no ips[].version: %s", v, stdout)
		}
		if hasMTU := r.Interfaces[0].Mtu == 65536; hasMTU != (v == "1.1.0") {
			t.Errorf("%s: mtu is %d", v, r.Interfaces[0].Mtu)
		}
	default:
		t.Errorf("%s: %T", v, parsed)
	}
}
