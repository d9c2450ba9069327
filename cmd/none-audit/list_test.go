package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
	"github.com/cni-none/cni-none/internal/nstest"
)

// Whatever holds a namespace, the list has it.
func TestListFindsEveryHolder(t *testing.T) {
	mounted := nstest.New(t)
	up(t, mounted)

	running := nstest.New(t)
	pid := sleeper(t, running)
	runningInode := inode(t, running.Path)
	unmount(t, running)

	opened := nstest.New(t)
	openedInode := inode(t, opened.Path)
	file, err := os.Open(opened.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unmount(t, opened)

	threaded := nstest.New(t)
	threadedInode := inode(t, threaded.Path)
	leave := make(chan struct{})
	inside := make(chan struct{})
	threadDone := make(chan struct{})
	go func() {
		defer close(threadDone)
		threaded.Do(func() error { close(inside); <-leave; return nil })
	}()
	<-inside
	defer func() { close(leave); <-threadDone }()
	unmount(t, threaded)

	// A mount that only another mount namespace has: rootless podman's, a service's.
	elsewhere := nstest.New(t)
	elsewhereInode := inode(t, elsewhere.Path)
	private := exec.Command("unshare", "--mount", "--propagation", "private", "sleep", "600")
	if err := private.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = private.Process.Kill(); _ = private.Wait() }()
	waitFor(t, "a mount namespace", func() bool {
		a, _ := os.Readlink("/proc/self/ns/mnt")
		b, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", private.Process.Pid))
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", private.Process.Pid))
		return a != b && string(comm) == "sleep\n"
	})
	unmount(t, elsewhere)

	rows, _ := auditJSON(t)
	for _, tt := range []struct {
		name  string
		inode uint64
		holds func(r row) bool
	}{
		{"a mount", inode(t, mounted.Path), func(r row) bool { return slices.Contains(r.Mounts, mounted.Path) && len(r.Processes) == 0 }},
		{"a process", runningInode, func(r row) bool {
			return slices.Contains(r.Processes, process{pid, "sleep"}) && len(r.Mounts) == 0
		}},
		{"an open file", openedInode, func(r row) bool {
			return slices.Contains(r.Files, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()))
		}},
		{"a thread", threadedInode, func(r row) bool {
			return slices.ContainsFunc(r.Processes, func(p process) bool { return p.PID == os.Getpid() })
		}},
		{"a mount elsewhere", elsewhereInode, func(r row) bool { return slices.Contains(r.Mounts, elsewhere.Path) }},
	} {
		r, ok := rows[tt.inode]
		if !ok {
			t.Errorf("%s: namespace %d is not in the list", tt.name, tt.inode)
			continue
		}
		if r.Verdict != isolated || !tt.holds(r) {
			t.Errorf("%s: %+v", tt.name, r)
		}
	}
	if host := rows[inode(t, "/proc/thread-self/ns/net")]; host.Verdict != notIsolated || !host.Host && canReadProcess1() {
		t.Errorf("our own namespace: %+v", host)
	}
}

func canReadProcess1() bool {
	_, err := os.Readlink("/proc/1/ns/net")
	return err == nil
}

// unmount takes away the mount, and gives nstest's clean-up one to undo.
func unmount(t *testing.T, ns *nstest.NS) {
	t.Helper()
	if err := unix.Unmount(ns.Path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Mount("/proc/self/ns/uts", ns.Path, "", unix.MS_BIND, ""); err != nil {
			t.Error(err)
		}
	})
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s in %v", what, patience)
		}
	}
}

