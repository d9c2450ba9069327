#!/usr/bin/env bash
# Runs hermetic pods on a real cluster of one node: etcd, API server, controller
# manager, scheduler, kubelet and containerd, all from here and all gone afterwards.
# usage: test/kubernetes/run.sh [go test flags, as -test.run=...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin

# inside is process 1 of the node: it has its own network, mounts and processes.
# A node keeps its state in fixed places (/etc/cni, /opt/cni/bin, /var/lib/cni,
# /run/netns); here they are empty and private, so the files from conf/ and the
# commands from docs/ run as they are, and nothing of this machine is touched.
inside() {
	mount -t tmpfs -o mode=755 tmpfs /run
	mkdir -p /run/etc/upper /run/etc/work /run/sysctl /run/lock /run/tmp
	mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc
	for dir in /var/lib /var/log /opt; do mount -t tmpfs -o mode=755 tmpfs "$dir"; done
	# No name server can be reached from here; nothing shall wait for one.
	rm -f /etc/resolv.conf && : >/etc/resolv.conf
	# The kernel lets a user namespace mount /proc only where one is to be seen whole.
	mkdir /run/proc && mount -t proc proc /run/proc
	# kubelet sets these for the whole machine: let it write to files of ours.
	for key in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
		kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
		copy=/run/sysctl/${key//\//.}
		cat "/proc/sys/$key" >"$copy"
		mount --bind "$copy" "/proc/sys/$key"
	done
	# kubelet asks for a default route. This one leads to a wire that ends here.
	ip link set lo up
	ip link add uplink type veth peer name outside
	ip address add 10.0.0.2/24 dev uplink
	ip link set uplink up
	ip link set outside up
	ip route add default via 10.0.0.1
	cd "$here"
	# Not exec: process 1 has to collect the shims that containerd leaves behind.
	TMPDIR=/run/tmp CNI_NONE_NODE=1 "$root/bin/kubernetes.test" -test.v -test.parallel=16 -test.timeout=20m "$@"
}

cgroups() { # the test's own group in every hierarchy, or in the only one
	local mounts=(/sys/fs/cgroup)
	[ -e /sys/fs/cgroup/cgroup.controllers ] || mounts=(/sys/fs/cgroup/*/)
	local m
	for m in "${mounts[@]}"; do
		# No directory can be made in a hierarchy that is only a symbolic link to another.
		[ -L "${m%/}" ] || echo "${m%/}/$CNI_NONE_CGROUP"
	done
}

if [ "${1-}" = --inside ]; then
	shift
	inside "$@"
	exit
fi

if [ "$(id -u)" != 0 ]; then
	echo "test/kubernetes needs root: it starts a container runtime and a kubelet" >&2
	exit 1
fi
cd "$root"
tools/debian.sh docker.io etcd-server runc busybox-static iproute2 util-linux perl-base
tools/build.sh containerd24 cniplugins kubernetes134
# Modules are fetched here: the node has no network to do it.
make build
(cd "$here" && go test -c -o "$root/bin/kubernetes.test" .)

export CNI_NONE_CGROUP=cni-none-kubernetes-$$
cleanup() {
	cgroups | while read -r dir; do
		[ ! -d "$dir" ] || find "$dir" -depth -type d -exec rmdir {} + || true
	done
}
trap cleanup EXIT
cgroups | while read -r dir; do mkdir "$dir"; done
unshare --mount --net --pid --ipc --uts --fork --kill-child --mount-proc "$0" --inside "$@"
