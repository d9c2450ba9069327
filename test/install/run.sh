#!/usr/bin/env bash
# Tests none-install on real containerd 1.6, 1.7 and 2.4: fetches and builds what
# that needs, then runs the tests. usage: test/install/run.sh [go test flags]
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
tools/debian.sh containerd runc busybox-static strace util-linux etcd-server openssl
tools/build.sh containerd17 containerd24 cniplugins kubernetes134
make build
release/none-install.sh bin/none-install
(cd cmd/none-install && go vet . && go test -count=1 .)
# The image is tried where there is one; CI has to have one.
[ -z "${CI:-}" ] || release/build.sh
cd test/install
exec go test -count=1 -timeout 15m "$@" ./...
