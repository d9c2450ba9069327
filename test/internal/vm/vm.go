// Package vm makes machines for tests: a Debian kernel of any release and
// architecture in QEMU, with no more than busybox on it, or a whole Debian with
// systemd from a disk. The processor is emulated (TCG), so it needs no KVM and no
// root, and a minute of work takes a few.
//
// A machine has no network. The test talks to an agent in it, through a virtio
// port. QEMU ends with the test, in whatever way that ends.
package vm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Patience is how long a machine may take for one answer. It guards against one
// that hangs and is far above what a slow one needs.
const Patience = 20 * time.Minute

// arch is what QEMU needs to be told for an architecture.
type arch struct {
	program string
	args    []string
	console string
	serial  string   // the virtio device that has ports
	modules []string // for that and for disks
}

// An emulated processor may be too slow for amd64's check of its timer, and miss a
// timer that is set for once: the kernel then stops for good, or sleeps. A tick that
// comes anyway has no such end (Documentation/admin-guide/kernel-parameters.txt). The
// counter of its cycles is this machine's, which may jump from one processor to the
// next: a test was told that 15 minutes had passed after one. The ACPI timer counts time.
// What amd64 does against the leaks of real processors costs an emulated one a quarter
// of its time, and guards nothing.
var arches = map[string]arch{
	"amd64": {"qemu-system-x86_64", []string{"-cpu", "max"}, "ttyS0 no_timer_check nohz=off highres=off tsc=unstable clocksource=acpi_pm mitigations=off", "virtio-serial-pci", []string{"virtio_pci", "virtio_console", "virtio_blk"}},
	"arm64": {"qemu-system-aarch64", []string{"-M", "virt", "-cpu", "max,pauth-impdef=on"}, "ttyAMA0", "virtio-serial-pci", []string{"virtio_pci", "virtio_console", "virtio_blk"}},
	"s390x": {"qemu-system-s390x", []string{"-M", "s390-ccw-virtio", "-cpu", "qemu"}, "ttysclp0", "virtio-serial-ccw", []string{"virtio_console", "virtio_blk"}},
}

// Config describes a machine.
type Config struct {
	Kernel  *Kernel
	Busybox string
	Files   map[string]string // path in the machine: file or directory here
	Modules []string          // files, in the order in which they are loaded at the start
	Late    []string          // files that are there, listed in /modules/late, and not loaded
	Append  string            // to the kernel's command line
	// Root is an ext4 image to run from, with the agent as one of its services;
	// Files and Modules are then for the way there. It is not written to.
	Root string
	Data string // another image, /dev/vdb
	CPUs int
}

// Machine is one that runs.
type Machine struct {
	testing.TB
	cmd     *exec.Cmd
	ended   chan error
	conn    net.Conn
	in      *bufio.Reader
	console string
}

