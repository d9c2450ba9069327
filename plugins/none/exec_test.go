package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

const plainConf = `{"cniVersion": "1.1.0", "name": "airgap"}`

func addEnv(netns string) map[string]string {
	return map[string]string{"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": netns}
}

// endless counts what is read of it.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	e.read += len(b)
	return len(b), nil
}

func TestHugeStdinIsNotRead(t *testing.T) {
	var stdin endless
	var stdout bytes.Buffer
	if status := inProcess(addEnv("/x"), &stdin, &stdout, io.Discard); status != 1 {
		t.Fatalf("exit status %d", status)
	}
	if !strings.Contains(stdout.String(), `"code":6,"msg":"the network config on stdin is larger than 1 MiB"`) {
		t.Error(stdout.String())
	}
	if stdin.read > maxStdin+1<<20 {
		t.Errorf("read %d bytes of it", stdin.read)
	}
}

func TestLargeStdinIsFine(t *testing.T) {
	ns := nstest.New(t)
	conf := strings.TrimSuffix(plainConf, "}") + `, "comment": "` + strings.Repeat("x", maxStdin-100) + `"}`
	var stdout bytes.Buffer
	if status := inProcess(addEnv(ns.Path), strings.NewReader(conf), &stdout, io.Discard); status != 0 {
		t.Fatal(shorten(stdout.String()))
	}
}

func TestByteOrderMark(t *testing.T) {
	var stdout bytes.Buffer
	if status := inProcess(addEnv("/x"), strings.NewReader("\ufeff"+plainConf), &stdout, io.Discard); status != 1 {
		t.Fatalf("exit status %d", status)
	}
	if !strings.Contains(stdout.String(), `"code":6,"msg":"the network config on stdin is not a JSON object: it starts with a byte order mark`) {
		t.Error(stdout.String())
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, unix.EIO }

func TestUnreadableStdin(t *testing.T) {
	var stdout bytes.Buffer
	if status := inProcess(addEnv("/x"), brokenReader{}, &stdout, io.Discard); status != 1 {
		t.Fatalf("exit status %d", status)
	}
	if !strings.Contains(stdout.String(), `"code":5`) {
		t.Error(stdout.String())
	}
}

// TestUnwritableStdout: the answer gets lost, so the exit status has to tell.
func TestUnwritableStdout(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	r, unread, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer unread.Close()
	for name, stdout := range map[string]*os.File{"full device": full, "pipe without a reader": unread} {
		t.Run(name, func(t *testing.T) {
			ns := nstest.New(t)
			var stderr bytes.Buffer
			if status := asProcess(addEnv(ns.Path), strings.NewReader(plainConf), stdout, &stderr); status != 1 {
				t.Errorf("exit status %d", status)
			}
			if !strings.Contains(stderr.String(), "cni-none: write to stdout: ") {
				t.Errorf("stderr: %s", &stderr)
			}
		})
	}
}

func TestFDWriter(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // more than a pipe holds
	go func() {
		n, err := fdWriter(w.Fd()).Write(text)
		if n != len(text) || err != nil {
			t.Errorf("wrote %d: %v", n, err)
		}
		w.Close()
	}()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("read %d bytes, want %d: %v", len(got), len(text), err)
	}
}

// TestPanic: a bug of ours still gives one JSON error.
func TestPanic(t *testing.T) {
	var stdout bytes.Buffer
	status := run(process{func(key string) string {
		if key == "CNI_NETNS" {
			panic("oh")
		}
		return addEnv("")[key]
	}, strings.NewReader(plainConf), &stdout, io.Discard})
	if status != 1 || !strings.Contains(stdout.String(), `"code":999,"msg":"bug in cni-none version unknown: oh"`) {
		t.Errorf("%d: %s", status, &stdout)
	}
	if err := isErrorDocument(stdout.Bytes()); err != nil {
		t.Error(err)
	}
}

// TestStatusAsksTheKernel: root without a capability can serve no ADD.
func TestStatusAsksTheKernel(t *testing.T) {
	nstest.New(t) // needs root, as this does
	for name, capability := range map[string]uintptr{"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			status := 0
			onDoomedThread(func() {
				// The bounding set is the thread's, and its children's.
				if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
					t.Error(err)
					return
				}
				status = asProcess(map[string]string{"CNI_COMMAND": "STATUS"}, strings.NewReader(plainConf), &stdout, &stderr)
			})
			if status != 1 || !strings.Contains(stdout.String(), `"code":50,"msg":"an ADD would fail: `+name+` is missing`) {
				t.Errorf("%d: %s%s", status, &stdout, &stderr)
			}
		})
	}
}

