#!/usr/bin/env bash
# Makes every system call of the plugin fail, one at a time, and replays the
# node outages that upstream's loopback plugin had. Needs root.
# usage: test/faults/run.sh [-full] [other flags of go test]
#   -full              every position of every call (minutes)
#   -plugin FILE       another binary than bin/none
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
command -v go >/dev/null || export PATH=$PATH:/usr/local/go/bin
"$root/tools/debian.sh" strace
"$root/tools/build.sh" cniplugins
make -s -C "$root" build
cd "$here"
exec go test -v -count=1 -timeout 30m . "$@"
