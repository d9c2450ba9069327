// Package docker compares the plugin with what it is modelled on: the same
// image under `docker run --network none`, and on the plugin's network under
// podman and containerd, looked at from inside.
//
// docs/parity.md lists every difference with its reason. A difference that it
// does not list fails the test, and so does a row that is not a difference.
package docker

import (
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/podmantest"
)

func TestMain(m *testing.M) {
	// Debian's docker, where another one is installed as well.
	os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:"+os.Getenv("PATH"))
	podmantest.Main(m)
}

const image = "localhost/busybox:latest"

// setUp starts Debian's containerd and dockerd and gives both, and podman, the same image.
func setUp(t *testing.T) {
	t.Helper()
	podmantest.Podman(t)
	daemon(t, "containerd")
	harness.Until(t, "containerd answers", func() bool { return exec.Command("ctr", "version").Run() == nil })
	// The bridge and the firewall are not what is compared here.
	daemon(t, "dockerd", "--iptables=false", "--bridge=none")
	harness.Until(t, "dockerd answers", func() bool { return exec.Command("docker", "version").Run() == nil })

	archive := filepath.Join(t.TempDir(), "busybox.tar")
	podmantest.Run(t, "podman", "save", "--quiet", "--output", archive, image)
	podmantest.Run(t, "docker", "load", "--input", archive)
	podmantest.Run(t, "ctr", "image", "import", archive)
}

// daemon starts a daemon and ends it with the test.
func daemon(t *testing.T, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		log.Close()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			for line := range strings.Lines(string(b)) {
				if strings.Contains(line, "level=error") || strings.Contains(line, "level=fatal") {
					t.Logf("%s: %s", args[0], line)
				}
			}
		}
	})
}

// runtimes are the columns of the table in docs/parity.md, the reference first.
// start starts a container called c, with the hostname c where there is one,
// that lives until the test ends. exec runs a command in it.
var runtimes = []struct {
	name  string
	start func(t *testing.T)
	exec  []string
}{
	{"Docker, none", func(t *testing.T) { run(t, "docker", "none", "c-none") }, []string{"docker", "exec", "c-none"}},
	{"podman, none", func(t *testing.T) { run(t, "podman", "none", "c-none") }, []string{"podman", "exec", "c-none"}},
	{"podman, airgap", func(t *testing.T) { run(t, "podman", "airgap", "c-airgap") }, []string{"podman", "exec", "c-airgap"}},
	{"containerd, airgap", func(t *testing.T) {
		// In the foreground, because ctr detaches a container from its
		// network only if it waited for its end.
		cmd := exec.Command("ctr", "run", "--rm", "--cni", "--mount", "type=bind,src="+podmantest.Probe(t)+",dst=/probe,options=rbind:ro", image, "c-airgap", "/probe", "serve")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			podmantest.Run(t, "ctr", "task", "kill", "--signal", "SIGKILL", "c-airgap")
			cmd.Wait()
		})
		// Not by asking it: that would move the counters of its lo.
		harness.Until(t, "ctr has started it", func() bool {
			out, err := exec.Command("ctr", "task", "list").Output()
			return err == nil && strings.Contains(string(out), "RUNNING")
		})
	}, []string{"ctr", "task", "exec", "--exec-id", "look", "c-airgap"}},
}

// run starts a container that answers on its localhost.
func run(t *testing.T, runtime, network, name string) {
	t.Helper()
	podmantest.Run(t, runtime, "run", "--detach", "--name", name, "--network", network, "--hostname", "c",
		"--volume", podmantest.Probe(t)+":/probe:ro", image, "/probe", "serve")
	t.Cleanup(func() { podmantest.Run(t, runtime, "rm", "--force", name) })
}

// fact is one line of one thing that the probe looked at.
type fact struct{ where, line string }

// differences are the facts that some runtimes have and others do not, with which have them.
func differences(seen []podmantest.Facts) map[fact]string {
	all := map[fact]bool{}
	has := make([]map[fact]bool, len(seen))
	for i, facts := range seen {
		has[i] = map[fact]bool{}
		for where, lines := range facts {
			for _, line := range lines {
				f := fact{where, line}
				all[f], has[i][f] = true, true
			}
		}
	}
	out := map[fact]string{}
	for f := range all {
		var row []string
		for i := range seen {
			if has[i][f] {
				row = append(row, "yes")
			} else {
				row = append(row, "no")
			}
		}
		if slices.Contains(row, "no") {
			out[f] = strings.Join(row, " | ")
		}
	}
	return out
}

