package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asMain names the environment variable that makes the test binary run one of
// these on its main thread instead of the tests.
const asMain = "NETNS_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		fmt.Print(stayHome())
		return
	}
	// No test runs on the main thread, which cannot end.
	runtime.LockOSThread()
	m.Run()
}

// needRoot skips a test, except in CI, where namespaces may not be made.
func needRoot(t *testing.T) {
	t.Helper()
	err := InNew(func() error { return nil })
	if errors.Is(err, unix.EPERM) && os.Getenv("CI") == "" {
		t.Skip("needs CAP_SYS_ADMIN to make a network namespace")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newNS opens a new namespace.
func newNS(t *testing.T) *NS {
	t.Helper()
	var n *NS
	if err := InNew(func() (err error) { n, err = Open(own); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func link(t *testing.T, path string) string {
	t.Helper()
	l, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// threadsIn lists the threads of this process that are in a namespace.
func threadsIn(t *testing.T, namespace string) (tids []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		l, err := os.Readlink("/proc/self/task/" + e.Name() + "/ns/net")
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
		if l == namespace {
			tids = append(tids, e.Name())
		}
	}
	return tids
}

// TestDo: fn is inside, and afterwards its thread is where it was before.
func TestDo(t *testing.T) {
	needRoot(t)
	n := newNS(t)
	home := link(t, own)
	want := fmt.Sprintf("net:[%d]", n.ID().Ino)
	for name, end := range map[string]func() error{
		"returns": func() error { return nil },
		"fails":   func() error { return unix.EIO },
		"exits":   func() error { runtime.Goexit(); return nil },
	} {
		var there string
		var tid int
		err := n.Do(func() error {
			there, tid = link(t, own), unix.Gettid()
			return end()
		})
		if there != want || (err == nil) != (name == "returns") || name == "fails" && !errors.Is(err, unix.EIO) {
			t.Errorf("%s: in %s, want %s: %v", name, there, want, err)
		}
		if l, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", tid)); err == nil && l != home {
			t.Errorf("%s: the thread is in %s, not %s", name, l, home)
		}
	}
	if tids := threadsIn(t, want); tids != nil {
		t.Errorf("threads %v are still inside", tids)
	}
}

// TestVisit: fn goes from one namespace to another, and its thread home in the end.
func TestVisit(t *testing.T) {
	needRoot(t)
	home := link(t, own)
	var tid int
	err := Visit(func(enter func(*NS) error) error {
		tid = unix.Gettid()
		for range 3 {
			n := newNS(t)
			if err := enter(n); err != nil {
				return err
			}
			if got, want := link(t, own), fmt.Sprintf("net:[%d]", n.ID().Ino); got != want {
				t.Errorf("in %s, want %s", got, want)
			}
		}
		return unix.EIO
	})
	if !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	if l, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", tid)); err == nil && l != home {
		t.Errorf("the thread is in %s, not %s", l, home)
	}
}

// TestNoReturn: a thread that cannot come back ends, and no goroutine ever runs on it.
func TestNoReturn(t *testing.T) {
	needRoot(t)
	n := newNS(t)
	there := fmt.Sprintf("net:[%d]", n.ID().Ino)
	err := n.Do(func() error {
		if tids := threadsIn(t, there); len(tids) != 1 {
			t.Errorf("threads inside: %v, want one", tids)
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			return err
		}
		data[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
		data[0].Permitted &^= 1 << unix.CAP_SYS_ADMIN
		return unix.Capset(&header, &data[0])
	})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		tids := threadsIn(t, there)
		if tids == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("threads %v are still inside", tids)
		}
	}
}

// TestMainThreadStaysHome: in a user namespace below the one that owns home, no
// thread could come home, so the main thread does not go.
func TestMainThreadStaysHome(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asMain+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) && os.Getenv("CI") == "" {
		t.Skip("needs user namespaces")
	}
	if err != nil || string(out) != "home" {
		t.Errorf("%s, %v", out, err)
	}
}

// stayHome goes into namespaces until one of them, or none of many, took the
// main thread along.
func stayHome() string {
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err.Error()
	}
	for range 20 {
		err := InNew(func() error {
			if l, err := os.Readlink(own); err != nil || l == home {
				return fmt.Errorf("in %s: %w", l, err)
			}
			return nil
		})
		if err != nil {
			return err.Error()
		}
		if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != home {
			return fmt.Sprintf("the main thread is in %s, not in %s: %v", now, home, err)
		}
	}
	return "home"
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	fifo := dir + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		"/proc/self/ns/net":              nil,
		"/proc/self/ns/uts":              ErrNotNetns,
		fifo:                             ErrNotNetns,
		dir:                              ErrNotNetns,
		"/dev/null":                      ErrNotNetns,
		dir + "/missing":                 ErrNotExist,
		fifo + "/below":                  ErrNotExist,
		"/proc/4194304/ns/net":           ErrNotExist,
		"/" + strings.Repeat("x/", 3000): ErrNotExist,
		loop:                             unix.ELOOP,
	} {
		n, err := Open(path)
		if !errors.Is(err, want) {
			t.Errorf("Open(%s): %v, want %v", path, err, want)
		}
		if err != nil {
			continue
		}
		id, err := IDOf(path)
		if err != nil || id != n.ID() {
			t.Errorf("%v, %v, want %v", id, err, n.ID())
		}
		n.Close()
	}
}

// TestOpenLink: it is Open for the links of a process.
func TestOpenLink(t *testing.T) {
	for path, want := range map[string]error{
		own:                    nil,
		"/proc/self/ns/net":    nil,
		"/proc/self/ns/uts":    ErrNotNetns,
		"/proc/4194304/ns/net": ErrNotExist,
		endedProcess(t):        ErrNotExist,
	} {
		n, err := OpenLink(path)
		if !errors.Is(err, want) {
			t.Errorf("OpenLink(%s): %v, want %v", path, err, want)
		}
		if err != nil {
			continue
		}
		if id, err := IDOf(path); err != nil || id != n.ID() {
			t.Errorf("%s: %v, %v, want %v", path, n.ID(), err, id)
		}
		n.Close()
	}
}

// endedProcess returns ns/net of a process that has ended, which its parent has
// not noticed yet.
func endedProcess(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
}

// TestRefused: what the kernel refuses comes out, with the name of the call.
func TestRefused(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ran := false
	// A file that is no namespace stands for one that setns refuses.
	err = (&NS{fd: int(null.Fd())}).Do(func() error { ran = true; return nil })
	var call *os.SyscallError
	if !errors.As(err, &call) || call.Syscall != "setns" || ran {
		t.Errorf("%v, ran: %v", err, ran)
	}
	if _, err := FromFD(-1); !errors.As(err, &call) || call.Syscall != "fstatfs" || !errors.Is(err, unix.EBADF) {
		t.Error(err)
	}
	if _, err := IDOf("/nowhere"); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
}
