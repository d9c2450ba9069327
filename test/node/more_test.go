package node

import (
	"strings"
	"testing"
)

// reboot: what was installed is there afterwards, the old pods can be removed
// though their namespaces are gone, and new ones run.
func (n *node) reboot(*testing.T) {
	n.install(0, "install --restart")
	n.pod("old", "airgap")
	n.Reboot()
	n.Must("systemctl is-system-running --wait || true")
	n.Must(answers)
	n.install(0, "status")
	if out := n.install(0, "verify"); !strings.HasPrefix(out, "ready") {
		n.Errorf("verify said %s", out)
	}
	n.Must("/payload/pod remove")
	n.hermetic()
	n.Must("/payload/pod remove")
	n.install(0, "uninstall --restart")
	n.pod("bridged", "-")
}

// seccomp: AF_VSOCK leads out of a hermetic pod, and with the shipped profile it
// does not.
func (n *node) seccomp(*testing.T) {
	n.install(0, "install --restart")
	n.Must("modprobe vsock_loopback; mkdir -p /var/lib/kubelet/seccomp; cp /payload/seccomp/airgap.json /var/lib/kubelet/seccomp/")
	n.Must("systemd-run --quiet --unit listener /payload/vsock listen; for i in $(seq 60); do [ $(systemctl show -p ActiveState --value listener) = active ] && break; sleep 1; done; sleep 1")
	_, open := n.pod("open", "airgap")
	if out, status := n.Run("/payload/pod exec " + open + " /payload/vsock send"); status != 0 {
		n.Errorf("the control does not get through: %s", out)
	}
	if out := n.Must("for i in $(seq 60); do journalctl -o cat -u listener | grep inside && break; sleep 1; done"); !strings.Contains(out, "from inside") {
		n.Errorf("what was sent did not arrive: %s", out)
	}
	_, closed := n.pod("closed", "airgap", "/var/lib/kubelet/seccomp/airgap.json")
	if out, status := n.Run("/payload/pod exec " + closed + " /payload/vsock send"); status == 0 || !strings.Contains(out, "socket: operation not permitted") {
		n.Errorf("with the profile: exit status %d: %s", status, out)
	}
	if out, status := n.Run("/payload/pod exec " + closed + " /host/none-audit self"); status != 0 {
		n.Errorf("with the profile, none-audit self: %s", out)
	}
	n.Must("/payload/pod remove; rm -r /var/lib/kubelet; systemctl reset-failed listener 2>/dev/null || true; modprobe -r vsock_loopback vsock_diag || modprobe -r vsock_loopback || true")
	n.install(0, "uninstall --restart")
	n.pod("bridged", "-")
}

// watch runs none-audit as the package's unit, and it reports an interface
// that a hermetic pod got.
func (n *node) watch(*testing.T) {
	n.install(0, "install --restart")
	n.Must("systemctl start none-audit")
	n.pod("watched", "airgap")
	said := "journalctl -o cat -u none-audit"
	n.Must("ns=$(ls -t /var/run/netns/cni-* | head -1); for i in $(seq 60); do systemctl is-active none-audit && break; sleep 1; done; sleep 3; nsenter --net=$ns ip link add dummy7 type dummy")
	if out, status := n.Run("for i in $(seq 60); do " + said + " | grep -F dummy7 && exit 0; sleep 1; done; exit 1"); status != 0 {
		n.Errorf("the watch did not report the interface: %s\n%s", out, n.Must(said))
	}
	n.Must("/payload/pod remove; systemctl stop none-audit; modprobe -r dummy")
	n.install(0, "uninstall --restart")
	n.pod("bridged", "-")
}

// podman uses the package's plugin, as root and as an ordinary user.
func (n *node) podman(t *testing.T) {
	const image = `image=$(mktemp -d); mkdir "$image/bin"; cp /bin/busybox "$image/bin/"; for name in sh ip sleep; do ln -s busybox "$image/bin/$name"; done; tar -C "$image" -c . | podman import - busybox; rm -r "$image"; `
	const run = "podman run --rm --network airgap busybox ip -o link"
	look := func(n *node, out string) {
		n.Helper()
		if lines := strings.Split(strings.TrimSpace(out), "\n"); !strings.Contains(lines[len(lines)-1], ": lo: <LOOPBACK,UP,") || strings.Contains(out, "eth0") {
			n.Errorf("the container has %s", out)
		}
	}
	n.step(t, "root", func(n *node, _ *testing.T) {
		n.Must("mkdir -p /etc/containers/containers.conf.d; cp /payload/podman/10-airgap.conf /etc/containers/containers.conf.d/; cp /usr/share/doc/cni-none/examples/10-airgap.conflist /etc/cni/net.d/")
		look(n, n.Must(image+run))
		// Not podman system reset, which also deletes the networks in /etc/cni/net.d that are others'.
		n.Must("podman rmi --all --force; rm /etc/containers/containers.conf.d/10-airgap.conf /etc/cni/net.d/10-airgap.conflist; rmdir /etc/containers/containers.conf.d; systemctl stop machine.slice")
	})
	n.step(t, "rootless", func(n *node, _ *testing.T) {
		n.Must("useradd -m -s /bin/bash tester; loginctl enable-linger tester")
		as := func(script string) string {
			return n.Must("su -l tester -c 'export XDG_RUNTIME_DIR=/run/user/$(id -u); " + script + "'")
		}
		as("mkdir -p ~/.config/cni/net.d ~/.config/containers; cp /usr/share/doc/cni-none/examples/10-airgap.conflist ~/.config/cni/net.d/; cp /payload/podman/10-airgap.conf ~/.config/containers/containers.conf")
		look(n, as(image+run))
		n.Must("loginctl disable-linger tester; loginctl terminate-user tester; for i in $(seq 60); do userdel -r tester 2>/dev/null && break; sleep 1; done; ! id tester")
	})
}

// containerd24 takes containerd 2.4 through all of it, as a service of another name,
// which is in /lib since systemctl mask --runtime cannot mask a unit in /etc.
func (n *node) containerd24(t *testing.T) {
	const unit = `[Unit]
Description=containerd 2.4
[Service]
Type=notify
Delegate=yes
KillMode=process
Environment=PATH=/payload/containerd24:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/payload/containerd24/containerd --config /etc/containerd24/config.toml
`
	n.Must("/payload/pod remove; systemctl stop containerd; mkdir /etc/containerd24; cat >/lib/systemd/system/node-runtime.service <<'X'\n" + unit + `X
/payload/containerd24/containerd config default | sed "s/SystemdCgroup = false/SystemdCgroup = true/; s#^root = .*#root = '/var/lib/containerd24'#" >/etc/containerd24/config.toml
grep -q 'SystemdCgroup = true' /etc/containerd24/config.toml
systemctl daemon-reload; systemctl start node-runtime`)
	other := *n
	other.unit = "node-runtime.service"
	other.images()
	other.pod("bridged", "-")
	other.life(t)
	other.restartsFail(t, failures)
	n.Must("/payload/pod remove; systemctl stop node-runtime; rm -r /etc/containerd24 /lib/systemd/system/node-runtime.service /var/lib/containerd24 /run/nri; systemctl daemon-reload; systemctl start containerd\n" + answers)
	n.pod("bridged", "-")
}
