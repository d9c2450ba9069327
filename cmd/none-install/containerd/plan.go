package containerd

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Want is what containerd's config is to have.
type Want struct {
	Handlers map[string]string // each with the handler that it is a copy of; "" is the default
	Drop     []string          // handlers of ours that go
	ConfDir  string            // the handlers' CNI config directory
	Whole    string            // the file that is ours as a whole, where there is one already
	Shipped  [][]byte          // handlers as they are added by hand
}

// Plan is one change of one file.
type Plan struct {
	Target   *File
	Whole    bool     // the whole file is ours
	Text     []byte   // what it is going to be; nil: the file goes
	Handlers []string // that are to be there
	Gone     []string // that are to be there no more

	main   *File
	before *DiskConfig
	tables map[string]tree // each handler as it is to be
	rest   []byte          // the target without what is ours
	parsed tree            // of rest
}

// PlanInstall decides which file gets the handlers, and what it will say.
func PlanInstall(files []*File, before *DiskConfig, want Want) (*Plan, error) {
	files, err := before.gen.read(files, before.tree)
	if err != nil {
		return nil, err
	}
	p := &Plan{main: files[0], before: before, Handlers: slices.Sorted(maps.Keys(want.Handlers)), Gone: want.Drop, tables: map[string]tree{}}
	if err := p.chooseTarget(files, want); err != nil {
		return nil, err
	}
	for _, h := range p.Handlers {
		if p.tables[h], err = p.copyOf(h, want); err != nil {
			return nil, err
		}
	}
	block, err := p.block()
	if err != nil {
		return nil, err
	}
	if p.Whole {
		p.Text = []byte(blockBegin + block + blockEnd)
	} else {
		p.Text = appendBlock(p.rest, block)
	}
	if _, err := parse(p.Text); err != nil {
		return nil, fmt.Errorf("%s cannot take a table at its end (%w): it writes its plugins as inline tables or dotted keys; rewrite them as [tables]", p.Target.Path, err)
	}
	return p, nil
}

// PlanRemoval takes the handlers out of the file that has them.
func PlanRemoval(target, main *File, before *DiskConfig, handlers []string, whole bool) *Plan {
	p := &Plan{Target: target, Whole: whole, Text: target.Rest, Gone: handlers, main: main, before: before}
	if whole && len(target.Rest) == 0 {
		p.Text = nil
	}
	return p
}

// copyOf is the table of a handler that is to be.
func (p *Plan) copyOf(handler string, want Want) (tree, error) {
	base := p.before.Base(want.Handlers[handler])
	table := p.before.runtime(base)
	if table == nil || slices.Contains(slices.Concat(p.Handlers, p.Gone), base) {
		return nil, fmt.Errorf("%w: %q is none of containerd's, which are %s", ErrNoBase, base, strings.Join(p.before.others(slices.Concat(p.Handlers, p.Gone)), ", "))
	}
	if at(p.before.tree, "plugins", "io.containerd.cri.v1.images", "runtime_platforms", base) != nil {
		return nil, fmt.Errorf("%w: %q has an image platform of its own (runtime_platforms), which a copy would not have", ErrNoBase, base)
	}
	return handlerTable(table, want.ConfDir), nil
}

// handlerTable is a copy of the base handler with a CNI directory of its own.
// Keys at their zero value are left out: a handler that has none of them is the
// same, and another version of containerd may not know them. Inside options
// nothing is left out, since their zero value is not ours to know.
func handlerTable(base tree, confDir string) tree {
	t := dropZero(base)
	t["cni_conf_dir"] = confDir
	t["cni_max_conf_num"] = int64(1)
	return t
}

