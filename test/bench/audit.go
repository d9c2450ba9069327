package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/internal/netns"
)

// Look is what a program takes for a look at all namespaces, where so many
// containers live.
type Look struct {
	Program    string
	Namespaces int
	Wall, CPU  Stat
	User       Stat // of CPU
}

// The programs that look.
const (
	audit      = "none-audit"
	otherAudit = "none-audit-other" // the build that -other-audit names
	lookFloor  = "bench-lookfloor"
)

// looks times none-audit's list while more and more containers live. Each is a
// namespace with a bind mount and a process, as a runtime makes it. What else
// runs on the machine is looked at too: the first row is for that.
func (b *bench) looks() error {
	programs := map[string]string{audit: filepath.Join(b.bin, audit), lookFloor: filepath.Join(b.bin, lookFloor)}
	if b.otherAudit != "" {
		programs[otherAudit] = b.otherAudit
	}
	names := slices.Sorted(maps.Keys(programs))
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
		samples := map[string][]sample{}
		for round := range b.auditRounds + 1 {
			rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			for _, name := range names {
				s, err := b.look(name, programs[name], n)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				if round > 0 {
					samples[name] = append(samples[name], s)
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(programs)) {
			of := samples[name]
			b.Looks = append(b.Looks, Look{name, n, stat(of, wall), stat(of, cpu), stat(of, user)})
		}
	}
	return nil
}

// look runs one of the programs, and sees to it that none is fast because it
// does not find the namespaces.
func (b *bench) look(name, program string, n int) (sample, error) {
	if name == lookFloor {
		var files []string
		for i := range n {
			files = append(files, b.box(i))
		}
		return runLook(exec.Command(program, files...))
	}
	var out bytes.Buffer
	cmd := exec.Command(program, "--json")
	cmd.Stdout = &out
	s, err := runLook(cmd)
	// Status 1 and 2 are about what else is on this machine.
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		err = nil
	}
	if found := bytes.Count(out.Bytes(), []byte(`"inode":`)); err == nil && found < n {
		err = fmt.Errorf("it lists %d namespaces, and there are %d", found, n)
	}
	return s, err
}

func runLook(cmd *exec.Cmd) (s sample, err error) {
	start := time.Now()
	err = cmd.Run()
	s.Wall = time.Since(start)
	if cmd.ProcessState != nil {
		s.User = cmd.ProcessState.UserTime()
		s.CPU = s.User + cmd.ProcessState.SystemTime()
	}
	return s, err
}

func (b *bench) box(i int) string { return filepath.Join(b.dir, fmt.Sprintf("box%d", i)) }

func (b *bench) container(i int) (*exec.Cmd, error) {
	path := b.box(i)
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

func (b *bench) lookTable(w io.Writer) {
	if len(b.Looks) == 0 {
		return
	}
	fmt.Fprintln(w, "\nOne look at all namespaces, in ms; the last column is what one more container costs, in µs of CPU.")
	fmt.Fprintln(w, "\n| program | containers | CPU | p90 | of it user | wall | p90 | one more |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|")
	first := map[string]Look{}
	for _, l := range b.Looks {
		more := ""
		if one, ok := first[l.Program]; ok {
			more = fmt.Sprintf("%.0f", (l.CPU.Median-one.CPU.Median)/float64(l.Namespaces-one.Namespaces))
		} else {
			first[l.Program] = l
		}
		fmt.Fprintf(w, "| %s | %d | %.1f | %.1f | %.1f | %.1f | %.1f | %s |\n",
			l.Program, l.Namespaces, l.CPU.Median/1000, l.CPU.P90/1000, l.User.Median/1000, l.Wall.Median/1000, l.Wall.P90/1000, more)
	}
}
