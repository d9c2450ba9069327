#!/usr/bin/env bash
# Runs the tests of this folder from a clean clone: installs and builds what
# they drive, as root. Arguments go to go test.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
tools/debian.sh runc podman docker.io busybox-static
tools/build.sh containerd24
CGO_ENABLED=0 GOFLAGS= go build -trimpath -buildvcs=false -o bin/ ./cmd/none-audit ./plugins/none
cd test/audit
exec go test -count=1 -timeout 10m "$@" .
