// Command release makes everything of a release but the programs themselves:
// packages, the image as an OCI archive, manifests, the chart, a software bill of
// materials and checksums, from the programs in DIST. The same programs, version
// and SOURCE_DATE_EPOCH give the same bytes.
package main

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// arches are those of the image and the packages.
var arches = []string{"amd64", "arm64"}

// programs are in the image and the packages.
var programs = []string{"none", "none-audit", "none-install"}

// release is one that is being made.
type release struct {
	source  string // the project's root
	dist    string // holds the programs, and gets the rest
	version string // the tag in git, and of the image
	when    time.Time
}

type part struct {
	name string
	make func(release) error
}

var parts = []part{
	{"image", release.image}, {"manifests", release.manifests}, {"chart", release.chart},
	{"packages", release.packages}, {"sbom", release.sbom}, {"checksums", release.checksums},
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: release SOURCE DIST VERSION [PART...] (SOURCE_DATE_EPOCH is set)")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(source, dist, version string, only []string) error {
	epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	r := release{source, dist, version, time.Unix(epoch, 0).UTC()}
	for _, p := range parts {
		if len(only) > 0 && !slices.Contains(only, p.name) {
			continue
		}
		if err := p.make(r); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// program is the file of a program for an architecture.
func (r release) program(name, arch string) string {
	return filepath.Join(r.dist, name+"-linux-"+arch)
}

// number is the version as packages and charts want it: a commit that has no tag
// counts as before the first release.
func (r release) number(before string) string {
	number := strings.TrimPrefix(r.version, "v")
	if major, _, ok := strings.Cut(number, "."); ok {
		if _, err := strconv.Atoi(major); err == nil {
			return number
		}
	}
	return "0.0.0" + before + "git." + number
}

func (r release) write(name string, data []byte) error {
	return os.WriteFile(filepath.Join(r.dist, name), data, 0o644)
}

// checksums writes SHA256SUMS over everything else in DIST.
func (r release) checksums() error {
	entries, err := os.ReadDir(r.dist)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, e := range entries {
		if e.Name() == "SHA256SUMS" || !e.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(r.dist, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(data), e.Name())
	}
	return r.write("SHA256SUMS", []byte(b.String()))
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
