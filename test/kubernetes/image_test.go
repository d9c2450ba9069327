package kubernetes

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The images that the pods use, under the names that the manifests give them.
// There is no registry here: each is put together from files of this machine.
const (
	busyboxImage = "docker.io/library/busybox:1.35.0"
	auditImage   = "localhost/none-audit:latest"
	pauseImage   = "localhost/pause:test"
)

// buildImages writes a `docker save` archive with all images.
func buildImages(t testing.TB, path, bin string) {
	t.Helper()
	busybox := map[string]string{"/bin/busybox": "/bin/busybox"}
	// Perl asks glibc for addresses, as most programs do.
	for _, file := range dynamic(t, "/usr/bin/perl") {
		busybox[file] = file
	}
	modules, err := filepath.Glob("/usr/lib/*/perl-base")
	if err != nil || len(modules) == 0 {
		t.Fatalf("perl-base has no modules: %v", err)
	}
	if err := filepath.WalkDir(modules[0], func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			busybox[path] = path
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// Debian's images, and most others with glibc, have these two.
	dir := t.TempDir()
	for name, content := range map[string]string{"host.conf": "multi on\n", "nsswitch.conf": "hosts: files dns\n"} {
		busybox["/etc/"+name] = filepath.Join(dir, name)
		if err := os.WriteFile(busybox["/etc/"+name], []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := tar.NewWriter(f)
	var manifest []map[string]any
	add := func(name string, cmd []string, files map[string]string, links []string) {
		layer := layer(t, files, links)
		sum := fmt.Sprintf("%x", sha256.Sum256(layer))
		config, err := json.Marshal(map[string]any{
			"architecture": "amd64", "os": "linux",
			"config": map[string]any{"Entrypoint": cmd, "Env": []string{"PATH=/bin:/usr/bin"}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum}},
		})
		if err != nil {
			t.Fatal(err)
		}
		configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
		entry(t, out, configName, config, 0o644)
		entry(t, out, sum+"/layer.tar", layer, 0o644)
		manifest = append(manifest, map[string]any{"Config": configName, "RepoTags": []string{name}, "Layers": []string{sum + "/layer.tar"}})
	}
	add(busyboxImage, nil, busybox, strings.Fields(string(applets)))
	add(pauseImage, []string{"/bin/busybox", "sleep", "2147483647"}, map[string]string{"/bin/busybox": "/bin/busybox"}, nil)
	add(auditImage, []string{"/none-audit"}, map[string]string{"/none-audit": filepath.Join(bin, "none-audit")}, nil)
	list, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	entry(t, out, "manifest.json", list, 0o644)
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// dynamic lists a program and the shared libraries that it needs.
func dynamic(t testing.TB, program string) []string {
	t.Helper()
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", program, err)
	}
	files := []string{program}
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			files = append(files, word)
		}
	}
	return files
}

// layer is a file system: files by their path in it, and busybox under other names.
func layer(t testing.TB, files map[string]string, links []string) []byte {
	t.Helper()
	var buf bytes.Buffer
	out := tar.NewWriter(&buf)
	for to, from := range files {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		entry(t, out, strings.TrimPrefix(to, "/"), content, 0o755)
	}
	for _, link := range links {
		if link == "busybox" {
			continue
		}
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + link, Linkname: "busybox"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func entry(t testing.TB, out *tar.Writer, name string, content []byte, mode int64) {
	t.Helper()
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write(content); err != nil {
		t.Fatal(err)
	}
}
