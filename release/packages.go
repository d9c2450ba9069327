package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// packages makes the .deb and .rpm files.
func (r release) packages() error {
	work, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := r.documents(work); err != nil {
		return err
	}
	for _, arch := range arches {
		for kind, lib := range map[string]string{"deb": "/usr/lib/cni", "rpm": "/usr/libexec/cni"} {
			if err := r.pack(work, arch, kind, lib); err != nil {
				return fmt.Errorf("%s for %s: %w", kind, arch, err)
			}
		}
	}
	return nil
}

// documents writes what a package has beside programs: manual pages as the
// programs themselves print them, and the change log.
func (r release) documents(dir string) error {
	for _, name := range []string{"none-audit", "none-install"} {
		page, err := exec.Command(r.program(name, runtime.GOARCH), "man").Output()
		if err != nil {
			return fmt.Errorf("%s man: %w", name, err)
		}
		if err := writeCompressed(filepath.Join(dir, name+".8.gz"), page); err != nil {
			return err
		}
	}
	log, err := os.ReadFile(filepath.Join(r.source, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	if err := writeCompressed(filepath.Join(dir, "changelog.gz"), log); err != nil {
		return err
	}
	// deb-changelog(5), for what asks a package and not its pages.
	entry := fmt.Sprintf("cni-none (%s) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- %s  %s\n",
		r.number("~"), maintainer, r.when.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	return writeCompressed(filepath.Join(dir, "changelog.Debian.gz"), []byte(entry))
}

func writeCompressed(path string, data []byte) error {
	packed, err := compress(data)
	if err != nil {
		return err
	}
	return os.WriteFile(path, packed, 0o644)
}

const maintainer = "The cni-none authors <maintainers@cni-none.dev>"

// pack makes one package. The plugin is where the distribution looks for CNI
// plugins, and once more beside none-install, which puts it on the node.
func (r release) pack(documents, arch, kind, lib string) error {
	content := func(src, dst string, mode os.FileMode) *files.Content {
		return &files.Content{Source: src, Destination: dst, FileInfo: &files.ContentFileInfo{Mode: mode, Owner: "root", Group: "root", MTime: r.when}}
	}
	source := func(path string) string { return filepath.Join(r.source, path) }
	contents := files.Contents{
		content(r.program("none", arch), lib+"/none", 0o755),
		content(r.program("none", arch), "/usr/lib/cni-none/none", 0o755),
		content(r.program("none-install", arch), "/usr/lib/cni-none/none-install", 0o755),
		{Type: files.TypeSymlink, Source: "../lib/cni-none/none-install", Destination: "/usr/sbin/none-install", FileInfo: &files.ContentFileInfo{MTime: r.when}},
		content(r.program("none-audit", arch), "/usr/sbin/none-audit", 0o755),
		content(source("deploy/systemd/none-audit.service"), "/usr/lib/systemd/system/none-audit.service", 0o644),
		content(filepath.Join(documents, "none-audit.8.gz"), "/usr/share/man/man8/none-audit.8.gz", 0o644),
		content(filepath.Join(documents, "none-install.8.gz"), "/usr/share/man/man8/none-install.8.gz", 0o644),
		content(filepath.Join(documents, "changelog.gz"), "/usr/share/doc/cni-none/changelog.gz", 0o644),
		content(source("conf/10-airgap.conflist"), "/usr/share/doc/cni-none/examples/10-airgap.conflist", 0o644),
		content(source("docs/install.md"), "/usr/share/doc/cni-none/install.md", 0o644),
		content(source("docs/audit.md"), "/usr/share/doc/cni-none/audit.md", 0o644),
	}
	if kind == "deb" {
		contents = append(contents,
			content(source("release/copyright"), "/usr/share/doc/cni-none/copyright", 0o644),
			content(filepath.Join(documents, "changelog.Debian.gz"), "/usr/share/doc/cni-none/changelog.Debian.gz", 0o644),
			content(source("release/lintian-overrides"), "/usr/share/lintian/overrides/cni-none", 0o644))
	} else {
		contents = append(contents, content(source("LICENSE"), "/usr/share/licenses/cni-none/LICENSE", 0o644))
	}
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: "cni-none", Arch: arch, Platform: "linux", Version: r.number("~"), MTime: r.when,
		Maintainer: maintainer, Homepage: "https://github.com/cni-none/cni-none", License: "Apache-2.0",
		Description: "CNI plugin that gives a container a loopback interface and nothing else\n" +
			"With none-install, which puts it on a containerd node, and none-audit, which\ntells what network every container on a machine really has.",
		Section: "net", Priority: "optional",
		Overridables: nfpm.Overridables{RPM: nfpm.RPM{BuildHost: "localhost", Summary: "CNI plugin that gives a container a loopback interface only"}, Contents: contents},
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
	return r.write(packager.ConventionalFileName(info), b.Bytes())
}
