package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// What none-install keeps on the node, besides the plugin and the handler.
const (
	confDir   = "/etc/cni/airgap.d" // of its own: the default directory is every pod's
	conflist  = confDir + "/10-airgap.conflist"
	stateDir  = "/var/lib/cni-none"
	stateFile = stateDir + "/state.json"
	dropIn    = "cni-none.toml"
)

// state is what was put on the node. It is written before anything else and
// deleted after everything else, so that a run that was killed at any point can
// be completed or undone by the next one.
type state struct {
	Phase    string            `json:"phase"` // installing, installed, uninstalling
	Version  string            `json:"version"`
	Handlers map[string]string `json:"handlers"` // each with the handler that it is a copy of; "" is the default
	Target   string            `json:"target"`   // the config file that holds them
	// The program and the main config file of the containerd that was running.
	Containerd string   `json:"containerd"`
	Config     string   `json:"config"`
	Whole      bool     `json:"whole"` // the whole file is ours: a drop-in, or a config where there was none
	Files      []string `json:"files"` // the plugin, the conflist, backups
	Dirs       []string `json:"dirs"`  // made for them
}

func loadState() (*state, error) {
	data, err := os.ReadFile(stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s: %w", stateFile, err)
	}
	return s, nil
}

func (s *state) save() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	_, err = write(stateFile, append(data, '\n'), 0o644)
	return err
}

func (s *state) handlers() []string { return slices.Sorted(maps.Keys(s.Handlers)) }

func (s *state) own(file string) {
	if !slices.Contains(s.Files, file) {
		s.Files = append(s.Files, file)
	}
}

// configFile is one file of containerd's config.
type configFile struct {
	path   string
	text   []byte // as it is
	rest   []byte // without our block
	block  bool   // it has one
	parsed tree   // of rest
	exists bool
}

