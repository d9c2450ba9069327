// Package image puts container images together from files of this machine: there
// is no registry where the tests run.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// Image is one image of one layer.
type Image struct {
	Names      []string
	Files      map[string]string // path in the image: file of this machine, which is executable there
	Data       map[string]string // path in the image: content
	Links      map[string]string // path in the image: what it points to
	Entrypoint []string
	Cmd        []string
	User       string
}

// Pauses are the names under which the containerds and the configs that are tested
// ask for the image of a sandbox.
var Pauses = []string{
	"registry.k8s.io/pause:3.6", "registry.k8s.io/pause:3.8", "registry.k8s.io/pause:3.9",
	"registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10.2", "localhost/cni-none/pause:1",
}

// Busybox is Debian's static busybox with all its applets, which sleeps.
func Busybox(tb testing.TB, names ...string) Image {
	tb.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		tb.Fatal(err)
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		tb.Fatal(err)
	}
	links := map[string]string{}
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			links["bin/"+name] = "busybox"
		}
	}
	return Image{Names: names, Files: map[string]string{"bin/busybox": path}, Links: links, Cmd: []string{"sleep", "2147483647"}}
}

// OwnName is how the manifests of the tree name the project's own image; a release
// puts its version in the place of the tag.
const OwnName = "ghcr.io/cni-none/cni-none:dev"

// Own is the project's own image, of the programs in bin/.
func Own(names ...string) Image {
	files := map[string]string{}
	for _, program := range []string{"none", "none-audit", "none-install"} {
		files[program] = harness.Bin(program)
	}
	return Image{Names: append(names, OwnName), Files: files, Entrypoint: []string{"/none-install"}, Cmd: []string{"help"}}
}

// AddDynamic adds a program and the shared libraries that it needs.
func (i *Image) AddDynamic(tb testing.TB, program string) {
	tb.Helper()
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		tb.Fatalf("ldd %s: %v", program, err)
	}
	i.Files[program] = program
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			i.Files[word] = word
		}
	}
}

// Archive writes an archive with the images, which ctr and podman can import and
// docker can load, and returns its path.
func Archive(tb testing.TB, images ...Image) string {
	tb.Helper()
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	var manifest []map[string]any
	for _, image := range images {
		layer := image.layer(tb)
		sum := fmt.Sprintf("%x", sha256.Sum256(layer))
		config := encode(tb, map[string]any{
			"architecture": runtime.GOARCH, "os": "linux",
			"config": map[string]any{"Entrypoint": image.Entrypoint, "Cmd": image.Cmd, "User": image.User, "Env": []string{"PATH=/bin:/usr/bin"}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum}},
		})
		configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
		add(tb, out, tar.Header{Name: sum + "/layer.tar", Mode: 0o644}, layer)
		add(tb, out, tar.Header{Name: configName, Mode: 0o644}, config)
		manifest = append(manifest, map[string]any{"Config": configName, "RepoTags": image.Names, "Layers": []string{sum + "/layer.tar"}})
	}
	add(tb, out, tar.Header{Name: "manifest.json", Mode: 0o644}, encode(tb, manifest))
	if err := out.Close(); err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), "images.tar")
	if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil {
		tb.Fatal(err)
	}
	return path
}

func (i Image) layer(tb testing.TB) []byte {
	tb.Helper()
	var buf bytes.Buffer
	out := tar.NewWriter(&buf)
	// /tmp is what most programs expect of a root file system.
	add(tb, out, tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	name := func(path string) string { return strings.TrimPrefix(path, "/") }
	for _, path := range slices.Sorted(maps.Keys(i.Files)) {
		add(tb, out, tar.Header{Name: name(path), Mode: 0o755}, []byte(harness.Read(tb, i.Files[path])))
	}
	for _, path := range slices.Sorted(maps.Keys(i.Data)) {
		add(tb, out, tar.Header{Name: name(path), Mode: 0o644}, []byte(i.Data[path]))
	}
	for _, path := range slices.Sorted(maps.Keys(i.Links)) {
		add(tb, out, tar.Header{Typeflag: tar.TypeSymlink, Name: name(path), Linkname: i.Links[path], Mode: 0o777}, nil)
	}
	if err := out.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func add(tb testing.TB, out *tar.Writer, h tar.Header, content []byte) {
	tb.Helper()
	h.Size = int64(len(content))
	if err := out.WriteHeader(&h); err != nil {
		tb.Fatal(err)
	}
	if _, err := out.Write(content); err != nil {
		tb.Fatal(err)
	}
}

func encode(tb testing.TB, v any) []byte {
	tb.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}
