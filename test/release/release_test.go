// Package release looks at what make release has put into dist/.
package release

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// one is the file in dist/ that the pattern names.
func one(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(harness.Repo("dist/" + pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("dist/%s: %d files, want 1: make release makes it (%v)", pattern, len(files), err)
	}
	return files[0]
}

func read(t *testing.T, pattern string) string {
	t.Helper()
	return harness.Read(t, one(t, pattern))
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, &stderr)
	}
	return string(out)
}

type object = map[string]any

// objects are those of a file, by kind and name.
func objects(t *testing.T, text string) map[string]object {
	t.Helper()
	all := map[string]object{}
	for document := range strings.SplitSeq("\n"+text, "\n---") {
		var o struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
		}
		var whole object
		if err := errors.Join(yaml.Unmarshal([]byte(document), &o), yaml.Unmarshal([]byte(document), &whole)); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if len(whole) > 0 {
			all[o.Kind+" "+o.Metadata.Namespace+"/"+o.Metadata.Name] = whole
		}
	}
	return all
}

// version is what was released.
func version(t *testing.T) string {
	t.Helper()
	var doc struct{ Name string }
	if err := json.Unmarshal([]byte(read(t, "sbom.spdx.json")), &doc); err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(doc.Name, "cni-none-")
}

// TestImageNames: all that is released names one image, by its version.
func TestImageNames(t *testing.T) {
	want := "ghcr.io/cni-none/cni-none:" + version(t)
	files, err := filepath.Glob(harness.Repo("dist/*.yaml"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%d manifests: %v", len(files), err)
	}
	named := 0
	for _, file := range files {
		text := harness.Read(t, file)
		for _, image := range regexp.MustCompile(`(?m)\bimage: *['"]?([^\s'"]+)|(ghcr\.io/cni-none/[^\s'"]+)`).FindAllStringSubmatch(text, -1) {
			name := image[1] + image[2]
			switch {
			case name == want:
				named++
			case strings.HasPrefix(name, "ghcr.io/cni-none/"), strings.HasPrefix(name, "localhost/"), strings.HasSuffix(name, ":latest"), !strings.Contains(name, ":"):
				t.Errorf("%s: image %s", filepath.Base(file), name)
			}
		}
	}
	if named < 3 {
		t.Errorf("%s is named %d times", want, named)
	}
}

// TestImage: it holds three programs for two architectures, and its name.
func TestImage(t *testing.T) {
	blobs := map[string][]byte{}
	archive := tar.NewReader(strings.NewReader(read(t, "cni-none-image.oci.tar")))
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if blobs[h.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
	type list struct {
		Manifests []struct {
			Digest      string
			Platform    map[string]string
			Annotations map[string]string
		}
		Layers []struct{ Digest string }
	}
	get := func(name string) (l list) {
		t.Helper()
		if err := json.Unmarshal(blobs[name], &l); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return l
	}
	blob := func(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }
	index := get("index.json").Manifests[0]
	if got, want := index.Annotations["io.containerd.image.name"], "ghcr.io/cni-none/cni-none:"+version(t); got != want {
		t.Errorf("it is called %s, want %s", got, want)
	}
	var arches []string
	for _, m := range get(blob(index.Digest)).Manifests {
		arches = append(arches, m.Platform["architecture"])
		layer := filepath.Join(t.TempDir(), "layer.tar.gz")
		if err := os.WriteFile(layer, blobs[blob(get(blob(m.Digest)).Layers[0].Digest)], 0o600); err != nil {
			t.Fatal(err)
		}
		if got := output(t, "tar", "tzf", layer); got != "none\nnone-audit\nnone-install\n" {
			t.Errorf("%s holds %q", m.Platform, got)
		}
	}
	if !slices.Equal(arches, []string{"amd64", "arm64"}) {
		t.Errorf("it is for %v", arches)
	}
}

// TestChart: by default it renders what cni-none.yaml holds, and a value renders
// what the overlay of its name does.
func TestChart(t *testing.T) {
	chart := one(t, "cni-none-[0-9]*.tgz")
	rendered := func(set ...string) map[string]object {
		t.Helper()
		args := []string{"template", "cni-none", chart, "--api-versions", "monitoring.coreos.com/v1"}
		for _, s := range set {
			args = append(args, "--set", s)
		}
		return objects(t, output(t, harness.Bin("helm", "helm"), args...))
	}
	plain := objects(t, read(t, "cni-none.yaml"))
	for name, tt := range map[string]struct {
		set  []string
		file string
	}{
		"nothing":   {nil, "cni-none.yaml"},
		"restart":   {[]string{"restart=true"}, "cni-none-restart.yaml"},
		"remove":    {[]string{"remove=true"}, "cni-none-remove.yaml"},
		"ipv6-only": {[]string{"ipv6Only=true"}, "cni-none-ipv6-only.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string]object{}
			for key, o := range plain {
				want[key] = o
			}
			for key, o := range objects(t, read(t, tt.file)) {
				want[key] = o
			}
			same(t, rendered(tt.set...), want)
		})
	}
	t.Run("handlers", func(t *testing.T) {
		got := rendered("handlers={airgap,airgap-gvisor=gvisor}")
		class := got["RuntimeClass /airgap-gvisor"]
		if len(got) != len(plain)+1 || class["handler"] != "airgap-gvisor" {
			t.Errorf("%d objects, %d without; class %v", len(got), len(plain), class)
		}
		if text, _ := yaml.Marshal(got["DaemonSet cni-none/cni-none"]); !strings.Contains(string(text), "- --handler=airgap\n") || !strings.Contains(string(text), "- --handler=airgap-gvisor=gvisor\n") {
			t.Errorf("%s", text)
		}
	})
	t.Run("policies", func(t *testing.T) {
		for key := range rendered("policies.enabled=false") {
			if strings.Contains(key, "AdmissionPolicy") && !strings.HasSuffix(key, "/cni-none-token") {
				t.Error(key)
			}
		}
	})
	t.Run("the rest", func(t *testing.T) {
		got := rendered("image.repository=r.example/x", "image.tag=v9", "monitoring.enabled=true", "onViolation=delete",
			"tolerations[0].key=k", "resources.watch.limits.memory=1Gi", "createNamespace=false")
		text, err := yaml.Marshal(got["DaemonSet cni-none/cni-none"])
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"image: r.example/x:v9", "--on-violation=delete", "key: k", "memory: 1Gi"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("no %s in %s", want, text)
			}
		}
		if strings.Contains(string(text), "ghcr.io") || got["Namespace /cni-none"] != nil || got["PrometheusRule cni-none/cni-none"] == nil {
			t.Errorf("%s", text)
		}
	})
}

