package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
	"github.com/cni-none/cni-none/pkg/loopback"
)

// TestWording compares what is said with testdata/wording.txt, each message once:
// code, message, and what to do. The scripts only look at codes and keys.
// go test -run Wording -update ./plugins/none writes it anew.
func TestWording(t *testing.T) {
	ns := nstest.New(t)
	var got bytes.Buffer
	say := func(what string, document []byte) {
		if err := isErrorDocument(document); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var e struct {
			Code         int
			Msg, Details string
		}
		if err := json.Unmarshal(document, &e); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "%s\n  %d %s\n  -> %s\n", what, e.Code, e.Msg, e.Details)
	}
	for _, c := range []struct{ command, keys, env string }{
		{"add", ``, ""},
		{"HELP", ``, ""},
		{"ADD", ``, "CNI_CONTAINERID="},
		{"ADD", ``, "CNI_CONTAINERID=a/b"},
		{"ADD", ``, "CNI_CONTAINERID=-a"},
		{"ADD", ``, "CNI_IFNAME="},
		{"CHECK", ``, "CNI_NETNS="},
		{"ADD", ``, "CNI_NETNS=100"},
		{"ADD", ``, "CNI_NETNS=/dev/null"},
		{"ADD", ``, "CNI_NETNS=/proc/self/ns/uts"},
		{"ADD", ``, "CNI_NETNS=/proc/self/ns/net"},
		{"ADD", ``, "CNI_ARGS=IP"},
		{"ADD", ``, "CNI_ARGS=IP=10.0.0.1"},
		{"ADD", ``, "CNI_ARGS=MAC=02:00:00:00:00:01"},
		{"ADD", `"name": 5`, ""},
		{"ADD", `"name": "-"`, ""},
		{"ADD", `"name": ""`, ""},
		{"ADD", `"plugins": [{"type": "none"}]`, ""},
		{"ADD", `"exlusive": false`, ""},
		{"ADD", `"Exclusive": false`, ""},
		{"ADD", `"exclusive": true, "exclusive": false`, ""},
		{"ADD", `"exclusive": "no"`, ""},
		{"ADD", `"placeholderIP": ["192.0.0.8"]`, ""},
		{"ADD", `"placeholderIPs": ["10.0.0.1"]`, ""},
		{"ADD", `"placeholderIPs": ["192.0.2.0/24"]`, ""},
		{"ADD", `"placeholderIPs": ["100:0:0:1::5/64"]`, ""},
		{"ADD", `"placeholderIPs": ["none"]`, ""},
		{"ADD", `"placeholderIPs": ["192.0.0.8", "192.0.2.1"]`, ""},
		{"ADD", `"placeholderIPs": ["192.0.0.8"], "exclusive": false, "prevResult": {}`, ""},
		{"ADD", `"ipam": {"type": "host-local"}`, ""},
		{"ADD", `"ipam": 1`, ""},
		{"ADD", `"ipMasq": true`, ""},
		{"ADD", `"runtimeConfig": {"portMappings": [{"hostPort": 80}]}`, ""},
		{"ADD", `"runtimeConfig": {"ips": ["10.0.0.1"]}`, ""},
		{"ADD", `"runtimeConfig": {"mac": "02:00:00:00:00:01"}`, ""},
		{"ADD", `"runtimeConfig": {"bandwidth": {"ingressRate": 1}}`, ""},
		{"ADD", `"prevResult": {}`, ""},
		{"ADD", `"cniVersion": "1.0.0", "exclusive": false, "prevResult": {"ips": [null]}`, ""},
		{"ADD", `"placeholderIPs": [` + strings.Repeat("0,", maxElements+1) + `0]`, ""},
		{"GC", `"cni.dev/valid-attachments": "all"`, ""},
		{"ADD", `"cniVersion": "0.2.0"`, ""},
		{"ADD", `"cniVersion": ""`, ""},
		{"CHECK", `"cniVersion": "0.3.1"`, ""},
	} {
		what := strings.TrimSpace(c.command + " " + shorten(c.keys) + " " + c.env)
		say(what, refusal(t, ns.Path, c.command, c.keys, c.env))
	}
	for _, c := range []struct {
		what string
		err  error
	}{
		{"an interface", &loopback.Findings{Extra: []loopback.Link{{Name: "eth0", Kind: "veth"}}, Down: true}},
		{"an id", &loopback.Findings{NSIDs: []int32{0}}},
		{"an XDP program", &loopback.Findings{XDP: true}},
		{"an address on lo", &loopback.Findings{NonLoopback: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}}},
		{"no lo", &loopback.Findings{LoMissing: true}},
		{"another name", &loopback.Findings{Name: "eth0"}},
		{"lo down", &loopback.Findings{Down: true, Missing: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}}},
		{"an address of lo gone", &loopback.Findings{Missing: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}}},
		{"process 1", fmt.Errorf("%w: /x is that of process 1, the node's", loopback.ErrHost)},
		{"the first", fmt.Errorf("%w: /x is the machine's first", loopback.ErrHost)},
		{"a change", fmt.Errorf("%w: and why", loopback.ErrChanging)},
		{"no answer", &loopback.OpError{Op: "list interfaces", Path: "/x", Err: os.ErrDeadlineExceeded}},
		{"no permission to open", &loopback.OpError{Op: "open", Path: "/x", Err: unix.EACCES}},
		{"no permission to enter", &loopback.OpError{Op: "setns", Path: "/x", Err: unix.EPERM}},
		{"another refusal", &loopback.OpError{Op: "open", Path: "/x", Err: unix.ELOOP}},
		{"what was not thought of", errors.New("odd")},
	} {
		say(c.what, errorDocument("1.1.0", c.err))
	}
	for _, c := range []struct {
		what  string
		stdin io.Reader
	}{
		{"empty stdin", strings.NewReader("")},
		{"a list on stdin", strings.NewReader("[]")},
		{"half a config", strings.NewReader(plainConf[:20])},
		{"two configs", strings.NewReader(plainConf + plainConf)},
		{"a large config", strings.NewReader(strings.Repeat(" ", maxStdin+1))},
		{"many keys", strings.NewReader("{" + strings.Repeat(`"a":0,`, maxKeys+1) + `"b":0}`)},
		{"stdin fails", brokenReader{}},
	} {
		var stdout bytes.Buffer
		inProcess(addEnv(ns.Path), c.stdin, &stdout, io.Discard)
		say(c.what, stdout.Bytes())
	}
	var late failsOnce
	inProcess(map[string]string{"CNI_COMMAND": "VERSION"}, strings.NewReader(""), &late, io.Discard)
	say("stdout fails once", late.Bytes())
	onDoomedThread(func() {
		var none [2]unix.CapUserData
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			t.Error(err)
		}
		say("STATUS without capabilities", refusal(t, ns.Path, "STATUS", "", ""))
	})
	var bug bytes.Buffer
	run(process{func(key string) string {
		if key == "CNI_NETNS" {
			panic("oh")
		}
		return addEnv("")[key]
	}, strings.NewReader(plainConf), &bug, io.Discard})
	say("a panic", bug.Bytes())
	compareGolden(t, "testdata/wording.txt", got.Bytes())
}

