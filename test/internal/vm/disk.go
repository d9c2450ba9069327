package vm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Disk makes an ext4 image of a directory, with room for mebibytes more. It is a
// sparse file.
func Disk(image, dir string, mebibytes int) error {
	du, err := output(exec.Command("du", "-sm", dir))
	if err != nil {
		return err
	}
	var used int
	if _, err := fmt.Sscan(du, &used); err != nil {
		return err
	}
	_, err = output(exec.Command("mkfs.ext4", "-q", "-F", "-d", dir, image, fmt.Sprintf("%dM", used+used/5+mebibytes)))
	return err
}

// agentService starts the agent when the machine is up, and again when a test
// has restarted it.
const agentService = `[Unit]
Description=The test's agent
After=multi-user.target
[Service]
ExecStart=/usr/local/lib/agent
Environment=HOME=/root
Delegate=yes
[Install]
WantedBy=multi-user.target
`

// Root makes an ext4 image of a whole Debian with systemd, the packages, the
// modules of a kernel and the agent. It needs root, and is made anew when the
// kernel or the packages are others. /dev/vdb is mounted at /payload.
func (a *Archive) Root(k *Kernel, packages ...string) (string, error) {
	packages = append([]string{"systemd", "systemd-sysv", "dbus", "udev", "kmod"}, packages...)
	key := sha256.Sum256(fmt.Append(nil, k.Version, packages, agentService))
	image := filepath.Join(a.dir, fmt.Sprintf("root-%x.ext4", key[:6]))
	if exists(image) {
		return image, nil
	}
	old, _ := filepath.Glob(filepath.Join(a.dir, "root-*"))
	for _, f := range old {
		if err := os.RemoveAll(f); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(a.dir, "root-tree")
	defer os.RemoveAll(dir)
	// What dpkg syncs does not matter: an image that was not finished is not used.
	if _, err := output(exec.Command("mmdebstrap", "--variant=minbase", "--dpkgopt=force-unsafe-io", "--architectures="+a.Arch,
		"--include="+strings.Join(packages, ","), a.Suite, dir, a.mirror)); err != nil {
		return "", err
	}
	if err := a.furnish(dir, k); err != nil {
		return "", err
	}
	if err := Disk(image+".tmp", dir, 1024); err != nil {
		return "", err
	}
	return image, os.Rename(image+".tmp", image)
}

// furnish puts onto a root what makes it a machine of ours.
func (a *Archive) furnish(dir string, k *Kernel) error {
	in := func(path string) string { return filepath.Join(dir, path) }
	write := func(path, text string) error {
		if err := os.MkdirAll(filepath.Dir(in(path)), 0o755); err != nil {
			return err
		}
		return os.WriteFile(in(path), []byte(text), 0o644)
	}
	err := errors.Join(
		write("/etc/hostname", "node\n"),
		write("/etc/hosts", "127.0.0.1 localhost node\n::1 localhost\n"),
		write("/etc/machine-id", strings.Repeat("0123456789abcdef", 2)+"\n"),
		write("/etc/fstab", "/dev/vdb /payload ext4 ro 0 0\n"),
		write("/etc/systemd/system/agent.service", agentService),
		os.MkdirAll(in("/payload"), 0o755),
		os.MkdirAll(in("/etc/systemd/system/multi-user.target.wants"), 0o755),
		os.Symlink("../agent.service", in("/etc/systemd/system/multi-user.target.wants/agent.service")),
		os.MkdirAll(in("/usr/lib/modules"), 0o755),
		buildAgent(in("/usr/local/lib/agent"), a.Arch),
	)
	if err != nil {
		return err
	}
	_, err = output(exec.Command("cp", "-a", k.Tree(), in("/usr/lib/modules/")))
	return err
}