func TestParity(t *testing.T) {
	setUp(t)
	var seen []podmantest.Facts
	namespaces := map[string]string{}
	host := podmantest.Survey(t)
	t.Cleanup(func() { host.Clean(t) })
	for _, r := range runtimes {
		r.start(t)
	}
	for _, r := range runtimes {
		facts := podmantest.ParseFacts(t, podmantest.Run(t, append(r.exec, "/probe")...))
		ns := facts["netns"][0]
		if other, ok := namespaces[ns]; ok {
			t.Errorf("%s and %s share %s", r.name, other, ns)
		}
		namespaces[ns] = r.name
		delete(facts, "netns")
		seen = append(seen, facts)
	}
	if self, _ := os.Readlink("/proc/self/ns/net"); namespaces[self] != "" {
		t.Errorf("%s uses the machine's namespace", namespaces[self])
	}

	// The differences, first: the same in the document and here.
	found := differences(seen)
	documented := map[fact]string{}
	for _, row := range podmantest.ReadDoc(t, "docs/parity.md").Under(t, "What differs").Rows() {
		if len(row) != 3+len(runtimes) {
			t.Fatalf("docs/parity.md: a row with %d cells: %q", len(row), row)
		}
		if row[len(row)-1] == "" {
			t.Errorf("docs/parity.md gives no reason: %q", row)
		}
		f := fact{strings.Trim(row[0], "`"), strings.Trim(row[1], "`")}
		documented[f] = strings.Join(row[2:len(row)-1], " | ")
	}
	keys := slices.Collect(maps.Keys(found))
	slices.SortFunc(keys, func(a, b fact) int { return strings.Compare(a.where+a.line, b.where+b.line) })
	for _, f := range keys {
		if documented[f] != found[f] {
			t.Errorf("docs/parity.md has %q, should be\n| `%s` | `%s` | %s |", documented[f], f.where, f.line, found[f])
		}
	}
	for f := range documented {
		if _, ok := found[f]; !ok {
			t.Errorf("docs/parity.md lists what is no difference: %+v", f)
		}
	}

	// And what is the same is what it should be.
	for i, r := range runtimes {
		for where, want := range map[string]string{
			"/sys/class/net": "lo",
			"tcp 127.0.0.1":  "answers",
			"udp 127.0.0.1":  "answers",
			"tcp 192.0.2.1":  "network is unreachable",
			"udp 192.0.2.1":  "network is unreachable",
		} {
			if got := strings.Join(seen[i][where], ","); got != want {
				t.Errorf("%s: %s: %q, not %q", r.name, where, got, want)
			}
		}
		for where, want := range map[string][]string{
			"/proc/net/dev": {"lo: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0"},
			"ip addr":       {"inet 127.0.0.1/8 scope host lo valid_lft forever preferred_lft forever"},
		} {
			for _, line := range want {
				if !slices.Contains(seen[i][where], line) {
					t.Errorf("%s: no %q in %s: %q", r.name, line, where, seen[i][where])
				}
			}
		}
		if len(seen[i]["sysctl"]) < 100 {
			t.Errorf("%s: only %d settings compared", r.name, len(seen[i]["sysctl"]))
		}
	}
}

// TestControl: with the machine's own network, the probe does see a way out,
// and a difference in nearly everything.
func TestControl(t *testing.T) {
	setUp(t)
	for _, network := range []string{"none", "host"} {
		run(t, "docker", network, "c-"+network)
	}
	// Traffic that the counters of the machine's own lo would show.
	if c, err := net.Dial("udp", "192.0.2.1:9"); err == nil {
		c.Write([]byte("hello"))
		c.Close()
	}
	none := podmantest.ParseFacts(t, podmantest.Run(t, "docker", "exec", "c-none", "/probe"))
	host := podmantest.ParseFacts(t, podmantest.Run(t, "docker", "exec", "c-host", "/probe"))
	if got := fmt.Sprint(host["tcp 192.0.2.1"]); got != "[connection refused]" {
		t.Errorf("tcp 192.0.2.1 from the machine's network: %s", got)
	}
	found := differences([]podmantest.Facts{none, host})
	for _, where := range []string{"ip addr", "ip route", "/proc/net/dev", "tcp 192.0.2.1", "udp 192.0.2.1", "netns"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(found)), func(f fact) bool { return f.where == where }) {
			t.Errorf("no difference seen in %s", where)
		}
	}
}

// TestNoSecondNetwork: Docker does not combine none with another network,
// whichever comes first. Ours refuses where it is asked, and docs/parity.md
// says where it is not.
func TestNoSecondNetwork(t *testing.T) {
	setUp(t)
	doc := podmantest.ReadDoc(t, "docs/parity.md").Under(t, "A second network")
	podmantest.Run(t, "docker", "network", "create", "other")
	t.Cleanup(func() { podmantest.Run(t, "docker", "network", "rm", "other") })
	run(t, "docker", "none", "on-none")
	run(t, "docker", "other", "on-other")
	doc.Has(t, podmantest.Fail(t, "docker", "network", "connect", "other", "on-none"))
	doc.Has(t, podmantest.Fail(t, "docker", "network", "connect", "none", "on-other"))

	t.Cleanup(func() { podmantest.Run(t, "ip", "link", "delete", "cni-podman0") })
	run(t, "podman", "podman", "on-other")
	out := podmantest.Fail(t, "podman", "network", "connect", "airgap", "on-other")
	doc.Has(t, out[strings.LastIndex(out, "Error:"):])
}

// TestAskedForPorts: Docker takes the ports and drops them, ours refuses.
func TestAskedForPorts(t *testing.T) {
	setUp(t)
	podmantest.Run(t, "docker", "run", "--detach", "--name", "ports", "--network", "none", "--publish", "8080:80", image, "sleep", "600")
	t.Cleanup(func() { podmantest.Run(t, "docker", "rm", "--force", "ports") })
	if out := podmantest.Run(t, "docker", "port", "ports"); out != "" {
		t.Errorf("docker port: %s", out)
	}
	out := podmantest.Fail(t, "podman", "run", "--rm", "--network", "airgap", "--publish", "8080:80", image, "sh", "-c", "echo ran")
	if !strings.Contains(out, "runtimeConfig.portMappings") {
		t.Errorf("refused, but not for the ports: %s", out)
	}
}

// TestCommands runs the commands of docs/parity.md.
func TestCommands(t *testing.T) {
	setUp(t)
	doc := podmantest.ReadDoc(t, "docs/parity.md").Under(t, "Try it")
	commands := doc.Commands()
	if len(commands) != 1 {
		t.Fatalf("%d blocks of commands, not 1", len(commands))
	}
	out := podmantest.Run(t, "sh", "-euc", commands[0])
	doc.Has(t, out[strings.Index(out, "1: lo:"):])
}
