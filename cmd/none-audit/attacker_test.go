package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/nstest"
)

// attackVar makes the test binary an attacker: what it names is done, "ready" and
// what a test has to know is printed, and then it goes on until it is killed.
const attackVar = "NONE_AUDIT_TEST_ATTACK"

var attacks = map[string]func(args []string) error{
	"enter":     enterUserNamespace,
	"mounts":    manyMounts,
	"addresses": manyAddresses,
	"churn":     churnLinks,
	"threads":   manyThreads,
	"files":     manyFiles,
	"forks":     forkAllTheTime,
	"fork":      forkAndExit,
	"leader":    endFirstThread,
	"mount":     mountInThread,
	"rootless":  keepNamespace,
}

func attackMain(name string) {
	if err := attacks[name](os.Args[1:]); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	for {
		_ = unix.Pause() // select would be a deadlock to a program without cgo, and a timer wants a file
	}
}

func ready(what string) { fmt.Println("ready", what) }

// attack starts an attacker, waits until it is ready and returns what it said.
// With enter it runs as root of a user namespace that an ordinary user made,
// where the machine has one to be.
func attack(t *testing.T, name string, attr *syscall.SysProcAttr, args ...string) (pid int, said string) {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	cmd := exec.Command("/proc/self/fd/3", args...)
	cmd.ExtraFiles = []*os.File{self}
	cmd.Env = append(os.Environ(), attackVar+"="+name)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = attr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // what it started, where that is a group
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	said, ok := strings.CutPrefix(strings.TrimSpace(line), "ready")
	if !ok {
		t.Fatalf("%s: %q, %v", name, line, err)
	}
	return cmd.Process.Pid, strings.TrimSpace(said)
}

// asUser is for an attacker that begins as an ordinary user, where there is one.
func asUser() *syscall.SysProcAttr {
	cmd := &exec.Cmd{}
	powerless(cmd)
	cmd.SysProcAttr.Setpgid = true
	return cmd.SysProcAttr
}

// enterUserNamespace starts the attack that its argument names as root of new
// namespaces, and passes on what that says.
func enterUserNamespace(args []string) error {
	cmd := exec.Command("/proc/self/exe", args[1:]...)
	cmd.Env = append(os.Environ(), attackVar+"="+args[0])
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID, // what it starts ends with it
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   unix.SIGKILL,
	}
	runtime.LockOSThread()
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Wait()
}

// manyMounts bind-mounts its network namespace on so many files, in as many mount
// namespaces as that takes, each of which a thread is in.
func manyMounts(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	const each = 50_000 // half of what the kernel allows (fs.mount-max)
	done := make(chan error)
	threads := 0
	for ; n > 0; n -= each {
		threads++
		go func(n int) {
			runtime.LockOSThread()
			done <- mountMany(n)
			_ = unix.Pause()
		}(min(n, each))
	}
	for range threads {
		if err := <-done; err != nil {
			return err
		}
	}
	ready("")
	return nil
}

// mountMany gives the thread a mount namespace of its own with so many mounts.
func mountMany(n int) error {
	err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil {
		err = unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "")
	}
	for i := 0; i < n && err == nil; i++ {
		path := fmt.Sprintf("/tmp/%d", i)
		if err = os.WriteFile(path, nil, 0o600); err == nil {
			err = unix.Mount("/proc/self/ns/net", path, "", unix.MS_BIND, "")
		}
	}
	return err
}

// manyAddresses makes so many addresses, 2,000 on an interface; the kernel takes
// the longer for one more the more an interface has.
func manyAddresses(args []string) error {
	const each = 2000
	n, err := strconv.Atoi(args[0])
	for i := 0; i < n/each && err == nil; i++ {
		name := fmt.Sprintf("v%d", i)
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}, PeerName: "p" + name}
		err = netlink.LinkAdd(link)
		for j := 0; j < each && err == nil; j++ {
			err = netlink.AddrAdd(link, &netlink.Addr{IPNet: netlink.NewIPNet([]byte{10, byte(i), byte(j >> 8), byte(j)})})
		}
	}
	if err == nil {
		ready("")
	}
	return err
}

