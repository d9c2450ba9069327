package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/licensecheck"
)

// bill is a software bill of materials in SPDX 2.3.
type bill struct {
	packages  map[string]map[string]any
	relations []map[string]string
}

const document = "SPDXRef-DOCUMENT"

func (b *bill) relate(from, kind, to string) {
	b.relations = append(b.relations, map[string]string{"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

// add returns the id of a package, which it adds if it is new.
func (b *bill) add(name, version, purl, license string) string {
	id := "SPDXRef-" + strings.Map(func(r rune) rune {
		if r == '.' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, name+"-"+version)
	if b.packages[id] == nil {
		b.packages[id] = map[string]any{"SPDXID": id, "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
			"licenseConcluded": license, "licenseDeclared": license, "copyrightText": "NOASSERTION",
			"externalRefs": []map[string]string{{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}}}
	}
	return id
}

// sbom says which modules are in which program, as the programs themselves know,
// and under which licences.
func (r release) sbom() error {
	files, err := filepath.Glob(filepath.Join(r.dist, "none*-linux-*"))
	if err != nil {
		return err
	}
	built := map[string]*buildinfo.BuildInfo{}
	var modules []string
	for _, f := range files {
		if built[f], err = buildinfo.ReadFile(f); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		for _, d := range built[f].Deps {
			if d.Replace == nil && !slices.Contains(modules, d.Path+"@"+d.Version) {
				modules = append(modules, d.Path+"@"+d.Version)
			}
		}
	}
	licenses, err := licensesOf(modules)
	if err != nil {
		return err
	}
	b := &bill{packages: map[string]map[string]any{}}
	project := b.add("cni-none", r.version, "pkg:golang/github.com/cni-none/cni-none@"+r.version, "Apache-2.0")
	b.relate(document, "DESCRIBES", project)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		program := b.add(filepath.Base(f), r.version, "pkg:github/cni-none/cni-none@"+r.version, "Apache-2.0")
		b.packages[program]["checksums"] = []map[string]string{{"algorithm": "SHA256", "checksumValue": fmt.Sprintf("%x", sha256.Sum256(data))}}
		b.relate(project, "CONTAINS", program)
		std := strings.TrimPrefix(built[f].GoVersion, "go")
		b.relate(program, "DEPENDS_ON", b.add("stdlib", std, "pkg:golang/stdlib@"+std, "BSD-3-Clause"))
		for _, d := range built[f].Deps {
			if d.Replace != nil {
				continue // this project's root module
			}
			b.relate(program, "DEPENDS_ON", b.add(d.Path, d.Version, "pkg:golang/"+d.Path+"@"+d.Version, licenses[d.Path+"@"+d.Version]))
		}
	}
	return r.write("sbom.spdx.json", b.document(r))
}

func (b *bill) document(r release) []byte {
	var list []any
	for _, id := range sorted(b.packages) {
		list = append(list, b.packages[id])
	}
	doc, err := json.MarshalIndent(map[string]any{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": document, "name": "cni-none-" + r.version,
		"documentNamespace": "https://github.com/cni-none/cni-none/releases/" + r.version,
		"creationInfo":      map[string]any{"created": r.when.Format(time.RFC3339), "creators": []string{"Tool: cni-none-release"}},
		"packages":          list, "relationships": b.relations,
	}, "", " ")
	if err != nil {
		panic(err) // maps and strings
	}
	return append(doc, '\n')
}

// licensesOf reads the licence of each module, PATH@VERSION, where Go keeps its source.
func licensesOf(modules []string) (map[string]string, error) {
	cmd := exec.Command("go", append([]string{"mod", "download", "-json"}, modules...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go mod download: %w", err)
	}
	licenses := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Version, Dir string }
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return licenses, nil
		} else if err != nil {
			return nil, err
		}
		if licenses[m.Path+"@"+m.Version], err = licenseIn(m.Dir); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Path, err)
		}
	}
}

// licenseIn is an SPDX expression of the licences in a module's root.
func licenseIn(dir string) (string, error) {
	var ids []string
	for _, pattern := range []string{"LICEN[SC]E*", "COPYING*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return "", err
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				return "", err
			}
			for _, match := range licensecheck.Scan(text).Match {
				if !slices.Contains(ids, match.ID) {
					ids = append(ids, match.ID)
				}
			}
		}
	}
	if len(ids) == 0 {
		return "", errors.New("it has no licence that is known")
	}
	slices.Sort(ids)
	return strings.Join(ids, " AND "), nil
}
