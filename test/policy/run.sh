#!/usr/bin/env bash
# Builds Kubernetes 1.34 and 1.36 where that has not been done, and tests the
# policies against both. Needs root, for a network namespace of the test's own.
# usage: test/policy/run.sh [go test flags]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
"$here/../../tools/debian.sh" etcd-server
"$here/../../tools/build.sh" kubernetes134 kubernetes136
cd "$here"
go vet .
exec go test -count=1 -timeout=10m "$@" ./...
