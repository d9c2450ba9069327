// Package kernels runs the tests of the programs on the kernels that people
// have: Debian's, of several releases and architectures, in QEMU. On each they
// run with all tunnel modules loaded, which puts nine interfaces into every new
// namespace, and on some without IPv6.
//
// Two kernels are enough without -full. With it there are more, the tests also run
// before the modules are loaded, and the table in docs/kernels.md is written.
package kernels

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/vm"
)

// kernel is one to run on.
type kernel struct {
	suites []string // of Debian; the one with the newest kernel counts
	arch   string
	always bool // also without -full
	noIPv6 bool // a second machine, with ipv6.disable=1
}

var kernels = []kernel{
	{[]string{"bookworm"}, "amd64", true, true},
	{[]string{"trixie"}, "amd64", true, false},
	{[]string{"bullseye"}, "amd64", false, false},
	{[]string{"trixie-backports", "sid"}, "amd64", false, true},
	{[]string{"bookworm"}, "arm64", false, false},
	{[]string{"bookworm"}, "s390x", false, false},
}

// Modules that tests use wherever they run, and those that the kernel makes
// fallback tunnels of, with a dummy0.
var (
	base    = []string{"veth", "bridge", "tun", "vxlan", "macvlan", "ifb"}
	tunnels = []string{"ipip", "sit", "ip_gre", "ip6_tunnel", "ip6_gre", "ip_vti", "ip6_vti", "dummy"}
	kinds   = []string{"wireguard", "vrf", "ipvlan", "xfrm_interface", "vcan", "vxcan", "geneve", "vsock", "vsock_loopback"}
)

var full = flag.Bool("full", false, "all kernels, and write the table in docs/kernels.md")

func TestMain(m *testing.M) { harness.Main(m) }

func TestKernels(t *testing.T) {
	if *full { // QEMU for the other architectures
		harness.Sh(t, "tools/debian.sh qemu-system-arm qemu-system-misc")
	}
	trees := map[string]string{} // by architecture
	var mu sync.Mutex
	var rows []row
	add := func(more ...row) {
		mu.Lock()
		defer mu.Unlock()
		rows = append(rows, more...)
	}
	t.Run("on", func(t *testing.T) { // two machines at a time; it ends with the last
		for _, k := range kernels {
			if !k.always && !*full {
				continue
			}
			if trees[k.arch] == "" {
				trees[k.arch] = t.TempDir()
				build(t, trees[k.arch], k.arch)
			}
			c := k.fetch(t)
			c.Files = map[string]string{"/repo": trees[k.arch], "/bin/sleep": filepath.Join(trees[k.arch], "path/sleep"),
				"/etc/os-release": filepath.Join(trees[k.arch], "os-release")}
			name := strings.Join(k.suites, " ") + " " + k.arch
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				add(onKernel(t, c)...)
			})
			if k.noIPv6 {
				t.Run(name+" without IPv6", func(t *testing.T) {
					t.Parallel()
					add(withoutIPv6(t, c))
				})
			}
		}
	})
	table := heading
	for _, r := range rows {
		table += r.String()
	}
	t.Log("\n" + table)
	if *full {
		if err := document(harness.Repo("docs/kernels.md"), rows); err != nil {
			t.Error(err)
		}
	}
}

// fetch gets the newest kernel of the suites, for a machine of two processors.
func (k kernel) fetch(t *testing.T) vm.Config {
	t.Helper()
	var best *vm.Archive
	var version string
	for _, suite := range k.suites {
		a, err := vm.OpenArchive(vm.Cache(), suite, k.arch)
		if err != nil {
			t.Fatal(err)
		}
		p, err := a.Show("linux-image-" + k.arch)
		if err != nil {
			t.Fatal(err)
		}
		if best == nil || vm.Newer(p.Version, version) {
			best, version = a, p.Version
		}
	}
	debian, err := best.Kernel()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := vm.OpenArchive(vm.Cache(), "bookworm", k.arch) // backports have kernels and no busybox
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := plain.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	return vm.Config{Kernel: debian, Busybox: busybox, CPUs: 2}
}

// row is one line of the table.
type row struct {
	kernel  *vm.Kernel
	run     string
	first   string // the number of the machine's first network namespace
	passed  []int  // in the order of packages, then the package inside
	success bool
}

