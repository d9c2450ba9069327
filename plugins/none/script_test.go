package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cni-none/cni-none/internal/nstest"
	"github.com/cni-none/cni-none/pkg/loopback"
)

// asPlugin makes the test binary behave as the plugin does.
const asPlugin = "NONE_TEST_AS_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		main()
	}
	if os.Getenv(asNode) != "" {
		if err := nodeMain(os.Args[1], os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(asMeter) != "" {
		os.Exit(meterMain(os.Args[1], os.Args[2]))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	// A process that is built for coverage complains without it.
	if dir, err := os.MkdirTemp("", "cover"); err == nil {
		defer os.RemoveAll(dir)
		os.Setenv("GOCOVERDIR", dir)
	}
	return m.Run()
}

// caller runs the plugin once and returns its exit status.
type caller func(env map[string]string, stdin io.Reader, stdout, stderr io.Writer) int

// inProcess calls run, so that coverage sees it.
func inProcess(env map[string]string, stdin io.Reader, stdout, stderr io.Writer) int {
	return run(process{func(key string) string { return env[key] }, stdin, stdout, stderr})
}

// asProcess execs the plugin, as a runtime does.
func asProcess(env map[string]string, stdin io.Reader, stdout, stderr io.Writer) int {
	cmd := exec.Command(os.Args[0])
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	cmd.Env = []string{asPlugin + "=1", "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		panic(err)
	}
	return 0
}

// TestScripts runs testdata/script: the exec contract as a person reads it.
// Each script runs twice, in this process and as a process of its own.
//
// Commands of these scripts, beside testscript's own:
//
//	netns                      make a namespace, $NETNS, with lo down
//	[!] none CMD FILE [K=V...] call the plugin with FILE on stdin; with !, it must
//	                           exit 1 with exactly one error document
//	error CODE WORD...         that document must have CODE, and every WORD in its msg;
//	                           TestWording has the words around them
//	lo up|down ADDR...         lo in $NETNS must be in that state
//	lo whole                   lo must be up with all addresses that it should have
//	peer                       connect $NETNS to another namespace, and take the veth away again
//	nl ...                     change $NETNS, see netlinkCommand
func TestScripts(t *testing.T) {
	for name, call := range map[string]caller{"in process": inProcess, "as process": asProcess} {
		t.Run(name, func(t *testing.T) {
			nstest.New(t) // skips all of it where no namespace can be made
			testscript.Run(t, testscript.Params{
				Dir:                 "testdata/script",
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
				Condition:           condition,
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"peer": func(ts *testscript.TestScript, neg bool, args []string) { ts.Check(connectOnce(t, ts.Getenv("NETNS"))) },
					"netns": func(ts *testscript.TestScript, neg bool, args []string) {
						ts.Setenv("NETNS", nstest.New(t).Path)
					},
					"none":  func(ts *testscript.TestScript, neg bool, args []string) { noneCommand(ts, neg, args, call) },
					"error": errorCommand,
					"lo":    loCommand,
					"nl": func(ts *testscript.TestScript, neg bool, args []string) {
						ns := nstest.At(t, ts.Getenv("NETNS"))
						ts.Check(ns.Try(func() error { return netlinkCommand(args) }))
					},
				},
			})
		})
	}
}

// condition knows [tun]: this process may make tun devices, and [ipv6]: the kernel
// has it.
func condition(name string) (bool, error) {
	switch name {
	case "ipv6":
		return strings.Contains(whole, ":"), nil
	case "tun":
	default:
		return false, errors.New("unknown condition")
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		if os.Getuid() == 0 && os.Getenv("CI") != "" {
			return false, err // there, nothing is left out
		}
		return false, nil
	}
	return true, f.Close()
}

func noneCommand(ts *testscript.TestScript, neg bool, args []string, call caller) {
	if len(args) < 2 {
		ts.Fatalf("usage: [!] none COMMAND FILE [KEY=VALUE...]")
	}
	env := map[string]string{"CNI_COMMAND": args[0], "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": ts.Getenv("NETNS")}
	for _, pair := range args[2:] {
		key, value, _ := strings.Cut(pair, "=")
		env[key] = value
	}
	stdin, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	var stdout, stderr bytes.Buffer
	status := call(env, bytes.NewReader(stdin), &stdout, &stderr)
	ts.Check(errors.Join(write(ts.Stdout(), stdout), write(ts.Stderr(), stderr)))
	switch {
	case neg && status != 1:
		ts.Fatalf("exit status %d, want 1\n%s%s", status, &stdout, &stderr)
	case neg:
		ts.Check(isErrorDocument(stdout.Bytes()))
	case status != 0:
		ts.Fatalf("exit status %d, want 0\n%s%s", status, &stdout, &stderr)
	}
}

func write(w io.Writer, b bytes.Buffer) error {
	_, err := w.Write(b.Bytes())
	return err
}

// isErrorDocument says whether b is one CNI error and nothing else.
func isErrorDocument(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var doc struct {
		CNIVersion string
		Code       uint
		Msg        string
		Details    string
	}
	if err := d.Decode(&doc); err != nil {
		return fmt.Errorf("not an error document: %w: %s", err, b)
	}
	if !slices.Contains(supported.SupportedVersions(), doc.CNIVersion) || doc.Code == 0 || doc.Msg == "" {
		return fmt.Errorf("not a complete error document: %s", b)
	}
	if d.More() {
		return fmt.Errorf("more than one document: %s", b)
	}
	return nil
}

// errorCommand checks what is the same whatever words are chosen around it, and
// in whatever order the kernel lists interfaces.
func errorCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: error CODE [WORD...]")
	}
	var doc struct {
		Code int
		Msg  string
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &doc))
	if strconv.Itoa(doc.Code) != args[0] {
		ts.Fatalf("code %d, want %s: %s", doc.Code, args[0], doc.Msg)
	}
	for _, word := range args[1:] {
		if !strings.Contains(doc.Msg, word) {
			ts.Fatalf("no %q in %q", word, doc.Msg)
		}
	}
}

// whole is lo as ADD leaves it, on this machine's kernel.
var whole = func() string {
	if _, err := os.Stat("/proc/sys/net/ipv6"); errors.Is(err, fs.ErrNotExist) {
		return "up 127.0.0.1/8"
	}
	return "up 127.0.0.1/8 ::1/128"
}()

func loCommand(ts *testscript.TestScript, neg bool, args []string) {
	got, want := describeLo(ts.Getenv("NETNS")), strings.Join(args, " ")
	if want == "whole" {
		want = whole
	}
	if (got == want) == neg {
		ts.Fatalf("lo is %q, want %q (negated: %v)", got, want, neg)
	}
}

// describeLo says what lo looks like in a namespace: "up 127.0.0.1/8 ::1/128".
func describeLo(netns string) string {
	s, err := loopback.Inspect(netns)
	if err != nil {
		return err.Error()
	}
	words := []string{"down"}
	if s.Lo().Up {
		words[0] = "up"
	}
	for _, a := range s.Lo().Addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}