// What is asked for decides over the exit status.
func TestTargets(t *testing.T) {
	good, bad := nstest.New(t), nstest.New(t)
	up(t, good)
	moveVeth(t, nstest.New(t), bad, "eth0")
	goodPID, badPID := sleeper(t, good), sleeper(t, bad)
	outside := exec.Command("sleep", "600") // in no namespace of its own
	if err := outside.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outside.Process.Kill(); _ = outside.Wait() })
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(bad.Path, link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		status int
		rows   int
	}{
		{[]string{good.Path}, exitOK, 1},
		{[]string{bad.Path}, exitViolated, 1},
		{[]string{link}, exitViolated, 1},
		{[]string{strconv.Itoa(goodPID)}, exitOK, 1},
		{[]string{strconv.Itoa(badPID)}, exitViolated, 1},
		{[]string{good.Path, strconv.Itoa(goodPID)}, exitOK, 1}, // one namespace, asked for twice
		{[]string{good.Path, bad.Path}, exitViolated, 2},
		{[]string{good.Path, "/nowhere/at/all"}, exitUnknown, 1},
		{[]string{bad.Path, "/nowhere/at/all"}, exitViolated, 1},
		{[]string{fifo}, exitUnknown, 0},
		{[]string{"/proc/self/ns/uts"}, exitUnknown, 0},
		{[]string{"/etc/passwd"}, exitUnknown, 0},
		{[]string{"/dev/zero"}, exitUnknown, 0},
		{[]string{"9999999"}, exitUnknown, 0},
		{[]string{strings.Repeat("f", 64)}, exitUnknown, 0},
		{[]string{""}, exitUnknown, 0},
		{[]string{strconv.Itoa(outside.Process.Pid)}, exitViolated, 1},
	} {
		rows, status := auditJSON(t, tt.args...)
		if status != tt.status || len(rows) != tt.rows {
			t.Errorf("%v: status %d and %d namespaces, want %d and %d", tt.args, status, len(rows), tt.status, tt.rows)
		}
	}
}

// The machine's own namespace is never isolated, even with nothing in it but lo.
func TestHostIsNotIsolated(t *testing.T) {
	ns := nstest.New(t)
	up(t, ns)
	// A machine in small: its process 1 is in the namespace.
	script := fmt.Sprintf("%s --json 1; echo $?", audit)
	cmd := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script)
	out, errs, _ := outputIn(t, ns.Try, cmd)
	if !strings.Contains(out, "the machine's own") || !strings.HasSuffix(out, "\n1\n") {
		t.Errorf("stdout %s\nstderr %s", out, errs)
	}
}

// Names are their owners' to choose, and the table is a person's to read.
func TestTableIsFitForATerminal(t *testing.T) {
	ns := nstest.New(t)
	moveVeth(t, nstest.New(t), ns, "\x1b]0;pwn\a")
	comm := filepath.Join(t.TempDir(), "\x1b[31m\u202e")
	if err := os.Symlink("/bin/sleep", comm); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(comm, "600")
	startIn(t, ns, cmd)

	out, _, _ := output(t, exec.Command(audit, ns.Path))
	for _, want := range []string{`"\x1b]0;pwn\a" (veth)`, fmt.Sprintf(`\x1b[31m\u202e[%d]`, cmd.Process.Pid)} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
	if strings.ContainsAny(out, "\x1b\a\u202e") {
		t.Errorf("%q", out)
	}
	js, _, _ := output(t, exec.Command(audit, "--json", ns.Path))
	if strings.ContainsAny(js, "\x1b\a\u202e") || !json.Valid([]byte(js)) {
		t.Errorf("%q", js)
	}
	rows, _ := auditJSON(t, ns.Path)
	if p := rows[inode(t, ns.Path)].Processes; len(p) != 1 || p[0].Command != "\x1b[31m\u202e" {
		t.Errorf("in JSON the name is the owner's own: %+v", p)
	}
}

// Who may not look says so, instead of a clean bill of health.
func TestUnprivileged(t *testing.T) {
	ns := nstest.New(t)
	up(t, ns)
	pid := sleeper(t, ns)
	for _, args := range [][]string{{}, {strconv.Itoa(pid)}, {ns.Path}} {
		cmd := exec.Command("/proc/self/fd/3", args...)
		program, err := os.Open(audit)
		if err != nil {
			t.Fatal(err)
		}
		cmd.ExtraFiles = []*os.File{program}
		out, errs, status := outputIn(t, func(func() error) error { return startPowerless(nil, cmd) }, cmd)
		program.Close()
		if status != exitUnknown || errs == "" && !strings.Contains(out, "unknown") {
			t.Errorf("%v: status %d\n%s%s", args, status, out, errs)
		}
	}
}