// onKernel runs everything on one kernel, before and after the tunnel modules
// are loaded.
func onKernel(t *testing.T, c vm.Config) []row {
	t.Helper()
	load := func(names []string) []string {
		files, err := c.Kernel.Modules(names...)
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	c.Modules = load(base)
	later := load(append(slices.Clone(tunnels), kinds...))
	c.Late = later
	start := time.Now()
	m := vm.Start(t, c)
	defer m.Stop()
	t.Logf("%s %s, %s: up after %.0f s", c.Kernel.Package, c.Kernel.Version, strings.TrimSpace(m.Must("uname -rm")), time.Since(start).Seconds())
	if links := m.Must("ip -o link"); strings.Contains(links, "tunl0") {
		t.Errorf("this kernel boots with tunnels:\n%s", links)
	}
	var rows []row
	if *full { // make test does that on the machine's own kernel
		rows = append(rows, suite(t, m, c.Kernel, "as it boots", packages, "TestForeignFallback")) // it wants ipip
	}
	m.Must("for m in $(cat /modules/late); do insmod $m; done")
	if links := m.Must("ip -o link"); !strings.Contains(links, "tunl0") || !strings.Contains(links, "dummy0") {
		t.Errorf("the modules made nothing:\n%s", links)
	}
	return append(rows, suite(t, m, c.Kernel, "tunnel modules loaded", append(slices.Clone(packages), insidePackage)))
}

// withoutIPv6 runs everything on a kernel that was told to have no IPv6.
func withoutIPv6(t *testing.T, c vm.Config) row {
	t.Helper()
	c.Append = "ipv6.disable=1"
	files, err := c.Kernel.Modules(base...)
	if err != nil {
		t.Fatal(err)
	}
	c.Modules = files
	m := vm.Start(t, c)
	defer m.Stop()
	if out, status := m.Run("test -e /proc/net/if_inet6"); status == 0 {
		t.Errorf("the machine has IPv6: %s", out)
	}
	// They want ipip, and IPv6. What none-audit does without IPv6 is pkg/loopback's.
	return suite(t, m, c.Kernel, "ipv6.disable=1", packages[:3], "TestForeignFallback", "TestUpGivesUp")
}

// suite runs the tests of packages, without those that cannot run there.
func suite(t *testing.T, m *vm.Machine, k *vm.Kernel, name string, packages []string, without ...string) row {
	t.Helper()
	r := row{kernel: k, run: name, first: strings.Trim(strings.TrimSpace(m.Must("readlink /proc/1/ns/net")), "net:[]")}
	start := time.Now()
	r.success = t.Run(name, func(t *testing.T) {
		inner := *m
		inner.TB = t
		for _, p := range packages {
			r.passed = append(r.passed, testPackage(t, &inner, p, without))
		}
	})
	t.Logf("%s took %.0f s", name, time.Since(start).Seconds())
	return r
}

// heading of the table in docs/kernels.md, whose lines start with a key of three
// columns.
var heading = fmt.Sprintf("| Debian | | run | kernel | first namespace | %s | inside |\n|---|---|---|---|---|%s---|\n",
	strings.Join(packages, " | "), strings.Repeat("---|", len(packages)))

func (r row) key() string {
	return fmt.Sprintf("| %s | %s | %s |", r.kernel.Suite, r.kernel.Arch, r.run)
}

// String is the row's line. What passed is a number of tests.
func (r row) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s | %s |", r.key(), r.kernel.Version, r.first)
	for i := range len(packages) + 1 {
		switch {
		case i >= len(r.passed):
			b.WriteString(" |")
		case !r.success:
			fmt.Fprintf(&b, " FAILED, %d passed |", r.passed[i])
		default:
			fmt.Fprintf(&b, " %d |", r.passed[i])
		}
	}
	return b.String() + "\n"
}

// document puts the rows that passed into the table between its two marks, and takes
// out the old lines of those that did not. The lines of other kernels stay, for those
// who run one at a time.
func document(path string, rows []row) error {
	const begin, end = "<!-- table: kernels -->\n", "<!-- end -->"
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no %q with an %q behind it", path, begin, end)
	}
	var lines []string
	for l := range strings.Lines(old) {
		if !strings.Contains(heading, l) && !slices.ContainsFunc(rows, func(r row) bool { return strings.HasPrefix(l, r.key()) }) {
			lines = append(lines, l)
		}
	}
	for _, r := range rows {
		if r.success {
			lines = append(lines, r.String())
		}
	}
	slices.Sort(lines)
	return os.WriteFile(path, []byte(before+begin+heading+strings.Join(lines, "")+end+after), 0o644)
}
