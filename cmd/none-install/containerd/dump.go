package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DiskConfig is containerd's own reading of its files, imports and all.
type DiskConfig struct {
	tree    tree
	section string // of the CRI plugin
	gen     generation
}

// newDiskConfig takes what `containerd config dump` wrote about the file config.
func newDiskConfig(t tree, config string) (*DiskConfig, error) {
	d := &DiskConfig{tree: t}
	for _, g := range generations {
		if s := g.section(t); s != "" {
			d.section, d.gen = s, g
			break
		}
	}
	if disabled, _ := t["disabled_plugins"].([]any); d.gen == nil || slices.ContainsFunc(disabled, func(v any) bool {
		return v == sectionV1 || v == sectionV2 || v == sectionV3
	}) {
		return nil, fmt.Errorf("containerd's CRI plugin is switched off in %s (disabled_plugins): Kubernetes does not use this containerd", config)
	}
	return d, nil
}

// Dump has the node's containerd read its files.
func (e *Engine) Dump(ctx context.Context) (*DiskConfig, error) {
	_, err := os.Stat(e.Config)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e.dump(ctx, []string{"config", "default"}) // what it does without one
	case err != nil:
		return nil, err
	}
	return e.dump(ctx, []string{"--config", e.Config, "config", "dump"})
}

// dumpTexts has it read a config that is in memory. Later texts can be imported
// as fdPath(1), fdPath(2) and so on.
func (e *Engine) dumpTexts(ctx context.Context, texts ...[]byte) (*DiskConfig, error) {
	return e.dump(ctx, []string{"--config", fdPath(0), "config", "dump"}, texts...)
}

func (e *Engine) dump(ctx context.Context, args []string, texts ...[]byte) (*DiskConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.Program, args...)
	cmd.Dir = "/" // as a service
	for _, t := range texts {
		fd, err := unix.MemfdCreate("config.toml", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), "config.toml")
		defer f.Close()
		if _, err := f.Write(t); err != nil {
			return nil, err
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", e.Program, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()+lastLine(stdout.String())))
	}
	t, err := parse(stdout.Bytes())
	if err != nil {
		return nil, fmt.Errorf("read what `%s config dump` wrote: %w", e.Program, err)
	}
	return newDiskConfig(t, e.Config)
}

// fdPath is where a child process finds the n-th text that dump hands it.
func fdPath(n int) string { return fmt.Sprintf("/proc/self/fd/%d", 3+n) }

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func (d *DiskConfig) runtimes() tree {
	return at(d.tree, "plugins", d.section, "containerd", "runtimes")
}

func (d *DiskConfig) runtime(name string) tree { t, _ := d.runtimes()[name].(tree); return t }

// HasHandler says whether the files name that handler.
func (d *DiskConfig) HasHandler(name string) bool { return d.runtimes()[name] != nil }

// With names the handlers in the files that have that CNI directory.
func (d *DiskConfig) With(confDir string) []string {
	var names []string
	for name := range d.runtimes() {
		if d.runtime(name)["cni_conf_dir"] == confDir {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Base returns the handler that another is a copy of; "" stands for the default one.
func (d *DiskConfig) Base(name string) string {
	if name == "" {
		name, _ = at(d.tree, "plugins", d.section, "containerd")["default_runtime_name"].(string)
	}
	if name == "" {
		name = "runc"
	}
	return name
}

// BinDirs returns where containerd looks for CNI plugins.
func (d *DiskConfig) BinDirs() []string {
	cni := at(d.tree, "plugins", d.section, "cni")
	var dirs []string
	if list, _ := cni["bin_dirs"].([]any); len(list) > 0 {
		for _, v := range list {
			if s, _ := v.(string); s != "" {
				dirs = append(dirs, s)
			}
		}
	}
	if s, _ := cni["bin_dir"].(string); s != "" && len(dirs) == 0 {
		dirs = []string{s}
	}
	return dirs
}

// Deviates lists what a handler has that a copy of base with a CNI directory
// would not have, and the other way round.
func (d *DiskConfig) Deviates(handler, base, confDir string) []string {
	return diff(handlerTable(d.runtime(base), confDir), dropZero(d.runtime(handler)), func([]string) bool { return false })
}

// diff lists what two dumps differ in, besides the named handlers and the list
// of imported files.
func (d *DiskConfig) diff(after *DiskConfig, handlers []string) []string {
	return diff(d.tree, after.tree, func(path []string) bool {
		if len(path) == 1 && path[0] == "imports" {
			return true
		}
		return len(path) == 5 && path[0] == "plugins" && path[2] == "containerd" && path[3] == "runtimes" && slices.Contains(handlers, path[4])
	})
}

// others names the handlers besides these.
func (d *DiskConfig) others(handlers []string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(d.runtimes())), func(n string) bool { return slices.Contains(handlers, n) })
}
