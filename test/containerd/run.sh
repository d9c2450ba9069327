#!/usr/bin/env bash
# Runs the tests of this folder from a clean clone: installs and builds what
# they drive, as root. Arguments go to go test.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools/debian.sh containerd runc busybox-static
tools/build.sh containerd17 containerd24 cniplugins
make build
cd test/containerd
exec go test -count=1 -timeout 20m "$@" .
