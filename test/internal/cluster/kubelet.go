package cluster

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// NodeAddress is the address of a machine that Furnish furnished.
const NodeAddress = "10.0.0.2"

//go:embed kubelet.yaml
var kubeletConfig string

// Kubelet makes the machine a node of the cluster, called node, once a containerd
// runs on it, and waits until it is Ready. Furnish has to have furnished the machine.
func (c *Cluster) Kubelet(tb testing.TB) *machine.Daemon {
	tb.Helper()
	c.Machine.Write(tb, c.Dir+"/kubelet.yaml", strings.ReplaceAll(kubeletConfig, "CGROUP", "/"+machine.Cgroup()), 0o600)
	d := c.Daemon(tb, "kubelet", "--config="+c.Dir+"/kubelet.yaml", "--kubeconfig="+c.Kubeconfig,
		"--hostname-override=node", "--node-ip="+NodeAddress)
	harness.Eventually(tb, "the node is Ready", func() error {
		d.MustRun(tb)
		out, err := c.Kubectl("get", "node", "node", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")]}`)
		if err == nil && !strings.Contains(out, `"status":"True"`) {
			err = harness.ErrNotYet
		}
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	harness.Eventually(tb, "the default service account exists", func() error {
		_, err := c.Kubectl("get", "serviceaccount", "default")
		return err
	})
	return d
}

// Furnish is for a machine that gets a kubelet.
func Furnish() error {
	// The kernel lets a user namespace mount /proc only where one is to be seen whole.
	if err := os.Mkdir("/run/proc", 0o755); err != nil {
		return err
	}
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
	return errors.Join(sysctls(), uplink(), machine.MakeCgroup())
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
		"link add uplink type veth peer name outside", "address add " + NodeAddress + "/24 dev uplink",
		"link set uplink up", "link set outside up", "route add default via 10.0.0.1",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	return nil
}