// TestNoPermission: root without capabilities is told what the runtime has to have,
// where a namespace may not be opened and where it may not be entered.
func TestNoPermission(t *testing.T) {
	for _, c := range []struct {
		what  string
		mode  os.FileMode // of the directory that the namespace is in
		wants string
	}{
		{"to open", 0, `the kernel refused: open (%s): permission denied (EACCES)`},
		{"to enter", 0o700, `the kernel refused: setns (%s): operation not permitted (EPERM)`},
	} {
		t.Run(c.what, func(t *testing.T) {
			ns := nstest.New(t)
			if err := os.Chmod(filepath.Dir(ns.Path), c.mode); err != nil {
				t.Fatal(err)
			}
			add := func() (status int, out string) {
				var stdout, stderr bytes.Buffer
				status = asProcess(addEnv(ns.Path), strings.NewReader(plainConf), &stdout, &stderr)
				return status, stdout.String() + stderr.String()
			}
			onDoomedThread(func() {
				for capability := range uintptr(unix.CAP_LAST_CAP + 1) {
					// EINVAL: this kernel does not know the last ones.
					if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && err != unix.EINVAL {
						t.Error(err)
						return
					}
				}
				status, out := add()
				if status != 1 || !strings.Contains(out, `"code":102`) || !strings.Contains(out, fmt.Sprintf(c.wants, ns.Path)) ||
					!strings.Contains(out, "run the runtime as root with CAP_SYS_ADMIN and CAP_NET_ADMIN") {
					t.Errorf("without capabilities: %d: %s", status, out)
				}
			})
			if status, out := add(); status != 0 {
				t.Errorf("control, with capabilities: %d: %s", status, out)
			}
		})
	}
}

// onDoomedThread runs fn on a thread that ends with it, so that no other
// goroutine inherits what fn does to it. The main thread never ends, and is not used.
func onDoomedThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		onDoomedThread(fn)
		runtime.UnlockOSThread()
	}()
	<-done
}

// TestPlaceholdersDoNotCollide: one stable address for each container.
func TestPlaceholdersDoNotCollide(t *testing.T) {
	p := placeholder(netip.MustParsePrefix("100:0:0:1::/64"))
	seen := map[netip.Prefix]string{}
	for i := range 100_000 {
		id := containerID(i)
		a := p.address(id)
		if other, taken := seen[a]; taken {
			t.Fatalf("%s and %s have %s both", id, other, a)
		}
		seen[a] = id
		if !netip.Prefix(p).Contains(a.Addr()) || a.Bits() != 128 || a != p.address(id) {
			t.Fatalf("%s has %s, then %s", id, a, p.address(id))
		}
	}
}

// containerID returns IDs that differ as runtimes' do, or by one digit.
func containerID(i int) string {
	const digits = "0123456789abcdef"
	id := []byte(strings.Repeat("0", 64))
	for n := len(id) - 1; i > 0; n, i = n-1, i/16 {
		id[n] = digits[i%16]
	}
	return string(id)
}

// TestBuild: what is shipped is static, not position-independent, the same
// wherever it is built, and knows its version.
func TestBuild(t *testing.T) {
	dir := t.TempDir()
	built := buildPlugin(t, "../..", dir)
	elsewhere := filepath.Join(t.TempDir(), "another folder's name")
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	cp := exec.Command("cp", "-R", "--parents", "Makefile", "release/rules.mk", "go.mod", "go.sum", "tools/go.sh", "internal", "pkg", "plugins", elsewhere)
	cp.Dir = "../.."
	if out, err := cp.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !bytes.Equal(built, buildPlugin(t, elsewhere, t.TempDir(), "GOCACHE="+t.TempDir())) {
		t.Error("built in another folder, with an empty cache, it is another program")
	}
	f, err := elf.Open(dir + "/none")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Type != elf.ET_EXEC {
		t.Errorf("ELF type %v: position-independent", f.Type)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Error("not static")
	}
	var stderr strings.Builder
	cmd := exec.Command(dir + "/none")
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil || !strings.Contains(stderr.String(), "v9.9.9-test") {
		t.Errorf("%v: %s", err, &stderr)
	}
}

// buildPlugin builds it as the Makefile in root does.
func buildPlugin(t *testing.T, root, bin string, env ...string) []byte {
	t.Helper()
	cmd := exec.Command("make", "-C", root, "none", "VERSION=v9.9.9-test", "BIN="+bin)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	built, err := os.ReadFile(filepath.Join(bin, "none"))
	if err != nil {
		t.Fatal(err)
	}
	return built
}

func TestErrorsKeepTheirCode(t *testing.T) {
	if e := toError(errors.New("odd")); e.Code != 999 || e.Msg != "odd" {
		t.Errorf("%+v", e)
	}
}