func same(t *testing.T, got, want map[string]object) {
	t.Helper()
	for key := range want {
		if !reflect.DeepEqual(got[key], want[key]) {
			a, _ := yaml.Marshal(got[key])
			b, _ := yaml.Marshal(want[key])
			t.Errorf("%s:\n%s\nwant\n%s", key, a, b)
		}
	}
	for key := range got {
		if want[key] == nil {
			t.Errorf("%s is not among what the manifest has", key)
		}
	}
}

// TestPackages: three programs, their pages and the unit, and no error that
// Debian's own checker knows.
func TestPackages(t *testing.T) {
	deb, rpm := one(t, "cni-none_*_amd64.deb"), one(t, "cni-none-*.x86_64.rpm")
	listed := map[string]string{"deb": output(t, "dpkg-deb", "-c", deb), "rpm": output(t, "rpm", "-qlp", rpm)}
	for kind, list := range listed {
		for _, path := range []string{
			"/usr/lib/cni-none/none\n", "/usr/lib/cni-none/none-install\n", "/usr/sbin/none-audit\n", "/usr/sbin/none-install",
			"/usr/share/man/man8/none-audit.8.gz\n", "/usr/share/man/man8/none-install.8.gz\n", "/none-audit.service\n",
		} {
			if !strings.Contains(list, path) {
				t.Errorf("the %s has no %s:\n%s", kind, path, list)
			}
		}
	}
	for _, deb := range []string{deb, one(t, "cni-none_*_arm64.deb")} {
		t.Log(output(t, "lintian", "--fail-on", "error", "--tag-display-limit", "0", deb))
	}
}

// TestBillOfMaterials: every module has a licence, and the project its version.
func TestBillOfMaterials(t *testing.T) {
	var doc struct {
		Packages []struct{ Name, VersionInfo, LicenseDeclared string }
	}
	if err := json.Unmarshal([]byte(read(t, "sbom.spdx.json")), &doc); err != nil {
		t.Fatal(err)
	}
	has := map[string]string{}
	for _, p := range doc.Packages {
		has[p.Name] = p.VersionInfo
		if p.LicenseDeclared == "" || p.LicenseDeclared == "NOASSERTION" {
			t.Errorf("%s has no licence", p.Name)
		}
	}
	if has["cni-none"] != version(t) || has["github.com/vishvananda/netlink"] == "" || has["none-audit-linux-arm64"] == "" {
		t.Errorf("%v", has)
	}
}

func TestChecksums(t *testing.T) {
	sums := one(t, "SHA256SUMS")
	cmd := exec.Command("sha256sum", "--check", "--strict", "--quiet", sums)
	cmd.Dir = filepath.Dir(sums)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	files, err := os.ReadDir(cmd.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(harness.Read(t, sums), "\n"); lines != len(files)-1 {
		t.Errorf("%d checksums of %d files", lines, len(files)-1)
	}
}

// TestSource: version and time are known in an archive that git made, and in
// another user's clone.
func TestSource(t *testing.T) {
	script := harness.Repo("release/version.sh")
	commit := strings.TrimSpace(output(t, "git", "-c", "safe.directory=*", "-C", harness.Repo(), "log", "-1", "--format=%h %ct"))
	hash, epoch, _ := strings.Cut(commit, " ")
	if got := strings.TrimSpace(output(t, script, "--epoch")); got != epoch {
		t.Errorf("the commit is of %s, and %s says %s", epoch, script, got)
	}
	dir := t.TempDir()
	tarball := filepath.Join(dir, "source.tar")
	output(t, "git", "-c", "safe.directory=*", "-C", harness.Repo(), "archive", "-o", tarball, "HEAD", "release")
	output(t, "tar", "-xf", tarball, "-C", dir)
	script = filepath.Join(dir, "release/version.sh")
	if got := strings.TrimSpace(output(t, script)); got == "" || got == "dev" || !strings.HasPrefix(got, "v") && got != hash {
		t.Errorf("an archive of %s says %q", hash, got)
	}
	if got := strings.TrimSpace(output(t, script, "--epoch")); got != epoch {
		t.Errorf("an archive of %s says %q, want %s", hash, got, epoch)
	}

	clone := filepath.Join(dir, "clone")
	output(t, "git", "-c", "safe.directory=*", "clone", "-q", "--depth=1", "file://"+harness.Repo(), clone)
	output(t, "chown", "-R", "12345", clone)
	if got := strings.TrimSpace(output(t, filepath.Join(clone, "release/version.sh"), "--epoch")); got != epoch {
		t.Errorf("root in another user's clone reads %q, want %s", got, epoch)
	}
}
