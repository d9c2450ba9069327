package vm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// Archive is one suite and architecture of the Debian mirror that this machine
// uses. apt works on it with lists and settings of its own, so that the machine's
// sources and architectures stay what they are.
type Archive struct {
	Suite, Arch string
	dir         string
	mirror      string
}

// Cache is where what was fetched and unpacked stays for the next time.
func Cache() string { return harness.Bin("vm") }

// Newer says whether a Debian version is later than another one.
func Newer(a, b string) bool {
	return exec.Command("dpkg", "--compare-versions", a, "gt", b).Run() == nil
}

// OpenArchive fetches the lists of a suite. What it fetches stays below cache.
func OpenArchive(cache, suite, arch string) (*Archive, error) {
	a := &Archive{Suite: suite, Arch: arch, dir: filepath.Join(cache, suite+"-"+arch)}
	var err error
	if a.mirror, err = mirror(); err != nil {
		return nil, err
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "debs"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	source := fmt.Sprintf("deb [arch=%s signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", arch, a.mirror, suite)
	err = errors.Join(
		os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(source), 0o644),
		os.WriteFile(filepath.Join(a.dir, "status"), nil, 0o644))
	if err != nil {
		return nil, err
	}
	// A suite that is not there gets a warning only.
	_, err = a.apt("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")
	return a, err
}

// mirror returns where this machine's apt takes Debian from.
func mirror() (string, error) {
	out, err := output(exec.Command("apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if uri, ok := strings.CutPrefix(strings.TrimSpace(line), "Debian Debian "); ok {
			return uri, nil
		}
	}
	return "", errors.New("apt knows no source whose origin and label are Debian: run apt-get update")
}

// apt runs one of apt's programs on this archive alone.
func (a *Archive) apt(program string, args ...string) (string, error) {
	cmd := exec.Command(program,
		"-o", "Dir::Etc::sourcelist="+filepath.Join(a.dir, "sources.list"),
		"-o", "Dir::Etc::sourceparts=/dev/null",
		"-o", "Dir::Etc::preferencesparts=/dev/null",
		"-o", "Dir::State="+a.dir,
		"-o", "Dir::State::status="+filepath.Join(a.dir, "status"),
		"-o", "Dir::Cache="+filepath.Join(a.dir, "cache"),
		"-o", "APT::Architecture="+a.Arch,
		"-o", "APT::Architectures="+a.Arch,
		"-o", "APT::Sandbox::User=root",
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false")
	cmd.Args = append(cmd.Args, args...)
	cmd.Dir = filepath.Join(a.dir, "debs")
	return output(cmd)
}

// Package is what the archive says of a package.
type Package struct {
	Name, Version string
	depends       []string // names, without versions and alternatives
}

// Show looks a package up.
func (a *Archive) Show(name string) (*Package, error) {
	out, err := a.apt("apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return nil, err
	}
	p := &Package{Name: name}
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ": ")
		switch key {
		case "Version":
			p.Version = value
		case "Depends":
			for d := range strings.SplitSeq(value, ", ") {
				p.depends = append(p.depends, strings.Fields(d)[0])
			}
		}
	}
	return p, nil
}

// File downloads a package and returns where it lies.
func (a *Archive) File(p *Package) (string, error) {
	// apt writes a colon in a version as %3a.
	pattern := filepath.Join(a.dir, "debs", fmt.Sprintf("%s_%s_*.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a")))
	if have, _ := filepath.Glob(pattern); len(have) == 1 {
		return have[0], nil
	}
	if _, err := a.apt("apt-get", "download", "-q", p.Name+"="+p.Version); err != nil {
		return "", err
	}
	have, _ := filepath.Glob(pattern)
	if len(have) != 1 {
		return "", fmt.Errorf("apt-get download %s left %v", p.Name, have)
	}
	return have[0], nil
}

// kernelPackage matches what a kernel's meta package and image depend on, whose
// names hold the version: since 6.19 an image is several packages, and the list of
// what is built in lies in linux-base.
var kernelPackage = regexp.MustCompile(`^linux-(base|image|binary|modules)-[0-9]`)

// Kernel fetches and unpacks the suite's current kernel for its architecture.
func (a *Archive) Kernel() (*Kernel, error) {
	p, err := a.Show("linux-image-" + a.Arch)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(p.depends, func(d string) bool { return strings.HasPrefix(d, "linux-image-") })
	if i < 0 {
		return nil, fmt.Errorf("%s of %s depends on no kernel: %v", p.Name, a.Suite, p.depends)
	}
	image, err := a.Show(p.depends[i])
	if err != nil {
		return nil, err
	}
	k := &Kernel{Suite: a.Suite, Arch: a.Arch, Package: image.Name, Version: image.Version, Release: strings.TrimPrefix(image.Name, "linux-image-")}
	k.dir = filepath.Join(a.dir, "kernel-"+image.Version)
	if _, err := os.Stat(k.dir); err == nil {
		return k, nil
	}
	// The last one's space is worth more than going back to it.
	old, _ := filepath.Glob(filepath.Join(a.dir, "kernel-*"))
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	files := []*Package{image}
	for _, d := range image.depends {
		if kernelPackage.MatchString(d) {
			more, err := a.Show(d)
			if err != nil {
				return nil, err
			}
			files = append(files, more)
		}
	}
	return k, k.unpack(a, files)
}

// output runs a command and returns what it printed.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
