#!/usr/bin/env bash
# Drives the plugin through Debian's podman 4. As root; installs what is missing.
# usage: test/podman/run.sh [go test flags]
set -euo pipefail
cd "$(dirname "$0")"
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
../../tools/debian.sh podman runc containernetworking-plugins busybox-static iptables iproute2 procps make git
# Here, because the sandbox that the tests run in has no way to download anything.
make -s -C ../.. build
GOFLAGS= go test -count=1 -timeout 15m "$@" ./...
