package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// build makes the agent for an architecture.
func buildAgent(out, arch string) error {
	return Build(out, arch, "github.com/cni-none/cni-none/test/internal/vm/agent")
}

// Build builds a package for a machine: static. It is resolved from the test
// module, in which a test runs.
func Build(out, arch, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOARCH="+arch)
	_, err := output(cmd)
	return err
}

// Busybox unpacks the archive's static busybox: the machine's user land.
func (a *Archive) Busybox() (string, error) {
	p, err := a.Show("busybox-static")
	if err != nil {
		return "", err
	}
	path := filepath.Join(a.dir, "busybox-"+p.Version)
	if exists(path) {
		return path, nil
	}
	deb, err := a.File(p)
	if err != nil {
		return "", err
	}
	dir := path + ".tmp"
	if _, err := output(exec.Command("dpkg-deb", "-x", deb, dir)); err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	found, _ := filepath.Glob(filepath.Join(dir, "usr/bin/busybox"))
	if len(found) == 0 {
		found = []string{filepath.Join(dir, "bin/busybox")}
	}
	return path, os.Rename(found[0], path)
}

// addModules puts modules into /modules, and their order into a list there.
func addModules(root, list string, modules []string) error {
	var order strings.Builder
	for _, m := range modules {
		name := "/modules/" + strings.TrimSuffix(filepath.Base(m), ".xz")
		fmt.Fprintln(&order, name)
		data, err := module(m)
		if err != nil {
			return err
		}
		if err := os.WriteFile(root+name, data, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(root, "modules", list), []byte(order.String()), 0o644)
}

// initrd packs files (path in the machine: path here) and modules. Its root is
// 0755: what runs there may have dropped its capabilities.
func initrd(dir, init string, files map[string]string, modules, late []string) (string, error) {
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "dev", "etc", "modules", "mnt", "proc", "run", "sys", "tmp", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", err
		}
	}
	for to, from := range files {
		to = filepath.Join(root, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if _, err := output(exec.Command("cp", "-rL", from, to)); err != nil {
			return "", err
		}
	}
	if err := errors.Join(addModules(root, "order", modules), addModules(root, "late", late)); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(root, "init"), []byte(init), 0o755); err != nil {
		return "", err
	}
	out := filepath.Join(dir, "initrd")
	pack := exec.Command("bash", "-c", "set -o pipefail; find . | cpio -o -H newc --quiet -R 0:0 | gzip -1 >\"$1\"", "pack", out)
	pack.Dir = root
	_, err := output(pack)
	return out, err
}