func readConfig(path string) (*configFile, error) {
	c := &configFile{path: path}
	var err error
	if c.text, err = os.ReadFile(path); err == nil {
		c.exists = true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if c.rest, c.block, err = strip(c.text); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if c.parsed, err = parse(c.rest); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func (c *configFile) version() int64 { v, _ := c.parsed["version"].(int64); return v }

// imports returns the patterns of a file, as containerd resolves them.
func (c *configFile) imports() (patterns []string, relative bool) {
	list, _ := c.parsed["imports"].([]any)
	for _, v := range list {
		p, _ := v.(string)
		if p = filepath.Clean(p); !filepath.IsAbs(p) {
			relative = true
			p = filepath.Join(filepath.Dir(c.path), p)
		}
		patterns = append(patterns, p)
	}
	return patterns, relative
}

// configFiles returns the main file, there or not, and the imported ones in the
// order in which containerd reads them.
func configFiles(main string) ([]*configFile, error) {
	var files []*configFile
	seen := map[string]bool{}
	for pending := []string{main}; len(pending) > 0; pending = pending[1:] {
		path := pending[0]
		if seen[path] {
			continue
		}
		seen[path] = true
		c, err := readConfig(path)
		if err != nil {
			return nil, err
		}
		files = append(files, c)
		patterns, _ := c.imports()
		for _, p := range patterns {
			matches, err := filepath.Glob(p)
			if err != nil {
				return nil, err
			}
			pending = append(pending, matches...)
		}
	}
	return files, nil
}

// edit is one change of containerd's config.
type edit struct {
	target   *configFile
	whole    bool
	want     []byte // nil: the file goes
	main     *configFile
	handlers []string
	before   *dumped
	tables   map[string]tree // each handler as it is to be
}

// planInstall decides which file gets the handlers, and what it will say.
func planInstall(ctx context.Context, e *engine, st *state) (*edit, error) {
	files, err := configFiles(e.config)
	if err != nil {
		return nil, err
	}
	before, err := e.dump(ctx, e.config)
	if err != nil {
		return nil, err
	}
	if loaded, _ := before.tree["imports"].([]any); !before.v2() && files[0].exists {
		// containerd 1 says which files it read. 1.6 takes a relative pattern from its
		// working directory, later versions take it from the importing file.
		files = slices.DeleteFunc(files, func(f *configFile) bool { return !slices.Contains(loaded, any(f.path)) })
		if len(files) == 0 || files[0].path != e.config {
			return nil, fmt.Errorf("containerd reads %v, and %s is not among these", loaded, e.config)
		}
	}
	p := &edit{main: files[0], before: before, handlers: st.handlers(), tables: map[string]tree{}}
	if err := p.chooseTarget(files, st); err != nil {
		return nil, err
	}
	for _, h := range p.handlers {
		if before.runtimes()[h] != nil && !p.target.block && !(p.whole && p.target.exists) {
			return nil, fmt.Errorf("containerd's config has a handler %q that none-install did not write; rename it, or take it out", h)
		}
		base := st.Handlers[h]
		if base == "" {
			base = before.defaultRuntime()
		}
		table, _ := before.runtimes()[base].(tree)
		if table == nil || slices.Contains(p.handlers, base) {
			others := slices.DeleteFunc(slices.Sorted(maps.Keys(before.runtimes())), func(n string) bool { return slices.Contains(p.handlers, n) })
			return nil, fmt.Errorf("no handler %q to copy: containerd has %s; choose one with --base-handler", base, strings.Join(others, ", "))
		}
		if at(before.tree, "plugins", "io.containerd.cri.v1.images", "runtime_platforms", base) != nil {
			return nil, fmt.Errorf("handler %q has an image platform of its own (runtime_platforms), which a copy of the handler would not have; choose another with --base-handler", base)
		}
		p.tables[h] = handlerTable(table)
	}
	block, err := p.block()
	if err != nil {
		return nil, err
	}
	if p.whole {
		p.want = []byte(blockBegin + block + blockEnd)
	} else {
		p.want = appendBlock(p.target.rest, block)
	}
	if _, err := parse(p.want); err != nil {
		return nil, fmt.Errorf("%s cannot take a table at its end (%w): it writes its plugins as inline tables or dotted keys; rewrite them as [tables]", p.target.path, err)
	}
	return p, nil
}

// handlerTable is a copy of the base handler with a CNI directory of its own.
// Keys at their zero value are left out: a handler that has none of them is the
// same, and another version of containerd may not know them. Inside options
// nothing is left out, since their zero value is not ours to know.
func handlerTable(base tree) tree {
	t := significant(base)
	t["cni_conf_dir"] = confDir
	t["cni_max_conf_num"] = int64(1)
	return t
}

func significant(t tree) tree {
	out := tree{}
	for k, v := range t {
		rv := reflect.ValueOf(v)
		if v == nil || rv.IsZero() || (rv.Kind() == reflect.Slice || rv.Kind() == reflect.Map) && rv.Len() == 0 {
			continue
		}
		out[k] = v
	}
	return out
}

// chooseTarget: where our edit is already, it stays. Otherwise containerd 2 gets
// a drop-in file, if it imports a directory of them. containerd 1 cannot have
// one, since there an imported file replaces the whole CRI section of the others:
// the file that holds the section, the last one read, gets the tables at its end.
func (p *edit) chooseTarget(files []*configFile, st *state) error {
	for _, f := range files {
		if f.block {
			p.target, p.whole = f, len(f.rest) == 0 && st.Target == f.path && st.Whole
			return nil
		}
	}
	if p.before.v2() && p.main.exists {
		patterns, _ := p.main.imports()
		for _, pattern := range patterns {
			path := filepath.Join(filepath.Dir(pattern), dropIn)
			if ok, _ := filepath.Match(pattern, path); ok && !strings.Contains(filepath.Dir(pattern), "*") {
				p.target, p.whole = &configFile{path: path}, true
				return nil
			}
		}
	}
	p.target = p.main
	for _, f := range files {
		plugins := at(f.parsed, "plugins")
		if plugins[sectionV1] != nil || plugins[sectionV2] != nil || plugins[sectionV3] != nil {
			p.target = f
		}
	}
	if !p.target.exists {
		p.whole = true
	}
	// k3s, RKE2 and others write the file anew at every start.
	head, _, _ := strings.Cut(string(p.target.rest), "[")
	if strings.Contains(strings.ToUpper(head), "DO NOT EDIT") {
		return fmt.Errorf("%s says DO NOT EDIT: something writes it anew at every start, and the handler would be lost. "+
			"Add it where that program takes it from (k3s and RKE2: a template beside it that begins with {{ template \"base\" . }}, see docs/install.md)", p.target.path)
	}
	return nil
}

// block writes the tables, under the names that the target file's version uses.
func (p *edit) block() (string, error) {
	version := p.target.version()
	if !p.before.v2() && p.target != p.main && version == 0 {
		version = p.main.version() // containerd 1 reads all of its files as the main one's version
	}
	var b strings.Builder
	if p.whole || len(p.target.parsed) == 0 {
		if version = 2; p.before.v2() {
			version = 3
		}
		fmt.Fprintf(&b, "version = %d\n", version)
	}
	section := sectionV1
	switch {
	case version >= 3:
		section = sectionV3
	case version == 2:
		section = sectionV2
	}
	prefix := "plugins." + quoteKey(section) + ".containerd.runtimes."

	tables := maps.Clone(p.tables)
	// containerd 1 drops its built-in runtimes as soon as the config names one:
	// with a file that has none, they have to be written out beside ours.
	if !p.before.v2() && len(at(p.target.parsed, "plugins", section, "containerd", "runtimes")) == 0 {
		for name, t := range p.before.runtimes() {
			if t, ok := t.(tree); ok && tables[name] == nil {
				tables[name] = t
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if err := emit(&b, prefix+quoteKey(name), tables[name]); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// preview has containerd read the config as it is going to be, before any file
// changes. It can where our file is the main one, or a drop-in.
func (p *edit) preview(ctx context.Context, e *engine) error {
	var after *dumped
	var err error
	_, relative := p.main.imports()
	switch {
	case p.target == p.main && p.want != nil && !relative:
		after, err = e.dump(ctx, e.config, p.want)
	case p.whole && p.want != nil && p.target != p.main:
		root := fmt.Sprintf("version = 3\nimports = [%q, %q]\n", e.config, memory(1))
		after, err = e.dump(ctx, e.config, []byte(root), p.want)
	default:
		return nil // the check after the change has to do
	}
	if err != nil {
		return fmt.Errorf("containerd does not accept the change: %w", err)
	}
	return p.check(after)
}

// check compares the config after the change with what it was.
func (p *edit) check(after *dumped) error {
	differences := p.before.diff(after, p.handlers)
	for _, h := range p.handlers {
		table, _ := after.runtimes()[h].(tree)
		for _, d := range diff(p.tables[h], significant(table), func([]string) bool { return false }) {
			differences = append(differences, "handler "+h+" is not as it was to be: "+d)
		}
	}
	if len(differences) > 0 {
		return fmt.Errorf("with the change in %s, containerd would differ in more than the handler %s:\n  %s",
			p.target.path, strings.Join(p.handlers, ", "), strings.Join(differences, "\n  "))
	}
	return nil
}

// apply writes the file and compares what containerd then reads; a difference
// puts the file back.
func (p *edit) apply(ctx context.Context, e *engine) (undo func() error, changed bool, err error) {
	undo = func() error {
		if !p.target.exists {
			return remove(p.target.path)
		}
		_, err := write(p.target.path, p.target.text, 0o644)
		return err
	}
	if p.want == nil {
		err, changed = remove(p.target.path), p.target.exists
	} else {
		changed, err = write(p.target.path, p.want, 0o644)
	}
	if err == nil {
		var after *dumped
		if after, err = e.dump(ctx, e.config); err == nil {
			err = p.check(after)
		}
	}
	if err != nil {
		if uerr := undo(); uerr != nil {
			return nil, false, fmt.Errorf("%w\nand putting %s back failed: %w", err, p.target.path, uerr)
		}
		return nil, false, fmt.Errorf("%w\n%s is as it was", err, p.target.path)
	}
	return undo, changed, nil
}

// install puts plugin, conflist and handler on the node, or brings them up to
// date. What fails is undone.
func install(ctx context.Context, o *options) error {
	st, err := loadState()
	if err != nil {
		return err
	}
	e, err := findEngine(ctx, o, st)
	if err != nil {
		return err
	}
	fresh := st == nil
	if fresh {
		st = &state{Handlers: map[string]string{}}
	}
	if o.baseHandler == "" {
		if len(st.Handlers) == 0 {
			st.Handlers["airgap"] = ""
		}
	} else {
		st.Handlers["airgap-"+o.baseHandler] = o.baseHandler
	}
	p, err := planInstall(ctx, e, st)
	if err != nil {
		return err
	}
	st.Target, st.Whole = p.target.path, p.whole
	st.Containerd, st.Config = e.exe, e.config
	dirs := p.before.binDirs()
	if len(dirs) == 0 {
		return fmt.Errorf("containerd's config names no directory for CNI plugins")
	}
	binDir := dirs[0]
	for _, d := range dirs {
		if s, err := os.Stat(d); err == nil && s.IsDir() {
			binDir = d
			break
		}
	}
	plugin := filepath.Join(binDir, "none")
	if err := checkForeign(st, plugin, o.plugin); err != nil {
		return err
	}
	if err := checkConfDir(); err != nil {
		return err
	}
	if err := p.preview(ctx, e); err != nil {
		return err
	}
	if o.dryRun {
		o.logf("would write %s (%d bytes)", plugin, len(o.plugin))
		o.logf("would write %s:\n%s", conflist, o.conflist)
		if string(p.want) == string(p.target.text) {
			o.logf("%s already has the handlers %s", p.target.path, strings.Join(p.handlers, ", "))
		} else {
			o.logf("would leave %s as it is, and add:\n%s", p.target.path, strings.TrimPrefix(string(p.want), string(p.target.rest)))
		}
		return nil
	}

	var undos []func() error
	fail := func(err error) error {
		for _, undo := range slices.Backward(undos) {
			if uerr := undo(); uerr != nil {
				err = fmt.Errorf("%w\nand while undoing it: %w", err, uerr)
			}
		}
		return err
	}
	changed := false
	step := func(path string, data []byte, mode fs.FileMode) error {
		old, rerr := os.ReadFile(path)
		if rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			return rerr
		}
		wrote, err := write(path, data, mode)
		if err != nil {
			return err
		}
		if wrote {
			changed = true
			o.logf("wrote %s", path)
			undos = append(undos, func() error {
				if rerr != nil {
					return remove(path)
				}
				_, err := write(path, old, mode)
				return err
			})
		}
		return nil
	}
	makeDir := func(dir string) error {
		made, err := mkdir(dir)
		for _, d := range made {
			undos = append(undos, func() error { return os.Remove(d) })
			if d != stateDir && !slices.Contains(st.Dirs, d) {
				st.Dirs = append(st.Dirs, d)
			}
		}
		return err
	}

	if err := makeDir(stateDir); err != nil {
		return fail(err)
	}
	// Directories are noted before they are made; a note too many does no harm,
	// since only empty ones are removed.
	for _, d := range []string{confDir, binDir, filepath.Dir(p.target.path)} {
		for ; d != "/"; d = filepath.Dir(d) {
			if _, err := os.Stat(d); errors.Is(err, fs.ErrNotExist) && !slices.Contains(st.Dirs, d) {
				st.Dirs = append(st.Dirs, d)
			}
		}
	}
	st.own(conflist)
	// What a run that was killed has left beside files that are as they should be.
	for _, f := range append([]string{stateFile, p.target.path, plugin}, st.Files...) {
		if _, err := os.Lstat(tempName(f)); err == nil {
			if err := os.Remove(tempName(f)); err != nil {
				return fail(err)
			}
		}
	}
	if s, err := fileSum(plugin); err != nil {
		return fail(err)
	} else if s != sum(o.plugin) {
		st.own(plugin) // one that was there before and is the same stays when we go
	}
	backup := ""
	if p.target.exists && !p.whole && !p.target.block {
		backup = filepath.Join(stateDir, filepath.Base(p.target.path)+"."+sum(p.target.text)[:12])
		st.own(backup)
	}
	if onDisk, _ := loadState(); onDisk == nil || !sameState(onDisk, st, o.version) {
		undo := func() error { return os.Remove(stateFile) }
		if !fresh {
			old := *onDisk
			undo = old.save
		}
		undos = append(undos, undo)
		st.Phase, st.Version = "installing", o.version
		if err := st.save(); err != nil {
			return fail(err)
		}
	}
	if backup != "" {
		if err := step(backup, p.target.text, 0o600); err != nil {
			return fail(err)
		}
	}
	if err := makeDir(confDir); err != nil {
		return fail(err)
	}
	if err := step(conflist, o.conflist, 0o644); err != nil {
		return fail(err)
	}
	if err := makeDir(binDir); err != nil {
		return fail(err)
	}
	if err := step(plugin, o.plugin, 0o755); err != nil {
		return fail(err)
	}
	if err := makeDir(filepath.Dir(p.target.path)); err != nil {
		return fail(err)
	}
	undo, edited, err := p.apply(ctx, e)
	if err != nil {
		return fail(err)
	}
	if edited {
		changed = true
		o.logf("wrote %s: handler %s", p.target.path, strings.Join(p.handlers, ", "))
	}
	undos = append(undos, undo)
	if st.Phase != "installed" {
		st.Phase = "installed"
		if err := st.save(); err != nil {
			return fail(err)
		}
	}
	if !changed {
		o.logf("everything is in place already: nothing changed")
	}

	if e.endpoint == "" {
		o.logf("the runtime is not running: it will have the handler when it starts")
		return nil
	}
	missing := func(l *loaded) error { return lacksHandlers(l, p.handlers) }
	l, err := e.loaded(ctx)
	if err != nil {
		return err
	}
	if missing(l) == nil {
		return nil
	}
	if !o.restart {
		o.logf("pending-restart: containerd has not loaded the handler; restart it when it suits you (running pods keep running), then run `none-install verify`")
		return nil
	}
	if err := e.restart(ctx, o, missing); err != nil {
		o.logf("the runtime did not come back with the handler: %v", err)
		if uerr := undo(); uerr != nil {
			return fmt.Errorf("%w\nand putting %s back failed: %w", err, p.target.path, uerr)
		}
		if rerr := e.restart(ctx, o, func(*loaded) error { return nil }); rerr != nil {
			return fmt.Errorf("%w\n%s is as it was, but the runtime did not come back with it either: %w", err, p.target.path, rerr)
		}
		// It runs, without the handler: now nothing watches the directory any more.
		undos = undos[:len(undos)-1]
		return fail(fmt.Errorf("%w\n%s is as it was, and the runtime runs with it", err, p.target.path))
	}
	o.logf("the runtime runs again (process %d) and has the handler", e.pid)
	return nil
}

// sameState says whether the state on disk already says what is going to be.
func sameState(disk, want *state, version string) bool {
	w := *want
	w.Phase, w.Version = "installed", version
	return reflect.DeepEqual(*disk, w)
}

// checkForeign refuses to replace a plugin of that name that somebody else put there.
func checkForeign(st *state, plugin string, data []byte) error {
	s, err := fileSum(plugin)
	if err != nil || s == "" || s == sum(data) || slices.Contains(st.Files, plugin) {
		return err
	}
	return fmt.Errorf("%s is there already, is another program, and none-install did not put it there; remove it first", plugin)
}

// checkConfDir refuses to share the handler's directory: the config that sorts
// first in it is the one that counts.
func checkConfDir() error {
	entries, err := os.ReadDir(confDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range entries {
		path := filepath.Join(confDir, f.Name())
		if path != conflist && path != tempName(conflist) {
			return fmt.Errorf("%s does not belong there: the handler's pods would get the network that sorts first; remove it", path)
		}
	}
	return nil
}

// lacksHandlers says which of the handlers the running containerd does not have
// as they are to be.
func lacksHandlers(l *loaded, handlers []string) error {
	for _, h := range handlers {
		switch dir := l.runtimes[h]["cniConfDir"]; {
		case l.runtimes[h] == nil:
			return fmt.Errorf("containerd has not loaded the handler %q", h)
		case dir != confDir:
			return fmt.Errorf("containerd's handler %q has cni_conf_dir %q instead of %q: its pods get the cluster's network", h, dir, confDir)
		}
	}
	return nil
}

// errPending means that only a restart of the runtime is missing.
var errPending = errors.New("pending-restart")

// uninstall takes everything back: first the handler, and only when the runtime
// runs without it, the directory that it watched.
func uninstall(ctx context.Context, o *options) error {
	st, err := loadState()
	if err != nil {
		return err
	}
	if st == nil {
		// A run that was killed before it had noted anything can have left these.
		_ = os.Remove(tempName(stateFile))
		_ = os.Remove(stateDir)
		o.logf("not installed: nothing to do")
		return nil
	}
	e, err := findEngine(ctx, o, st)
	if err != nil {
		return err
	}
	if e.endpoint == "" {
		return fmt.Errorf("the runtime is not running, so it cannot say whether hermetic pods exist; start it first")
	}
	if err := refuseSandboxes(ctx, e, st); err != nil {
		return err
	}
	target, err := readConfig(st.Target)
	if err != nil {
		return err
	}
	main, err := readConfig(e.config)
	if err != nil {
		return err
	}
	before, err := e.dump(ctx, e.config)
	if err != nil {
		return err
	}
	p := &edit{target: target, whole: st.Whole, main: main, before: before, handlers: st.handlers()}
	if p.want = target.rest; st.Whole && len(target.rest) == 0 {
		p.want = nil
	}
	if o.dryRun {
		o.logf("would take the handlers %s out of %s, and when the runtime runs without them remove %s", strings.Join(p.handlers, ", "), st.Target, strings.Join(st.Files, ", "))
		return nil
	}
	if st.Phase != "uninstalling" {
		st.Phase = "uninstalling"
		if err := st.save(); err != nil {
			return err
		}
	}
	undo := func() error { return nil }
	if target.block {
		var changed bool
		if undo, changed, err = p.apply(ctx, e); err != nil {
			return err
		}
		if changed {
			o.logf("took the handler out of %s", st.Target)
		}
	}
	after, err := e.dump(ctx, e.config)
	if err != nil {
		return err
	}
	for _, h := range p.handlers {
		if after.runtimes()[h] != nil {
			return fmt.Errorf("containerd's config still has the handler %q, and not from none-install's block in %s: another program rewrote the file; take the handler out by hand, then run this again", h, st.Target)
		}
	}
	gone := func(l *loaded) error {
		for _, h := range p.handlers {
			if l.runtimes[h] != nil {
				return fmt.Errorf("containerd still has the handler %q", h)
			}
		}
		return nil
	}
	l, err := e.loaded(ctx)
	if err != nil {
		return err
	}
	if err := gone(l); err != nil {
		if !o.restart {
			o.logf("%v: restart the runtime, then run this again; the files stay until then, since containerd ends when a directory that it watches goes", err)
			return errPending
		}
		if err := e.restart(ctx, o, gone); err != nil {
			if uerr := undo(); uerr != nil {
				return fmt.Errorf("%w\nand putting %s back failed: %w", err, st.Target, uerr)
			}
			if rerr := e.restart(ctx, o, func(*loaded) error { return nil }); rerr != nil {
				return fmt.Errorf("%w\n%s is as it was, but the runtime did not come back with it either: %w", err, st.Target, rerr)
			}
			return fmt.Errorf("%w\n%s is as it was, and the runtime runs with it", err, st.Target)
		}
		o.logf("the runtime runs again (process %d), without the handler", e.pid)
	}
	// A pod may have started between the first look and the restart.
	if err := refuseSandboxes(ctx, e, st); err != nil {
		return err
	}
	if err := os.Remove(tempName(st.Target)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range st.Files {
		if err := remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		o.logf("removed %s", f)
	}
	slices.SortFunc(st.Dirs, func(a, b string) int { return len(b) - len(a) })
	for _, d := range st.Dirs {
		_ = os.Remove(d) // somebody else may use it by now
	}
	if err := remove(stateFile); err != nil {
		return err
	}
	_ = os.Remove(stateDir)
	o.logf("uninstalled")
	return nil
}

// refuseSandboxes names the hermetic pods that are left: without the handler,
// their DEL would go to the cluster's network.
func refuseSandboxes(ctx context.Context, e *engine, st *state) error {
	if err := sweep(ctx, e); err != nil {
		return err
	}
	list, err := e.sandboxes(ctx, st.handlers())
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return nil
	}
	var names []string
	for _, s := range list {
		names = append(names, fmt.Sprintf("%s/%s (%s, %s)", s.Metadata.GetNamespace(), s.Metadata.GetName(), s.Id[:min(13, len(s.Id))], s.State))
	}
	return fmt.Errorf("hermetic pods exist on this node; delete them first: %s", strings.Join(names, "; "))
}
