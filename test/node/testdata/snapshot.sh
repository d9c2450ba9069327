#!/bin/sh
# Prints what this machine is: files with mode, owner and content, units, mounts,
# firewall, sysctls, control groups. Left out is what changes by itself or with
# every pod: logs, caches, containerd's and podman's store, dpkg's lists, the addresses
# that host-local gave out, the copies that useradd makes of /etc/passwd and the like.
# Slow as it is, systemd may take longer for an answer than it usually may.
export LC_ALL=C SYSTEMD_BUS_TIMEOUT=600s
set -f # the patterns are find's
prune='-path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /payload -o -path /root -o -path /lost+found -o -path /var/log -o -path /var/tmp -o -path /var/cache -o
	-path /var/lib/containerd -o -path /var/lib/containerd24 -o -path /var/lib/dpkg -o -path /var/lib/cni -o -path /var/lib/systemd -o -path /var/lib/private -o
	-path /run/containerd -o -path /run/systemd -o -path /run/udev -o -path /run/log -o -path /run/user -o -path /run/netns -o -path /run/utmp -o -path /run/lock/* -o -path /run/dbus -o
	-path /var/lib/containers -o -path /run/containers -o -path /run/libpod -o -path /run/runc -o
	-path /etc/passwd- -o -path /etc/shadow- -o -path /etc/group- -o -path /etc/gshadow- -o -path /etc/subuid- -o -path /etc/subgid-'
# A file below /usr that was written has another change time; the others are read.
find / \( $prune \) -prune -o -path '/usr/*' -type f -printf 'file %p %m %U:%G %s %C@\n' -o -printf 'file %p %y %m %U:%G %l\n' | sort
find /etc /opt /var /run \( $prune \) -prune -o -type f -print0 | xargs -0 sha256sum | sort -k2 | sed 's/^/content /'
systemctl list-unit-files --no-legend --plain | sed 's/^/unit file /'
systemctl list-units --all --no-legend --plain --type=service,socket,slice,timer,path |
	grep -vE '^(run-|cri-containerd|user|session|systemd-tmpfiles|systemd-hostnamed|apt-|dpkg-|man-db|fstrim|e2scrub|logrotate|kubepods)' | awk '{print "unit", $1, $2, $3, $4}' | sort
findmnt -rn -o TARGET,SOURCE,FSTYPE,OPTIONS | grep -vE '^/run/(containerd|netns|user)|^/proc/sys/fs/binfmt' | sort | sed 's/^/mount /'
nft list ruleset | sed 's/^/nft /'
sysctl -a 2>/dev/null | grep -vE '^(fs\.(dentry-state|file-nr|inode-nr|inode-state|quota|aio-nr)|kernel\.(random|ns_last_pid|pty\.nr|perf_event|sched_|tainted)|net\.netfilter\.nf_conntrack_count|vm\.(stat_refresh|user_reserve_kbytes)|net\.ipv[46]\.(conf|neigh)\.veth)' | sed 's/^/sysctl /'
find /sys/fs/cgroup -mindepth 1 -type d | grep -vE '/(run-|user|init.scope|systemd-|apt-|dpkg-|man-db|fstrim|e2scrub|logrotate|modprobe)' | sort | sed 's/^/cgroup /'
ip -o link | awk '{print "link", $2}' | grep -v veth | sort