// failsOnce fails the first time, as a full disk may.
type failsOnce struct {
	bytes.Buffer
	failed bool
}

func (f *failsOnce) Write(b []byte) (int, error) {
	if !f.failed {
		f.failed = true
		return 0, unix.ENOSPC
	}
	return f.Buffer.Write(b)
}

// refusal calls the plugin with a good config and environment but for keys and env.
func refusal(t *testing.T, netns, command, keys, env string) []byte {
	t.Helper()
	vars := addEnv(netns)
	vars["CNI_COMMAND"] = command
	if key, value, ok := strings.Cut(env, "="); ok {
		vars[key] = value
	}
	conf := strings.TrimSuffix(plainConf, "}") + ", " + keys + "}"
	for _, key := range []string{"name", "cniVersion"} {
		if strings.HasPrefix(keys, `"`+key+`"`) {
			conf = `{"` + map[string]string{"name": "cniVersion", "cniVersion": "name"}[key] + `": "1.1.0", ` + keys + "}"
		}
	}
	if keys == "" {
		conf = plainConf
	}
	var stdout bytes.Buffer
	if status := inProcess(vars, strings.NewReader(conf), &stdout, io.Discard); status != 1 {
		t.Fatalf("%s with %s and %s: exit status %d: %s", command, conf, env, status, &stdout)
	}
	return stdout.Bytes()
}

