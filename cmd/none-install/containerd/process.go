package containerd

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process that /proc shows.
type process struct {
	pid     int
	started string // field 22 of /proc/PID/stat: with pid, which process this is
}

func (p process) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(p.pid), name)
}

// note learns when it was started.
func (p *process) note() error {
	stat, err := os.ReadFile(p.proc("stat"))
	if err != nil {
		return fmt.Errorf("look at the container runtime's process (in a container, this needs hostPID): %w", err)
	}
	// The name in parentheses may hold anything; what follows it is numbers.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) > 19 {
		p.started = fields[19]
	}
	return nil
}

func (p process) program() (string, error) {
	exe, err := os.Readlink(p.proc("exe"))
	// An upgraded package has replaced the program under the process.
	return strings.TrimSuffix(exe, " (deleted)"), err
}

// config is the file that containerd was given.
func (p process) config() (string, error) {
	config := defaultConfig
	cmdline, err := os.ReadFile(p.proc("cmdline"))
	if err != nil {
		return "", err
	}
	args := strings.Split(string(cmdline), "\x00")
	for i, a := range args {
		for _, flag := range []string{"--config", "-config", "-c", "--c"} {
			if a == flag && i+1 < len(args) {
				config = args[i+1]
			} else if v, ok := strings.CutPrefix(a, flag+"="); ok {
				config = v
			}
		}
	}
	if filepath.IsAbs(config) {
		return config, nil
	}
	cwd, err := os.Readlink(p.proc("cwd"))
	return filepath.Join(cwd, config), err
}

// unit returns the systemd unit that it belongs to.
func (p process) unit() (string, error) {
	data, err := os.ReadFile(p.proc("cgroup"))
	if err != nil {
		return "", err
	}
	if unit := unitOf(string(data)); unit != "" {
		return unit, nil
	}
	return "", fmt.Errorf("%w (process %d)", ErrNoUnit, p.pid)
}

// unitOf finds a service in a process' control groups (cgroups(7)).
func unitOf(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		_, path, _ := strings.Cut(strings.TrimSpace(line), ":")
		if _, path, _ = strings.Cut(path, ":"); strings.HasSuffix(path, ".service") {
			return filepath.Base(path)
		}
	}
	return ""
}

// listener returns the process that listens on a unix socket: the kernel notes
// it at listen(2) (SO_PEERCRED in unix(7)).
func listener(path string) (int, error) {
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	if cred.Pid == 0 {
		return 0, fmt.Errorf("the process behind %s is in another PID namespace: run with the host's (hostPID: true)", path)
	}
	return int(cred.Pid), nil
}
