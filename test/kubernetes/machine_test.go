package kubernetes

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/internal/machine"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	// Steps that go together wait for the cluster most of the time.
	_ = flag.Set("test.parallel", "16")
	machine.Main(m, machine.Config{Furnish: furnish})
}

// furnish makes the machine a node. It keeps its state in fixed places; here they
// are empty and private, so the files from conf/ and the commands from docs/ run as
// they are, and nothing of this machine is touched.
func furnish() error {
	if err := machine.Tmpfs("/run"); err != nil {
		return err
	}
	if err := machine.Overlay("/etc"); err != nil {
		return err
	}
	if err := machine.Tmpfs("/var/lib", "/var/log", "/opt"); err != nil {
		return err
	}
	for _, dir := range []string{"/run/lock", "/run/tmp", "/run/proc"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	// The kernel lets a user namespace mount /proc only where one is to be seen whole.
	if err := unix.Mount("proc", "/run/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /run/proc: %w", err)
	}
	// No name server can be reached from here; nothing shall wait for one.
	if err := os.Remove("/etc/resolv.conf"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile("/etc/resolv.conf", nil, 0o644); err != nil {
		return err
	}
	return errors.Join(sysctls(), uplink(), cgroups(), os.Setenv("TMPDIR", "/run/tmp"))
}

// sysctls keeps kubelet, which sets these for the whole machine, to files of ours.
func sysctls() error {
	for _, key := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
		"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"} {
		value, err := os.ReadFile("/proc/sys/" + key)
		if err != nil {
			return err
		}
		own := "/run/sysctl." + strings.ReplaceAll(key, "/", ".")
		if err := os.WriteFile(own, value, 0o644); err != nil {
			return err
		}
		if err := unix.Mount(own, "/proc/sys/"+key, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount on /proc/sys/%s: %w", key, err)
		}
	}
	return nil
}

// uplink is the default route that kubelet asks for. It leads to a wire that ends here.
func uplink() error {
	for _, args := range []string{
		"link add uplink type veth peer name outside", "address add 10.0.0.2/24 dev uplink",
		"link set uplink up", "link set outside up", "route add default via 10.0.0.1",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	return nil
}

// cgroups makes the node's group in every hierarchy, or in the only one.
func cgroups() error {
	hierarchies := []string{"/sys/fs/cgroup"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		hierarchies, _ = filepath.Glob("/sys/fs/cgroup/*")
	}
	for _, dir := range hierarchies {
		// No directory can be made in a hierarchy that is only a link to another.
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
			continue
		}
		if err := os.Mkdir(filepath.Join(dir, machine.Cgroup()), 0o755); err != nil {
			return err
		}
	}
	return nil
}