const initScript = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
echo root:x:0:0:root:/:/bin/sh >/etc/passwd
for m in $(cat /modules/order); do insmod $m || echo "cannot load $m"; done
ip link set lo up
`

const runAgent = `/agent
poweroff -f
`

// The root's own init takes over.
const switchRoot = `mount -t ext4 /dev/vda /mnt || poweroff -f
umount /sys/fs/cgroup /dev/pts /tmp /run /sys
exec switch_root /mnt /sbin/init
`

// Start starts a machine and waits until its agent answers.
func Start(tb testing.TB, c Config) *Machine {
	tb.Helper()
	// The name of a socket is at most 107 bytes, which tb.TempDir() need not be.
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	args, err := c.arguments(dir)
	if err != nil {
		tb.Fatal(err)
	}
	m := &Machine{TB: tb, console: filepath.Join(dir, "console"), ended: make(chan error, 1)}
	started := make(chan error)
	go func() {
		// The parent-death signal is tied to the thread that starts the child.
		runtime.LockOSThread()
		m.cmd = exec.Command(arches[c.Kernel.Arch].program, args...)
		m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		stderr := &strings.Builder{}
		m.cmd.Stderr = stderr
		started <- m.cmd.Start()
		_ = m.cmd.Wait() // its state says how it ended
		m.ended <- fmt.Errorf("QEMU ended: %s: %s", m.cmd.ProcessState, stderr)
		close(m.ended)
	}()
	if err := <-started; err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(m.Stop)
	m.connect(filepath.Join(dir, "agent"))
	m.waitReady()
	return m
}

// arguments writes what the machine starts from and returns QEMU's arguments.
func (c *Config) arguments(dir string) ([]string, error) {
	k := c.Kernel
	a, known := arches[k.Arch]
	if !known {
		return nil, fmt.Errorf("no machine of architecture %s is known here", k.Arch)
	}
	names := a.modules
	files := map[string]string{"/bin/busybox": c.Busybox}
	init := initScript + runAgent
	if c.Root != "" {
		names = append(names, "ext4")
		init = initScript + switchRoot
	} else {
		files["/agent"] = filepath.Join(dir, "agent.program")
		if err := buildAgent(files["/agent"], k.Arch); err != nil {
			return nil, err
		}
	}
	for to, from := range c.Files {
		files[to] = from
	}
	modules, err := k.Modules(names...)
	if err != nil {
		return nil, err
	}
	modules = without(append(modules, c.Modules...), nil)
	ramdisk, err := initrd(dir, init, files, modules, without(c.Late, modules))
	if err != nil {
		return nil, err
	}
	image, err := k.image()
	if err != nil {
		return nil, err
	}
	args := append([]string{"-accel", "tcg,thread=multi", "-smp", fmt.Sprint(max(c.CPUs, 1)), "-m", "2G", "-nic", "none",
		"-display", "none", "-monitor", "none", "-serial", "file:" + filepath.Join(dir, "console"),
		"-device", a.serial, "-chardev", "socket,id=agent,server=on,wait=off,path=" + filepath.Join(dir, "agent"),
		"-device", "virtserialport,chardev=agent,name=agent",
		"-kernel", image, "-initrd", ramdisk, "-append", "console=" + a.console + " quiet panic=-1 " + c.Append}, a.args...)
	if c.Root == "" {
		args = append(args, "-no-reboot") // a panic ends it
	}
	for _, disk := range []string{c.Root, c.Data} {
		if disk != "" {
			args = append(args, "-drive", "if=virtio,format=raw,snapshot=on,file="+disk)
		}
	}
	return args, nil
}

// connect opens our end of the agent's port, which QEMU makes when it starts.
func (m *Machine) connect(path string) {
	m.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.Dial("unix", path)
		if err == nil {
			m.conn, m.in = conn, bufio.NewReader(conn)
			m.Cleanup(func() { conn.Close() })
			return
		}
		select {
		case err := <-m.ended:
			m.Fatal(err)
		default:
		}
		if time.Now().After(deadline) {
			m.Fatal(err)
		}
	}
}

type answer struct {
	Output string `json:"output"`
	Status int    `json:"status"`
}

// waitReady waits for the agent's first words.
func (m *Machine) waitReady() {
	m.Helper()
	if a := m.receive(); a.Output != "ready" {
		m.Fatalf("the agent started with %q", a.Output)
	}
}

func (m *Machine) receive() answer {
	m.Helper()
	m.conn.SetReadDeadline(time.Now().Add(Patience))
	line, err := m.in.ReadBytes('\n')
	var a answer
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err != nil {
		m.Fatalf("the machine does not answer: %v\nits console ends:\n%s", err, m.tail())
	}
	return a
}

// tail returns the end of the console.
func (m *Machine) tail() string {
	text, _ := os.ReadFile(m.console)
	return string(text[max(0, len(text)-4000):])
}

// Run runs a script in the machine and returns what it printed and its exit status.
func (m *Machine) Run(script string) (string, int) {
	m.Helper()
	if err := json.NewEncoder(m.conn).Encode(map[string]string{"script": script}); err != nil {
		m.Fatalf("the machine is gone: %v\nits console ends:\n%s", err, m.tail())
	}
	a := m.receive()
	return a.Output, a.Status
}

// Must is Run for a script that has to succeed.
func (m *Machine) Must(script string) string {
	m.Helper()
	out, status := m.Run(script)
	if status != 0 {
		m.Fatalf("in the machine: %s\nexit status %d:\n%s", script, status, out)
	}
	return out
}

// Stop pulls the plug, and does nothing the second time.
func (m *Machine) Stop() {
	m.cmd.Process.Kill()
	for range m.ended { // until it is gone
	}
}

// Reboot restarts a machine that runs from a disk, as its user would.
func (m *Machine) Reboot() {
	m.Helper()
	m.Must("systemctl --no-block reboot")
	m.waitReady()
}
