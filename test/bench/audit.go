package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
)

// Look is what a list of all namespaces costs, where so many containers live.
type Look struct {
	Namespaces int
	Wall, CPU  Stat
}

// looks times none-audit's list while more and more containers live. Each is a
// namespace with a bind mount and a process, as a runtime makes it. What else
// runs on the machine is looked at too: the first row is for that.
func (b *bench) looks() error {
	program := filepath.Join(b.bin, "none-audit")
	var boxes []*exec.Cmd
	defer func() {
		for _, box := range boxes {
			_ = box.Process.Kill()
			_ = box.Wait()
		}
	}()
	for _, n := range b.audited {
		for len(boxes) < n {
			box, err := b.container(len(boxes))
			if err != nil {
				return fmt.Errorf("container %d of %d: %w", len(boxes)+1, n, err)
			}
			boxes = append(boxes, box)
		}
		var samples []sample
		for range b.auditRounds + 1 {
			var out bytes.Buffer
			s, err := list(program, &out)
			if err != nil {
				return err
			}
			if found := bytes.Count(out.Bytes(), []byte(`"inode":`)); found < n {
				return fmt.Errorf("none-audit lists %d namespaces, and there are %d", found, n)
			}
			samples = append(samples, s)
		}
		samples = samples[1:]
		b.Looks = append(b.Looks, Look{n, stat(samples, wall), stat(samples, cpu)})
	}
	return nil
}

func (b *bench) container(i int) (*exec.Cmd, error) {
	path := filepath.Join(b.dir, fmt.Sprintf("box%d", i))
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	box := exec.Command("sleep", "600")
	return box, netns.InNew(func() error {
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
		return box.Start()
	})
}

func list(program string, out io.Writer) (s sample, err error) {
	cmd := exec.Command(program, "--json")
	cmd.Stdout = out
	start := time.Now()
	err = cmd.Run()
	s.Wall = time.Since(start)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || !exit.Exited()) {
		return s, err
	}
	s.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return s, nil
}

func (b *bench) lookTable(w io.Writer) {
	if len(b.Looks) == 0 {
		return
	}
	fmt.Fprintln(w, "\nOne list of all namespaces by none-audit, in ms; the last column is what one more container costs, in µs.")
	fmt.Fprintln(w, "\n| containers | CPU | p90 | wall | p90 | CPU for one more |")
	fmt.Fprintln(w, "|--:|--:|--:|--:|--:|--:|")
	for i, l := range b.Looks {
		more := ""
		if first := b.Looks[0]; i > 0 {
			more = fmt.Sprintf("%.0f", (l.CPU.Median-first.CPU.Median)/float64(l.Namespaces-first.Namespaces))
		}
		fmt.Fprintf(w, "| %d | %.1f | %.1f | %.1f | %.1f | %s |\n",
			l.Namespaces, l.CPU.Median/1000, l.CPU.P90/1000, l.Wall.Median/1000, l.Wall.P90/1000, more)
	}
}
