#!/usr/bin/env bash
# Measures the plugin; needs root. Prints the tables and leaves them, the figures
# as JSON and the plot in bin/bench/. --docs copies the plot into docs/, and
# --no-containerd leaves out the last part, which starts sandboxes on a containerd.
# usage: test/bench/run.sh [--quick] [--docs] [--no-containerd] [option of the bench program ...]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=$root/bin
PATH=$("$root/tools/go.sh"):$PATH
options=() docs= containerd=yes
for o in "$@"; do
	case $o in
	--quick) containerd= options+=(-rounds 20 -blocks 2 -namespaces 1,50 -ns-rounds 10 -callers 1,8 -pairs 24 -audited 1,50 -audit-rounds 3) ;;
	--docs) docs=yes ;;
	--no-containerd) containerd= ;;
	*) options+=("$o") ;;
	esac
done

# What no package brings is asked for now, and not when all has been built.
lacking=()
lack() { lacking+=("$1"); }
[ "$(id -u)" = 0 ] || lack "root, to make network namespaces"
unshare --mount --net --pid --fork true 2>/dev/null || lack "the right to make mount, network and PID namespaces"
if [ -n "$containerd" ]; then
	grep -q '\soverlay$' /proc/filesystems || lack "overlayfs in the kernel, for containers' root file systems"
	if [ -e /sys/fs/cgroup/cgroup.controllers ]; then groups=/sys/fs/cgroup; else groups=/sys/fs/cgroup/memory; fi
	if mkdir "$groups/cni-none-bench-$$" 2>/dev/null; then
		rmdir "$groups/cni-none-bench-$$"
	else
		lack "control groups that can be written, at $groups (or --no-containerd)"
	fi
fi
if [ ${#lacking[@]} -gt 0 ]; then
	printf 'make bench needs what is not here: %s\n' "${lacking[@]}" >&2
	exit 1
fi

"$root/test/run.sh" --needs faults # strace and upstream's plugins
cd "$here"
# Whatever is compared is built alike: no cgo, no PIE.
for p in empty floor lookfloor peak; do
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -buildmode=exe -o "$bin/bench-$p" "./$p"
done
CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$bin/bench-run" .
"$bin/bench-run" -bin "$bin" -out "$bin/bench" ${options+"${options[@]}"}
if [ -n "$docs" ]; then cp "$bin/bench/performance.svg" "$root/docs/"; fi
# The same in process: pkg/loopback beside what containerd does with lo.
go test -run '^$' -bench . -benchtime 2000x -count 3 . | tee "$bin/bench/inprocess.txt"
# And what is left of it in a sandbox's start and stop.
if [ -n "$containerd" ]; then
	"$root/test/run.sh" --needs gvisor
	cd "$root/test/gvisor"
	go test -count=1 -timeout 20m -tags bench -run TestSandboxTimes -v . | tee "$bin/bench/containerd.txt"
fi
