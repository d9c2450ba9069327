package containerd

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/*/want.toml anew")

// golden is a node's config, as test/install has it and records it from a real
// containerd, and what is to be added to it.
type golden struct {
	name  string
	dir   string
	files []*File
	disk  *DiskConfig
}

func goldens(t *testing.T) []golden {
	t.Helper()
	dirs, err := filepath.Glob("testdata/*/dump.toml")
	if err != nil || len(dirs) < 15 {
		t.Fatalf("only %d recorded configs (%v)", len(dirs), err)
	}
	var out []golden
	for _, d := range dirs {
		out = append(out, load(t, filepath.Dir(d)))
	}
	return out
}

func load(t *testing.T, dir string) golden {
	t.Helper()
	g := golden{name: filepath.Base(dir), dir: dir}
	root := filepath.Join(dir, "files")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := newFile(strings.TrimPrefix(path, root), text, true)
		g.files = append(g.files, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// The main file is the first.
	slices.SortFunc(g.files, func(a, b *File) int {
		return strings.Compare(strings.TrimPrefix(a.Path, defaultConfig), strings.TrimPrefix(b.Path, defaultConfig))
	})
	g.disk = dumpOf(t, filepath.Join(dir, "dump.toml"))
	return g
}

func dumpOf(t *testing.T, path string) *DiskConfig {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDiskConfig(tree, defaultConfig)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var airgap = Want{Handlers: map[string]string{"airgap": ""}, ConfDir: "/etc/cni/airgap.d"}

// TestPlans: which file gets the handler on each platform, and every byte of it.
func TestPlans(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			p, err := PlanInstall(g.files, g.disk, airgap)
			if err != nil {
				t.Fatal(err)
			}
			got := "# " + p.Target.Path + "\n" + p.Added()
			path := filepath.Join(g.dir, "want.toml")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the plan is\n%s\nwant\n%s", got, want)
			}
			if rest, _, err := strip(p.Text); err != nil || string(rest) != string(p.Target.Text) {
				t.Errorf("taking the block out does not give back the file (%v)", err)
			}
			t.Run("again", func(t *testing.T) { again(t, g, p) })
			t.Run("check", func(t *testing.T) { check(t, g, p) })
		})
	}
}

// again plans from the planned state: nothing is to be done.
func again(t *testing.T, g golden, p *Plan) {
	written, err := newFile(p.Target.Path, p.Text, true)
	if err != nil {
		t.Fatal(err)
	}
	files := slices.Clone(g.files)
	if i := slices.Index(files, p.Target); i >= 0 {
		files[i] = written
	} else {
		files = append(files, written)
	}
	want := airgap
	if p.Whole {
		want.Whole = p.Target.Path
	}
	second, err := PlanInstall(files, g.disk, want)
	if err != nil {
		t.Fatal(err)
	}
	if !second.Unchanged() || second.Target != written || second.Whole != p.Whole {
		t.Errorf("a second plan writes %s:\n%s", second.Target.Path, second.Text)
	}
	removal := PlanRemoval(written, files[0], g.disk, []string{"airgap"}, p.Whole)
	switch {
	case p.Target.Exists && string(removal.Text) != string(p.Target.Text):
		t.Errorf("the removal leaves\n%s", removal.Text)
	case !p.Target.Exists && removal.Text != nil:
		t.Errorf("the removal leaves a file:\n%s", removal.Text)
	}
}

// check accepts a dump with the handler, and refuses one that differs in more.
func check(t *testing.T, g golden, p *Plan) {
	after := dumpOf(t, filepath.Join(g.dir, "dump.toml"))
	if err := p.Check(after); err == nil {
		t.Error("a dump without the handler passes")
	}
	after.runtimes()["airgap"] = p.tables["airgap"]
	if err := p.Check(after); err != nil {
		t.Errorf("a dump with the handler: %v", err)
	}
	after.runtimes()["runc"] = tree{"runtime_type": "another"}
	if err := p.Check(after); err == nil || !strings.Contains(err.Error(), "runtimes.runc") {
		t.Errorf("a dump in which runc changed: %v", err)
	}
}

// TestPlanRefuses is what a plan is not made for.
func TestPlanRefuses(t *testing.T) {
	g := load(t, "testdata/nvidia-1.6")
	const cri = `[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.`
	main := func(text string) []*File {
		f, err := newFile(defaultConfig, []byte(text), true)
		if err != nil {
			t.Fatal(err)
		}
		return []*File{f}
	}
	elsewhere := dumpOf(t, "testdata/nvidia-1.6/dump.toml")
	elsewhere.tree["imports"] = []any{"/another.toml"}
	for _, c := range []struct {
		name, says string
		files      []*File
		disk       *DiskConfig
		handlers   map[string]string
	}{
		{name: "no such base", says: "are nvidia, runc", handlers: map[string]string{"airgap-kata": "kata"}},
		{name: "a copy of a copy", says: "no handler", handlers: map[string]string{"airgap": "", "airgap-airgap": "airgap"}},
		{name: "a generated file", says: "DO NOT EDIT", files: main("# Generated. Do not edit.\nversion = 2\n" + cri + "x]\n")},
		{name: "inline tables", says: "inline tables", files: main("version = 2\n[plugins]\n\"io.containerd.grpc.v1.cri\" = { sandbox_image = \"x\" }\n")},
		{name: "a file that containerd does not read", says: "is not among these", disk: elsewhere},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.files == nil {
				c.files = g.files
			}
			if c.disk == nil {
				c.disk = g.disk
			}
			want := airgap
			if c.handlers != nil {
				want.Handlers = c.handlers
			}
			if p, err := PlanInstall(c.files, c.disk, want); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, %v; want %q", p, err, c.says)
			}
		})
	}
}

func TestSwitchedOff(t *testing.T) {
	for _, text := range []string{"version = 2\n", "disabled_plugins = ['cri']\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\n"} {
		tree, err := parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := newDiskConfig(tree, "x"); err == nil || !strings.Contains(err.Error(), "switched off") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestLacks: what counts is what is loaded, with its directory.
func TestLacks(t *testing.T) {
	live := &LiveConfig{Runtimes: map[string]map[string]any{"airgap": {"cniConfDir": "/etc/cni/airgap.d"}, "mistyped": {"cniConfDir": ""}, "runc": {}}}
	for handler, says := range map[string]string{"airgap": "", "mistyped": "cluster's network", "other": "has not loaded"} {
		if err := live.Lacks([]string{handler}, "/etc/cni/airgap.d"); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", handler, err, says)
		}
	}
	if live.Has([]string{"other"}) != nil || live.Has([]string{"other", "airgap"}) == nil {
		t.Error("Has does not tell which handlers are loaded")
	}
}
