#!/usr/bin/env bash
# Attacks the none network from inside real containers (runc), and holds what
# was seen against the tables in docs/security.md. Needs root.
# usage: test/isolation/run.sh [-update] [other flags of go test]
#   -update            write the tables that were seen into docs/security.md
#   -plugin FILE       another binary than bin/none (its name must be none)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
command -v go >/dev/null || export PATH=$PATH:/usr/local/go/bin
"$root/tools/debian.sh" runc busybox-static
"$root/tools/build.sh" cniplugins
make -s -C "$root" build
cd "$here"
exec go test -v -count=1 -timeout 10m . "$@"
