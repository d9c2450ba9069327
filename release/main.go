// Command release makes everything of a release but the programs themselves:
// .deb and .rpm packages, the image as an OCI layout, a software bill of
// materials and checksums. It is called by build.sh with the directory that holds
// the programs. The same programs and SOURCE_DATE_EPOCH give the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// arches are those of the image and the packages: none-install is built for them.
var arches = []string{"amd64", "arm64"}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: release DIST VERSION SOURCE_DIR (SOURCE_DATE_EPOCH is set)")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(dist, version, source string) error {
	epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	when := time.Unix(epoch, 0).UTC()
	for _, arch := range arches {
		for kind, lib := range map[string]string{"deb": "/usr/lib/cni", "rpm": "/usr/libexec/cni"} {
			if err := pack(dist, version, source, arch, kind, lib, when); err != nil {
				return fmt.Errorf("%s for %s: %w", kind, arch, err)
			}
		}
	}
	if err := layout(dist, version, when); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if err := bom(dist, version, when); err != nil {
		return fmt.Errorf("bill of materials: %w", err)
	}
	return checksums(dist)
}

// pack makes one package: the plugin where the distribution looks for CNI
// plugins, none-install with a plugin to install beside it, licence and guide.
func pack(dist, version, source, arch, kind, lib string, when time.Time) error {
	content := func(src, dst string, mode os.FileMode) *files.Content {
		return &files.Content{Source: src, Destination: dst, FileInfo: &files.ContentFileInfo{Mode: mode, Owner: "root", Group: "root", MTime: when}}
	}
	plugin := filepath.Join(dist, "none-linux-"+arch)
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: "cni-none", Arch: arch, Platform: "linux", Version: version, MTime: when,
		Maintainer:  "The cni-none authors <cni-none@localhost>",
		Description: "CNI plugin that gives a container a loopback interface and nothing else,\nand none-install, which puts it on a containerd node.",
		License:     "Apache-2.0", Section: "net", Priority: "optional",
		Overridables: nfpm.Overridables{
			RPM: nfpm.RPM{BuildHost: "localhost"},
			Contents: files.Contents{
				content(plugin, lib+"/none", 0o755),
				content(plugin, "/usr/lib/cni-none/none", 0o755),
				content(filepath.Join(dist, "none-install-linux-"+arch), "/usr/lib/cni-none/none-install", 0o755),
				{Type: files.TypeSymlink, Source: "/usr/lib/cni-none/none-install", Destination: "/usr/sbin/none-install", FileInfo: &files.ContentFileInfo{MTime: when}},
				content(filepath.Join(source, "conf/10-airgap.conflist"), "/usr/share/doc/cni-none/examples/10-airgap.conflist", 0o644),
				content(filepath.Join(source, "docs/install.md"), "/usr/share/doc/cni-none/install.md", 0o644),
				content(filepath.Join(source, "LICENSE"), "/usr/share/doc/cni-none/copyright", 0o644),
			},
		},
	})
	if err := nfpm.PrepareForPackager(info, kind); err != nil {
		return err
	}
	packager, err := nfpm.Get(kind)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := packager.Package(info, &b); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dist, packager.ConventionalFileName(info)), b.Bytes(), 0o644)
}

