package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cni-none/cni-none/internal/nstest"
)

// asMeter makes the test binary run a program and write down its peak memory.
const asMeter = "NONE_TEST_AS_METER"

// meterMain is a process of its own, because the kernel starts ru_maxrss of a
// program at what its parent had resident (exec_mmap, fs/exec.c).
func meterMain(program, file string) int {
	pid, err := syscall.ForkExec(program, []string{program}, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	var status syscall.WaitStatus
	var usage syscall.Rusage
	if err == nil {
		_, err = syscall.Wait4(pid, &status, 0, &usage)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(strconv.FormatInt(usage.Maxrss, 10)), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return status.ExitStatus()
}

// TestPeakMemory: no config that is small enough to be read takes much memory.
func TestPeakMemory(t *testing.T) {
	const most = 32 << 10 // KiB
	ns := nstest.New(t)
	dir := t.TempDir()
	buildPlugin(t, "../..", dir)
	plugin := filepath.Join(dir, "none")
	many := func(element string) string { // as many as there may be in a list
		return strings.TrimSuffix(strings.Repeat(element+",", maxElements/(1+strings.Count(element, ","))), ",")
	}
	full := func(element string) string { // as many as there is room for
		return strings.TrimSuffix(strings.Repeat(element+",", (maxStdin-300)/(len(element)+1)), ",")
	}
	const chained = `"exclusive": false, "prevResult": `
	for _, c := range []struct {
		command, keys string
		accepted      bool
	}{
		{"ADD", `"x": [` + full("0") + `]`, true},
		{"ADD", `"x": "` + strings.Repeat("x", maxStdin-300) + `"`, true},
		{"ADD", `"dns": {"nameservers": [` + many(`""`) + `]}`, true},
		{"ADD", chained + `{"interfaces": [` + many(`{}`) + `]}`, true},
		{"ADD", chained + `{"routes": [` + many(`{"dst": "::/0"}`) + `]}`, true},
		{"ADD", chained + `{"ips": [` + many(`{"address": "10.0.0.5/24"}`) + `]}`, true},
		{"ADD", chained + `{"x": "` + strings.Repeat("x", maxStdin-300) + `"}`, true},
		{"GC", `"cni.dev/valid-attachments": [` + many(`{"containerID": "c", "ifname": "e"}`) + `]`, true},
		{"ADD", `"placeholderIPs": [` + many(`""`) + `]`, false},
		{"ADD", chained + `{"interfaces": [` + full(`{}`) + `]}`, false},
		{"ADD", `"runtimeConfig": {"portMappings": [` + full(`[]`) + `]}`, false},
		{"ADD", `"runtimeConfig": {"bandwidth": {` + many(`"":0`) + `}}`, true},
		{"GC", `"cni.dev/valid-attachments": [` + full(`{}`) + `]`, false},
		{"DEL", full(`"a":0`), false},
		{"ADD", `"ipam": {` + full(`"a":0`) + `}`, false},
		{"ADD", `"x": ` + strings.Repeat("[", maxStdin-300), false},
	} {
		conf := strings.TrimSuffix(plainConf, "}") + ", " + c.keys + "}"
		what := c.command + " " + shorten(c.keys)
		if len(conf) > maxStdin {
			t.Fatalf("%s: %d bytes", what, len(conf))
		}
		file := filepath.Join(dir, "peak")
		cmd := exec.Command(os.Args[0], plugin, file)
		cmd.Env = []string{asMeter + "=1", "CNI_COMMAND=" + c.command, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=" + ns.Path}
		cmd.Stdin = strings.NewReader(conf)
		out, err := cmd.CombinedOutput()
		if (err == nil) != c.accepted {
			t.Errorf("%s: %v: %s", what, err, shorten(string(out)))
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		peak, err := strconv.Atoi(string(bytes.TrimSpace(b)))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%5d KiB  %s", peak, what[:min(len(what), 60)])
		if peak >= most {
			t.Errorf("%s: %d KiB", what, peak)
		}
	}
}