// churnLinks makes and removes interfaces, beside some that stay.
func churnLinks([]string) error {
	add := func(name string) error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}, PeerName: "p" + name})
	}
	for i := range 50 {
		if err := add(fmt.Sprintf("v%d", i)); err != nil {
			return err
		}
	}
	ready("")
	for {
		lo, err := netlink.LinkByName("v0")
		for i := 0; err == nil && i < 100; i++ {
			err = netlink.LinkSetMTU(lo, 1000+i)
		}
		if err != nil {
			return err
		}
	}
}

func manyThreads(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var up sync.WaitGroup
	up.Add(n)
	for range n {
		go func() {
			runtime.LockOSThread()
			up.Done()
			_ = unix.Pause()
		}()
	}
	up.Wait()
	ready("")
	return nil
}

// manyFiles opens as many descriptors as it may, in a table that it shares with
// so many processes that there are n altogether, which costs it nothing.
func manyFiles(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	var pipe [2]int // what has a path takes longer to look at, and the test too
	if err := unix.Pipe(pipe[:]); err != nil {
		return err
	}
	count := 0
	for count < n/2 {
		if _, err := unix.Dup(pipe[0]); err != nil {
			break
		}
		count++
	}
	runtime.LockOSThread() // the death of which ends the others
	second := unix.Timespec{Sec: 1}
	for shared := count; shared < n; shared += count {
		pid, err := clone(unix.CLONE_FILES)
		if err != 0 {
			return err
		}
		if pid == 0 {
			_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
			for {
				_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&second)), 0, 0)
			}
		}
	}
	ready(strconv.Itoa(count))
	return nil
}

// clone is fork(2) with flags, without all that Go would do about it: the child
// may make system calls and nothing else.
func clone(flags uintptr) (pid uintptr, err syscall.Errno) {
	flags |= uintptr(unix.SIGCHLD)
	if runtime.GOARCH == "s390x" {
		pid, _, err = syscall.RawSyscall6(unix.SYS_CLONE, 0, flags, 0, 0, 0, 0)
	} else {
		pid, _, err = syscall.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	}
	return pid, err
}

// forkAllTheTime is process 1 of a PID namespace, so that what it starts ends
// with it, whatever happens.
func forkAllTheTime(args []string) error {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), attackVar+"=fork")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		return err
	}
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && err != unix.EINTR {
			return err
		}
	}
}

// forkAndExit leaves its namespace to a child, that to another one, and so on: no
// process lives longer than its argument says, a time.
func forkAndExit(args []string) error {
	life, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	link, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	ready(strings.Trim(link, "net:[]"))
	pause := unix.Timespec{Nsec: int64(life)}
	for {
		if pid, err := clone(0); pid != 0 || err != 0 {
			_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
	}
}

// endFirstThread keeps a file open in a process whose first thread has ended.
func endFirstThread(args []string) error {
	f, err := unix.Open(args[0], unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	go func() {
		runtime.LockOSThread()
		for gone := false; !gone; time.Sleep(time.Millisecond) {
			_, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", os.Getpid()))
			gone = err != nil
		}
		ready(strconv.Itoa(f))
		_ = unix.Pause()
	}()
	_, _, _ = syscall.Syscall(unix.SYS_EXIT, 0, 0, 0) // of this thread, see init
	return nil
}

// mountInThread gives a thread that is not the first a mount namespace of its own.
func mountInThread([]string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		done <- err
		_ = unix.Pause()
	}()
	if err := <-done; err != nil {
		return err
	}
	ready("")
	return nil
}

// keepNamespace mounts a new network namespace where only its own user sees it,
// as a runtime without root does.
func keepNamespace(args []string) error {
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "")
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(args[0]), 0o755)
	}
	if err == nil {
		err = os.WriteFile(args[0], nil, 0o600)
	}
	if err == nil {
		err = unix.Mount("/proc/self/ns/net", args[0], "", unix.MS_BIND, "")
	}
	if err != nil {
		return err
	}
	link, err := os.Readlink("/proc/self/ns/net")
	ready(strings.Trim(link, "net:[]"))
	return err
}

// needRoot skips where namespaces may not be made.
func needRoot(t *testing.T) { nstest.New(t) }
