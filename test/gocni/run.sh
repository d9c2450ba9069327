#!/usr/bin/env bash
# Runs the tests of this folder from a clean clone, as root. Arguments go to go test.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools/build.sh cniplugins
make build
cd test/gocni
exec go test -count=1 -timeout 10m "$@" .
