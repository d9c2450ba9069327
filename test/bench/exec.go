package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// sample is what one exec cost.
type sample struct {
	Wall   time.Duration // from before fork to after wait
	CPU    time.Duration // user and system time, of children too (bridge execs host-local)
	User   time.Duration // of CPU, where it is asked for
	Faults int64         // page faults that needed no disk
}

// call is a plugin's exec as a runtime would do it.
type call struct {
	program string   // path of the binary
	args    []string // with the program's own name; nil for that alone
	env     []string
	stdin   []byte
}

// spawn runs c and waits for it. It uses pipes, as runtimes do, but no
// goroutines: both ways are shorter than a pipe is (64 KiB, pipe(7)).
func spawn(c call) (s sample, stdout []byte, err error) {
	var in, out [2]int
	if err := syscall.Pipe2(in[:], syscall.O_CLOEXEC); err != nil {
		return s, nil, err
	}
	if err := syscall.Pipe2(out[:], syscall.O_CLOEXEC); err != nil {
		return s, nil, err
	}
	if _, err := syscall.Write(in[1], c.stdin); err != nil {
		return s, nil, err
	}
	syscall.Close(in[1])
	defer syscall.Close(out[0])

	if c.args == nil {
		c.args = []string{c.program}
	}
	start := time.Now()
	pid, err := syscall.ForkExec(c.program, c.args, &syscall.ProcAttr{
		Env: c.env, Files: []uintptr{uintptr(in[0]), uintptr(out[1]), 2},
	})
	if err != nil {
		return s, nil, fmt.Errorf("exec %s: %w", c.program, err)
	}
	stuck := time.AfterFunc(time.Minute, func() { syscall.Kill(pid, syscall.SIGKILL) })
	var status syscall.WaitStatus
	var usage syscall.Rusage
	for {
		if _, err = syscall.Wait4(pid, &status, 0, &usage); err != syscall.EINTR {
			break
		}
	}
	s.Wall = time.Since(start)
	stuck.Stop()
	syscall.Close(in[0])
	syscall.Close(out[1])
	if err != nil {
		return s, nil, err
	}
	s.CPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	s.Faults = usage.Minflt

	buf := make([]byte, 64<<10)
	n, err := syscall.Read(out[0], buf)
	if err != nil {
		return s, nil, err
	}
	stdout = buf[:n]
	if !status.Exited() || status.ExitStatus() != 0 {
		return s, stdout, fmt.Errorf("%s ended with status %#x: %s", filepath.Base(c.program), int(status), bytes.TrimSpace(stdout))
	}
	return s, stdout, nil
}

// cniEnv is what containerd gives a plugin beside its own environment.
func cniEnv(command, netns, ifname, path string) []string {
	// 64 hex digits, another one for every namespace.
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(netns)))
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"CNI_COMMAND=" + command,
		"CNI_CONTAINERID=" + id,
		"CNI_NETNS=" + netns,
		"CNI_IFNAME=" + ifname,
		"CNI_PATH=" + path,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench;" +
			"K8S_POD_INFRA_CONTAINER_ID=" + id + ";K8S_POD_UID=2b9d3a54-8f0e-4d0a-9d3e-0f6c1c2f7a11",
	}
}

// copyTo copies the binaries into dir, all the same way, in the order given.
func copyTo(dir string, files []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if out, err := exec.Command("cp", f, dir+"/").CombinedOutput(); err != nil {
			return fmt.Errorf("cp %s: %w: %s", f, err, out)
		}
	}
	return nil
}
