package install

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// TestRecorded compares what the unit tests of none-install plan from with what
// containerd says: the platforms' configs, and containerd's own dumps of them. With
// CN_RECORD set it writes them anew.
func TestRecorded(t *testing.T) {
	each(t, func(platform) bool { return true }, func(t *testing.T, p platform, version string) {
		n := newNode(t, version, p.config(t, version))
		files := map[string]string{"files" + mainFile: n.read(mainFile)}
		for path, text := range p.files {
			n.write(path, text, 0o644)
			if strings.HasSuffix(path, ".toml") {
				files["files"+path] = text
			}
		}
		dump, err := n.command("containerd", "--config", mainFile, "config", "dump").Output()
		if err != nil {
			t.Fatal(err)
		}
		files["dump.toml"] = string(dump)
		dir := harness.Repo("cmd/none-install/containerd/testdata", p.name+"-"+version)
		for path, text := range files {
			path = filepath.Join(dir, path)
			if os.Getenv("CN_RECORD") != "" {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			recorded, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Base(path) != "dump.toml" && string(recorded) != text {
				t.Errorf("%s is not the config of this platform: run this with CN_RECORD=1", path)
			}
			if filepath.Base(path) == "dump.toml" && !reflect.DeepEqual(criSections(t, string(recorded)), criSections(t, text)) {
				t.Errorf("%s is not what containerd says: run this with CN_RECORD=1", path)
			}
		}
	})
}

// criSections are the parts of a dump that a plan depends on.
func criSections(t *testing.T, dump string) map[string]any {
	t.Helper()
	tree := map[string]any{}
	if err := toml.Unmarshal([]byte(dump), &tree); err != nil {
		t.Fatal(err)
	}
	imports := strings.Fields(strings.Trim(fmt.Sprint(tree["imports"]), "[]"))
	slices.Sort(imports) // 1.7 has them in any order
	out := map[string]any{"imports": imports, "disabled_plugins": tree["disabled_plugins"]}
	for name, section := range table(tree, "plugins") {
		if strings.Contains(name, "cri") {
			out[name] = section
		}
	}
	return out
}