// compareGolden compares line by line.
func compareGolden(t *testing.T, golden string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(string(b), "\n")
	for i, line := range strings.Split(string(got), "\n") {
		if i >= len(want) || line != want[i] {
			t.Fatalf("%s:%d: got %q", golden, i+1, line)
		}
	}
	if len(want) > strings.Count(string(got), "\n")+1 {
		t.Errorf("%s has more lines", golden)
	}
}

// TestErrorDocumentsAreShort: whatever is in a message, there is little of it.
func TestErrorDocumentsAreShort(t *testing.T) {
	ns := nstest.New(t)
	for name, long := range map[string]string{
		"letters": strings.Repeat("x", 100_000), "quotes": strings.Repeat(`"\`, 50_000),
		"control characters": strings.Repeat("\x01", 100_000), "not UTF-8": strings.Repeat("\xff", 100_000),
	} {
		text := string(encode(long))
		documents := map[string][]byte{
			"an error of its own": errorDocument("1.1.0", errors.New(long)),
			"placeholderIPs":      refusal(t, ns.Path, "ADD", `"placeholderIPs": [`+text+`]`, ""),
			"exclusive":           refusal(t, ns.Path, "ADD", `"exclusive": `+text, ""),
			"prevResult":          refusal(t, ns.Path, "ADD", `"exclusive": false, "prevResult": {"ips": [{"address": `+text+`}]}`, ""),
			"ipam":                refusal(t, ns.Path, "ADD", `"ipam": {"type": `+text+`}`, ""),
			"portMappings":        refusal(t, ns.Path, "ADD", `"runtimeConfig": {"portMappings": [`+text+`]}`, ""),
			"cniVersion":          refusal(t, ns.Path, "ADD", `"cniVersion": `+text, ""),
		}
		for _, env := range []string{"CNI_COMMAND", "CNI_NETNS", "CNI_CONTAINERID", "CNI_ARGS"} {
			documents[env] = refusal(t, ns.Path, "ADD", "", env+"=/"+long)
		}
		for what, document := range documents {
			if len(document) > 4<<10 { // what reference.md promises
				t.Errorf("%s of %s: %d bytes", what, name, len(document))
			}
			if err := isErrorDocument(document); err != nil {
				t.Errorf("%s of %s: %v", what, name, err)
			}
		}
	}
}

func TestOneEdit(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"exlusive", "exclusive", true}, {"exclusives", "exclusive", true}, {"exclusivo", "exclusive", true}, {"excluisve", "exclusive", true},
		{"xclusive", "exclusive", true}, {"exclusive", "exclusive", false}, {"exclu", "exclusive", false}, {"inclusive", "exclusive", false},
		{"", "e", true}, {"", "", false}, {"ab", "ba", true}, {"abc", "cba", false}, {"", "exclusive", false},
	} {
		if oneEdit(c.a, c.b) != c.want || oneEdit(c.b, c.a) != c.want {
			t.Errorf("oneEdit(%q, %q) is not %v", c.a, c.b, c.want)
		}
	}
}

// TestErrorsPage: docs/reference.md gives what is said, with its code. In the page
// ... and words in capitals stand for what differs.
func TestErrorsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile("testdata/wording.txt")
	if err != nil {
		t.Fatal(err)
	}
	varies := regexp.MustCompile(`\\\.\\\.\\\.|\b(PATH|KEY|VALUE)\b|"Key"`)
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 {
			continue
		}
		code := strings.TrimSpace(cells[1])
		if _, err := strconv.Atoi(code); err != nil {
			continue
		}
		rows++
		for _, quoted := range regexp.MustCompile("`[^`]+`").FindAllString(cells[2], -1) {
			message := varies.ReplaceAllString(regexp.QuoteMeta(strings.Trim(quoted, "`")), ".*")
			if !regexp.MustCompile(`(?m)^  ` + code + ` .*` + message).Match(said) {
				t.Errorf("error %s is never %s", code, quoted)
			}
		}
	}
	if rows < 30 {
		t.Errorf("%d rows: the page has another form than this test knows", rows)
	}
}
