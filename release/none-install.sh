#!/usr/bin/env bash
# Builds none-install: static, and the same bytes wherever it is built.
# usage: release/none-install.sh OUTPUT   (GOARCH and VERSION are respected)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(realpath -m "$1")
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
version=${VERSION:-$(git -C "$root" describe --tags --always --dirty 2>/dev/null || echo dev)}
cd "$root/cmd/none-install"
CGO_ENABLED=0 GOFLAGS= go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$version" -o "$out" .
