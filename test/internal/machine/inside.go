package machine

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// Machine is one that a test can start programs on. The zero value is the one that
// the test is on itself.
type Machine struct{ pid int } // of its process 1

// Here is the machine that the tests are on.
func Here() *Machine { return new(Machine) }

// New makes a machine, for a suite that has several. It is gone when the test ends.
func New(tb testing.TB) *Machine {
	tb.Helper()
	cmd := again("several")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // process 1 ends when it is closed
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("make a machine's namespaces: %v", err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() // process 1 takes everything in its PID namespace along
		_ = cmd.Wait()
	})
	if said, err := io.ReadAll(out); string(said) != "ready\n" {
		tb.Fatalf("the machine did not come up: %s, %v", said, err)
	}
	return &Machine{cmd.Process.Pid}
}

// Path is where the test finds a file of the machine's.
func (m *Machine) Path(path string) string {
	if m.pid == 0 {
		return path
	}
	return "/proc/" + strconv.Itoa(m.pid) + "/root" + path
}

// Command is a program on the machine, at the top of the repository. It ends with
// the machine.
func (m *Machine) Command(args ...string) *exec.Cmd {
	if m.pid != 0 {
		// nsenter forks to enter the PID namespace; what it forks ends with it.
		args = append([]string{"nsenter", "-t", strconv.Itoa(m.pid), "-m", "-n", "-p", "-i", "-u", "--wd=" + harness.Repo(),
			"--", "setpriv", "--pdeathsig", "KILL", "--"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = harness.Repo()
	cmd.Env = os.Environ()
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Run runs a program that has to succeed and returns what it said.
func (m *Machine) Run(tb testing.TB, args ...string) string {
	tb.Helper()
	out, err := m.Command(args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Read reads a file of the machine's.
func (m *Machine) Read(tb testing.TB, path string) string {
	tb.Helper()
	return harness.Read(tb, m.Path(path))
}

// Write writes a file of the machine's, and makes its directory.
func (m *Machine) Write(tb testing.TB, path, text string, mode os.FileMode) {
	tb.Helper()
	harness.Write(tb, m.Path(path), text, mode)
}

// Daemon is a program that runs until it is stopped, or the test ends.
type Daemon struct {
	Log string // its outputs, of every time that it was started

	m    *Machine
	path string
	args []string
	cmd  *exec.Cmd
	done chan struct{}
}

// Daemon starts a daemon. path is put before PATH. When the test fails, it shows
// the end of the daemon's log.
func (m *Machine) Daemon(tb testing.TB, path string, args ...string) *Daemon {
	tb.Helper()
	log, err := os.CreateTemp(m.Path("/run/log"), filepath.Base(args[0])+"-*.log")
	if err != nil {
		tb.Fatal(err)
	}
	log.Close()
	d := &Daemon{Log: log.Name(), m: m, path: path, args: args}
	d.Start(tb)
	tb.Cleanup(func() {
		d.Stop()
		if tb.Failed() {
			tb.Logf("the end of %s:\n%s", d.Log, harness.Tail(d.Log, 30))
		}
	})
	return d
}

// Start starts a daemon that has been stopped.
func (d *Daemon) Start(tb testing.TB) {
	tb.Helper()
	log, err := os.OpenFile(d.Log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	cmd, done := d.m.Command(d.args...), make(chan struct{})
	cmd.Env = append(cmd.Env, "PATH="+d.path+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // the log says why
		close(done)
	}()
	d.cmd, d.done = cmd, done
}

// MustRun fails the test when the daemon has ended by itself: nothing that waits for
// it need go on.
func (d *Daemon) MustRun(tb testing.TB) {
	tb.Helper()
	select {
	case <-d.done:
		tb.Fatalf("%s has ended: %v", d.args[0], d.cmd.ProcessState)
	default:
	}
}

// Stop ends the daemon; what it started in sessions of their own (shims) lives on.
func (d *Daemon) Stop() {
	_ = d.cmd.Process.Signal(unix.SIGTERM) // an error means that it has ended already
	select {
	case <-d.done:
	case <-time.After(30 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.done
	}
}

// Kill ends it at once, as a crash does.
func (d *Daemon) Kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}
