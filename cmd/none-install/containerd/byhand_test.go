package containerd

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/conf"
)

// TestByHand takes over what the guide has one write, and leaves every other byte.
func TestByHand(t *testing.T) {
	const other = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.other]\n  runtime_type = 'x'\n"
	nvidia := "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.airgap]\n  runtime_type = \"io.containerd.runc.v2\"\n  cni_conf_dir = \"/etc/cni/airgap.d\"\n  cni_max_conf_num = 1\n" +
		"  [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.airgap.options]\n    BinaryName = '/opt/test/runc'\n    SystemdCgroup = true\n"
	for _, c := range []struct {
		name, golden string
		file         string // "": the main one; what is added to it
		text         string
		left, says   string
		whole        bool
	}{
		{name: "the guide's drop-in", golden: "minimal-2.4", file: "/etc/containerd/conf.d/airgap.toml", text: string(conf.Handler2), whole: true},
		{name: "a drop-in with more in it", golden: "minimal-2.4", file: "/etc/containerd/conf.d/x.toml", text: string(conf.Handler2) + other, left: "version = 3\n", whole: false},
		{name: "appended to the main file", golden: "minimal-1.7", text: "\n" + string(conf.Handler1)},
		{name: "written another way", golden: "nvidia-1.7", text: nvidia},
		{name: "without the options of the others", golden: "nvidia-1.7", text: string(conf.Handler1), says: "options.BinaryName"},
		{name: "with the cluster's network", golden: "minimal-2.4", file: "/etc/containerd/conf.d/airgap.toml", text: strings.Replace(string(conf.Handler2), "cni_conf_dir", "cni_config_dir", 1), says: "cni_conf_dir"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := load(t, filepath.Join("testdata", c.golden))
			path, before := c.file, ""
			if path == "" {
				path, before = g.files[0].Path, string(g.files[0].Text)
			}
			f, err := newFile(path, []byte(before+c.text), true)
			if err != nil {
				t.Fatal(err)
			}
			if c.file == "" {
				g.files[0] = f
			} else {
				g.files = append(g.files, f)
			}
			for name, handler := range f.runtimes() {
				g.disk.runtimes()[name] = handler
			}
			want := airgap
			want.Shipped = [][]byte{conf.Handler1, conf.Handler2}
			p, err := PlanInstall(g.files, g.disk, want)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("%v, want %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.Target != f || p.Whole != c.whole {
				t.Errorf("it writes %s (as a whole: %v)", p.Target.Path, p.Whole)
			}
			rest, found, err := strip(p.Text)
			if err != nil || !found || strings.Contains(string(rest), "airgap]") || !strings.HasPrefix(string(rest), before) {
				t.Errorf("what is left of the file is\n%s\n(%v)", rest, err)
			}
			if strings.Contains(c.text, other) && !strings.HasSuffix(string(rest), other) {
				t.Errorf("the other handler is gone:\n%s", rest)
			}
			if tables, _ := parse(p.Text); (&File{parsed: tables}).runtimes()["airgap"] == nil {
				t.Errorf("the handler is not there:\n%s", p.Text)
			}
		})
	}
}

func TestCutTables(t *testing.T) {
	text := "a = 1\n[plugins.cri.containerd.runtimes.airgap]\nx = 1\n  [plugins . \"cri\".containerd.runtimes.'airgap'.options] # comment\n  y = 2\n[plugins.cri.containerd.runtimes.airgapped]\nz = 3\n"
	got := string(cutTables([]byte(text), []string{"airgap"}))
	if want := "a = 1\n[plugins.cri.containerd.runtimes.airgapped]\nz = 3\n"; got != want {
		t.Errorf("it left %q", got)
	}
	if !slices.Equal(cutTables([]byte(text), nil), []byte(text)) {
		t.Error("without handlers, it cut something")
	}
}
