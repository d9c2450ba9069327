#!/usr/bin/env bash
# Wears the plugin: kills, vanishing namespaces, no room, constant change, and
# thousands of calls. Needs root.
# usage: test/soak/run.sh [--full] [other flags of go test]
#   --full             1,000 kills, 10,000 cycles over 1,000 namespaces (minutes); else a sample
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
command -v go >/dev/null || export PATH=$PATH:/usr/local/go/bin
make -s -C "$root" build
cd "$here"
exec go test -v -count=1 -timeout 60m . "$@"
