// Command agent runs, inside a machine, what the test outside asks for. It reads
// requests from a virtio port and answers each with what the script printed and
// its exit status; see package vm for the other end.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type request struct {
	Script string `json:"script"`
}

type answer struct {
	Output string `json:"output"`
	Status int    `json:"status"`
}

func main() {
	err := serve()
	fmt.Fprintln(os.Stderr, "agent:", err)
	os.Exit(1)
}

func serve() error {
	port, err := open("agent")
	if err != nil {
		return err
	}
	lines := bufio.NewReader(port)
	out := json.NewEncoder(port)
	if err := out.Encode(answer{Output: "ready"}); err != nil {
		return err
	}
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err // the test has ended
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		if err := out.Encode(run(r.Script)); err != nil {
			return err
		}
	}
}

// open finds a virtio port by its name (Documentation/ABI/testing/sysfs-class-virtio-ports).
func open(name string) (*os.File, error) {
	for range 300 {
		files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == name {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(f)), os.O_RDWR, 0)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("no virtio port is called %q", name)
}

// run writes to a file and not to a pipe, which a daemon that the script leaves
// behind would keep open.
func run(script string) answer {
	f, err := os.CreateTemp("", "agent")
	if err != nil {
		return answer{err.Error(), 125}
	}
	defer f.Close()
	os.Remove(f.Name())
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Run()
	exit := new(exec.ExitError)
	if err != nil && !errors.As(err, &exit) {
		return answer{err.Error(), 125}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return answer{err.Error(), 125}
	}
	return answer{string(text), cmd.ProcessState.ExitCode()}
}