// descriptor is one of OCI's (image-spec, descriptor.md).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    map[string]string `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// layout writes the image as deploy/install/Dockerfile describes it, for all
// arches, as a tar of an OCI layout: what skopeo and ctr read, and registries take.
func layout(dist, version string, when time.Time) error {
	blobs := map[string][]byte{}
	blob := func(mediaType string, data []byte) descriptor {
		digest := fmt.Sprintf("%x", sha256.Sum256(data))
		blobs[digest] = data
		return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(data)}
	}
	asJSON := func(v any) []byte { b, _ := json.Marshal(v); return b } // of maps and strings only
	var manifests []descriptor
	for _, arch := range arches {
		var plain bytes.Buffer
		w := tar.NewWriter(&plain)
		for _, p := range []string{"none", "none-install"} {
			data, err := os.ReadFile(filepath.Join(dist, p+"-linux-"+arch))
			if err != nil {
				return err
			}
			if err := w.WriteHeader(&tar.Header{Name: p, Mode: 0o755, Size: int64(len(data)), ModTime: when, Format: tar.FormatUSTAR}); err != nil {
				return err
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
		}
		if err := w.Close(); err != nil {
			return err
		}
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		if _, err := z.Write(plain.Bytes()); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		layer := blob("application/vnd.oci.image.layer.v1.tar+gzip", packed.Bytes())
		config := blob("application/vnd.oci.image.config.v1+json", asJSON(map[string]any{
			"created": when.Format(time.RFC3339), "architecture": arch, "os": "linux",
			"config": map[string]any{"Entrypoint": []string{"/none-install"}, "Cmd": []string{"help"}, "Labels": map[string]string{
				"org.opencontainers.image.version": version, "org.opencontainers.image.licenses": "Apache-2.0"}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(plain.Bytes()))}},
		}))
		const manifestType = "application/vnd.oci.image.manifest.v1+json"
		m := blob(manifestType, asJSON(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": []descriptor{layer}}))
		m.Platform = map[string]string{"architecture": arch, "os": "linux"}
		manifests = append(manifests, m)
	}
	const indexType = "application/vnd.oci.image.index.v1+json"
	tag := strings.ReplaceAll(version, "~", "-") // which a tag cannot hold
	image := blob(indexType, asJSON(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": manifests}))
	image.Annotations = map[string]string{"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": "ghcr.io/cni-none/none-install:" + tag}

	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(name string, data []byte) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: when, Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	if err := add("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := add("index.json", asJSON(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []descriptor{image}})); err != nil {
		return err
	}
	for _, digest := range sorted(blobs) {
		if err := add("blobs/sha256/"+digest, blobs[digest]); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dist, "none-install-image.oci.tar"), out.Bytes(), 0o644)
}

// bom writes which modules are in which program, as the programs themselves say,
// in SPDX 2.3.
func bom(dist, version string, when time.Time) error {
	programs, err := filepath.Glob(filepath.Join(dist, "none*-linux-*"))
	if err != nil {
		return err
	}
	packages := map[string]map[string]any{}
	var relations []map[string]string
	relate := func(a, kind, b string) {
		relations = append(relations, map[string]string{"spdxElementId": a, "relationshipType": kind, "relatedSpdxElement": b})
	}
	id := func(s string) string {
		return "SPDXRef-" + strings.Map(func(r rune) rune {
			if r == '.' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
				return r
			}
			return '-'
		}, s)
	}
	pkg := func(name, version, purl string) string {
		key := id(name + "-" + version)
		packages[key] = map[string]any{"SPDXID": key, "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
			"externalRefs": []map[string]string{{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}}}
		return key
	}
	for _, p := range programs {
		info, err := buildinfo.ReadFile(p)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		name := filepath.Base(p)
		key := pkg(name, version, "pkg:golang/github.com/cni-none/cni-none@"+version)
		packages[key]["checksums"] = []map[string]string{{"algorithm": "SHA256", "checksumValue": fmt.Sprintf("%x", sha256.Sum256(data))}}
		relate("SPDXRef-DOCUMENT", "DESCRIBES", key)
		relate(key, "DEPENDS_ON", pkg("stdlib", strings.TrimPrefix(info.GoVersion, "go"), "pkg:golang/stdlib@"+strings.TrimPrefix(info.GoVersion, "go")))
		for _, d := range info.Deps {
			if d.Replace != nil && d.Replace.Version == "" {
				continue // this project itself
			}
			relate(key, "DEPENDS_ON", pkg(d.Path, d.Version, "pkg:golang/"+d.Path+"@"+d.Version))
		}
	}
	var list []any
	for _, key := range sorted(packages) {
		list = append(list, packages[key])
	}
	doc, err := json.MarshalIndent(map[string]any{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "cni-none-" + version,
		"documentNamespace": "https://github.com/cni-none/cni-none/releases/" + version,
		"creationInfo":      map[string]any{"created": when.Format(time.RFC3339), "creators": []string{"Tool: cni-none-release"}},
		"packages":          list, "relationships": relations,
	}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dist, "sbom.spdx.json"), append(doc, '\n'), 0o644)
}

// checksums writes SHA256SUMS over everything else in dist.
func checksums(dist string) error {
	entries, err := os.ReadDir(dist)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, e := range entries {
		if e.Name() == "SHA256SUMS" || !e.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dist, e.Name()))
		if err != nil {
			return err
		}
		h := sha256.Sum256(data)
		fmt.Fprintf(&b, "%s  %s\n", hex.EncodeToString(h[:]), e.Name())
	}
	return os.WriteFile(filepath.Join(dist, "SHA256SUMS"), []byte(b.String()), 0o644)
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
