#!/usr/bin/env bash
# Compares the plugin with Debian's Docker and its --network none. As root; installs what is missing.
# usage: test/docker/run.sh [go test flags]
set -euo pipefail
cd "$(dirname "$0")"
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
../../tools/debian.sh docker.io containerd podman runc containernetworking-plugins busybox-static iptables iproute2 procps make git
# Here, because the sandbox that the tests run in has no way to download anything.
make -s -C ../.. build bin/cnitool
GOFLAGS= go test -count=1 -timeout 15m "$@" ./...