func dropZero(t tree) tree {
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

// effective is a handler without what makes no difference: keys at their zero value
// (null in what one version says, empty in what another does), in the options too, and
// the sandboxer that every handler has.
func effective(t tree) tree {
	t = dropZero(t)
	if options, ok := t["options"].(tree); ok {
		if t["options"] = dropZero(options); len(t["options"].(tree)) == 0 {
			delete(t, "options")
		}
	}
	for _, k := range []string{"sandboxer", "sandbox_mode"} { // containerd 2, and 1.7
		if t[k] == "podsandbox" {
			delete(t, k)
		}
	}
	return t
}

// sameBesidesCNI compares two loaded handlers.
func sameBesidesCNI(a, b tree) bool {
	a, b = effective(a), effective(b)
	for _, k := range []string{"cniConfDir", "cniMaxConfNum"} {
		delete(a, k)
		delete(b, k)
	}
	return reflect.DeepEqual(a, b)
}

// chooseTarget: where our edit is already, it stays. Otherwise it is a drop-in
// where there can be one, or else the file that holds the CRI section, the last
// one read, which gets the tables at its end.
func (p *Plan) chooseTarget(files []*File, want Want) error {
	hand, err := p.byHand(files, want)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Block && (hand == nil || hand == f) {
			p.Target, p.Whole = f, len(f.Rest) == 0 && want.Whole == f.Path
			p.rest, p.parsed = f.Rest, f.parsed
			if hand == nil {
				return nil
			}
		} else if f.Block {
			return fmt.Errorf("%s has a handler that none-install did not write, beside the one that it wrote in %s: take it out", hand.Path, f.Path)
		}
	}
	if hand != nil {
		return p.takeOver(hand, want.Shipped)
	}
	if path, ok := p.before.gen.dropIn(p.main); ok {
		p.Target, p.Whole = &File{Path: path}, true
		return nil
	}
	p.Target = p.main
	for _, f := range files {
		if f.hasCRI() {
			p.Target = f
		}
	}
	p.Whole, p.rest, p.parsed = !p.Target.Exists, p.Target.Rest, p.Target.parsed
	// k3s, RKE2 and others write the file anew at every start.
	head, _, _ := strings.Cut(string(p.Target.Rest), "[")
	if strings.Contains(strings.ToUpper(head), "DO NOT EDIT") {
		return fmt.Errorf("%s says DO NOT EDIT: something writes it anew at every start, and the handler would be lost. "+
			"Add it where that program takes it from (k3s and RKE2: a template beside it that begins with {{ template \"base\" . }}, see docs/install.md)", p.Target.Path)
	}
	return nil
}

// block writes the tables, under the names that the target file's version uses.
func (p *Plan) block() (string, error) {
	gen := p.before.gen
	version := gen.version(p.Target, p.main)
	var b strings.Builder
	if p.Whole || len(p.parsed) == 0 {
		version = gen.newVersion()
		fmt.Fprintf(&b, "version = %d\n", version)
	}
	section := sectionOf(version)
	tables := maps.Clone(p.tables)
	for name, t := range gen.beside(p.parsed, section, p.before) {
		if t, ok := t.(tree); ok && tables[name] == nil {
			tables[name] = t
		}
	}
	prefix := "plugins." + quoteKey(section) + ".containerd.runtimes."
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		if err := emit(&b, prefix+quoteKey(name), tables[name]); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// Added is what the plan adds to the file.
func (p *Plan) Added() string { return strings.TrimPrefix(string(p.Text), string(p.rest)) }

// Unchanged says that the file is as it is to be.
func (p *Plan) Unchanged() bool {
	return p.Text == nil && !p.Target.Exists || p.Target.Exists && string(p.Text) == string(p.Target.Text)
}

// Check compares what containerd makes of the config after the change with what it was.
func (p *Plan) Check(after *DiskConfig) error {
	about := slices.Concat(p.Handlers, p.Gone)
	differences := p.before.diff(after, about)
	for _, h := range p.Handlers {
		for _, d := range diff(p.tables[h], dropZero(after.runtime(h)), func([]string) bool { return false }) {
			differences = append(differences, "handler "+h+" is not as it was to be: "+d)
		}
	}
	for _, h := range p.Gone {
		if p.tables != nil && after.HasHandler(h) { // of a removal, its caller says why
			differences = append(differences, "handler "+h+" is still there")
		}
	}
	if len(differences) > 0 {
		return fmt.Errorf("with the change in %s, containerd would differ in more than the handler %s:\n  %s",
			p.Target.Path, strings.Join(about, ", "), strings.Join(differences, "\n  "))
	}
	return nil
}

// Preview has containerd read the config as it is going to be, before any file
// changes. It can where our file is the main one, or a drop-in that takes nothing
// away: what is in the drop-in on disk is read, too.
func (e *Engine) Preview(ctx context.Context, p *Plan) error {
	var after *DiskConfig
	var err error
	_, relative := p.main.imports()
	switch {
	case p.Target == p.main && p.Text != nil && !relative:
		after, err = e.dumpTexts(ctx, p.Text)
	case p.Whole && p.Text != nil && p.Target != p.main && len(p.Gone) == 0:
		root := fmt.Sprintf("version = 3\nimports = [%q, %q]\n", e.Config, fdPath(1))
		after, err = e.dumpTexts(ctx, []byte(root), p.Text)
	default:
		return nil // the check after the change has to do
	}
	if err != nil {
		return fmt.Errorf("containerd does not accept the change: %w", err)
	}
	return p.Check(after)
}