func TestContainerID(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	other := strings.Repeat("f", 64)
	for cgroup, want := range map[string]string{
		"0::/docker/" + id:                                                        id,
		"0::/system.slice/docker-" + id + ".scope":                                id,
		"0::/machine.slice/libpod-" + id + ".scope":                               id,
		"0::/machine.slice/libpod-" + id + ".scope/container":                     id,
		"1:name=systemd:/libpod_parent/libpod-" + id:                              id,
		"0::/kubepods/burstable/pod1234/" + id:                                    id,
		"0::/system.slice/kubelet.slice/kubepods-pod1.slice:cri-containerd:" + id: id,
		"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope":  id,
		"0::/kubepods.slice/kubepods-pod1.slice/crio-" + id + ".scope":            id,
		"0::/../../nerdctl-" + id + ".scope":                                      id,
		"0::/docker/" + other + "/docker/" + id:                                   id,
		"2:cpu:/\n1:name=systemd:/docker/" + id + "\n0::/":                        id,
		"0::/machine.slice/libpod-conmon-" + id + ".scope":                        "",
		"0::/kubepods.slice/crio-conmon-" + id + ".scope":                         "",
		"0::/user.slice/user-0.slice/session-1.scope":                             "",
		"0::/x/" + id + "0":                                                       "",
		"0::/":                                                                    "",
		"":                                                                        "",
		"nonsense":                                                                "",
	} {
		if got := containerID(cgroup); got != want {
			t.Errorf("%q: %q, want %q", cgroup, got, want)
		}
	}
}

func TestNsfsMount(t *testing.T) {
	for _, tt := range []struct {
		line  string
		inode uint64
		path  string
		ok    bool
	}{
		{`1 2 0:4 net:[4026532245] /run/netns/x rw shared:4 - nsfs nsfs rw`, 4026532245, "/run/netns/x", true},
		{`1 2 0:4 net:[7] /run/a\040b\134c rw - nsfs nsfs rw`, 7, `/run/a b\c`, true},
		{`1 2 0:4 net:[7] /run/x\04 rw - nsfs nsfs rw`, 7, `/run/x\04`, true},
		{`1 2 0:4 mnt:[4026532245] /run/m rw - nsfs nsfs rw`, 0, "", false},
		{`1 2 0:4 net:[7] /not/nsfs rw - ext4 /dev/sda rw`, 0, "", false},
		{`1 2 - nsfs`, 0, "", false},
		{``, 0, "", false},
	} {
		n, path, ok := nsfsMount([]byte(tt.line))
		if ok != tt.ok || ok && (n != tt.inode || path != tt.path) {
			t.Errorf("%s: %d, %q, %v", tt.line, n, path, ok)
		}
	}
}

// While a program looks at a namespace, its mount can still be taken away.
func TestLookingDoesNotPinAMount(t *testing.T) {
	ns := nstest.New(t)
	n := inode(t, ns.Path)
	s, err := scanMachine()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	control, err := os.Open(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(ns.Path, 0); err != unix.EBUSY {
		t.Fatalf("control: a file that is open over a mount: %v, want EBUSY", err)
	}
	control.Close()
	open, err := s.namespaces[n].open()
	if err != nil || open.ID().Ino != n {
		t.Fatalf("opened %v, want %d, %v", open, n, err)
	}
	open.Close()
	var unmounted error
	err = netns.Visit(func(enter func(*netns.NS) error) error {
		open, err := s.namespaces[n].open()
		if err != nil {
			return err
		}
		if v, _, _, err := inspect(open, enter); v != isolated || err != nil {
			return fmt.Errorf("%s, %w", v, err)
		}
		unmounted = unix.Unmount(ns.Path, 0) // from inside
		return nil
	})
	if err != nil || unmounted != nil {
		t.Fatal(err, unmounted)
	}
	if err := unix.Mount("/proc/self/ns/uts", ns.Path, "", unix.MS_BIND, ""); err != nil { // for nstest's clean-up
		t.Error(err)
	}
}
