package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/pkg/loopback"
)

// FuzzConfig feeds stdin. Whatever comes, there is a result or one error
// document, and CNI_NETNS, which names nothing, is not got past.
func FuzzConfig(f *testing.F) {
	for _, conf := range []string{
		plainConf, ``, `null`, `{}`, `[]`, `{"cniVersion":"1.0.0","name":null}`,
		`{"cniVersion":"1.0.0","name":"a","exclusive":false,"placeholderIPs":["192.0.0.8","100:0:0:1::/64"]}`,
		`{"cniVersion":"1.0.0","name":"a","placeholderIPs":[null,"::/0","1/33","%"]}`,
		`{"cniVersion":"1.0.0","name":"a","runtimeConfig":{"portMappings":[{}],"ips":[],"mac":"","bandwidth":{"ingressRate":0}}}`,
		`{"cniVersion":"1.0.0","name":"a","runtimeConfig":null,"ipam":{"type":null},"ipMasq":null,"dns":{"nameservers":[null]}}`,
		`{"cniVersion":"0.3.1","name":"a","ipam":{"type":"x","Type":"y"},"Name":"b"}`,
		`{"cniVersion":"1.1.0","name":"a","cni.dev/valid-attachments":[null,{"containerID":1}]}`,
		`{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"none"}]}`, `{"cniVersion":"1.0.0","name":"a","plugins":null}`,
		`{"cniVersion":"1.0.0","name":"a","exlusive":false,"placeholderIP":["192.0.0.8"]}`, `{"cniVersion":"1.0.0","name":"a","":1,"e":2,"EXCLUSIVEE":3}`,
	} {
		for _, command := range []string{"ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION"} {
			f.Add(command, conf, "IgnoreUnknown=1;MAC=00:00:00:00:00:00")
			f.Add(command, conf, "IP=\xff"+strings.Repeat("x", 300))
		}
	}
	f.Fuzz(func(t *testing.T, command, conf, args string) {
		env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/nowhere", "CNI_ARGS": args}
		var stdout bytes.Buffer
		status := inProcess(env, strings.NewReader(conf), &stdout, io.Discard)
		checkAnswer(t, command, status, stdout.Bytes())
		if (command == "ADD" || command == "CHECK") && status == 0 {
			t.Errorf("%s succeeded in no namespace", command)
		}
		if strings.Contains(stdout.String(), "bug in cni-none") {
			t.Error(stdout.String())
		}
	})
}

// FuzzPrevResult feeds prevResult. It is refused, or passed on to the byte.
func FuzzPrevResult(f *testing.F) {
	for _, prev := range []string{
		`{}`, `null`, `[]`, `{"interfaces":[null]}`, `{"ips":[null]}`, `{"routes":[null]}`,
		`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}],"ips":[{"interface":0,"address":"10.0.0.5/24"}],"x":{"y":[1,null]}}`,
		`{"ips":[{"interface":-1,"address":"10.0.0.5/24"}]}`, `{"ips":[{"interface":9223372036854775807,"address":"10.0.0.5/24"}]}`,
		`{"ips":[{"version":"4","address":"10.0.0.5/24","gateway":"x"}]}`, `{"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"}]}`,
		`{"dns":{"nameservers":[null]}}`, `{"interfaces":{"0":{}}}`,
	} {
		f.Add("0.4.0", prev)
		f.Add("1.1.0", prev)
	}
	f.Fuzz(func(t *testing.T, cniVersion, prev string) {
		if !json.Valid([]byte(prev)) {
			return
		}
		c := call{cniVersion: cniVersion}
		if cniVersion == "" {
			return
		}
		conf := config{policy: loopback.Shared, prevResult: json.RawMessage(prev)}
		err := c.checkPrevResult(&conf)
		if err == nil && conf.prevResult != nil && string(conf.prevResult) != prev {
			t.Errorf("changed to %s", conf.prevResult)
		}
		if err != nil {
			checkAnswer(t, "ADD", 1, errorDocument("1.0.0", err))
		}
	})
}

// checkAnswer wants a result xor an error, and one document at most.
func checkAnswer(t *testing.T, command string, status int, stdout []byte) {
	t.Helper()
	switch {
	case status == 1:
		if err := isErrorDocument(stdout); err != nil {
			t.Error(err)
		}
	case status != 0:
		t.Errorf("exit status %d", status)
	case command == "VERSION":
		if !json.Valid(stdout) {
			t.Errorf("VERSION: %s", stdout)
		}
	case len(stdout) > 0:
		t.Errorf("%s: %s", command, stdout)
	}
}
