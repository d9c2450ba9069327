#!/usr/bin/env bash
# Makes a release, or parts of one, from the programs in DIST (dist/). The same source gives
# the same bytes.
# usage: release/build.sh VERSION [PART...]   (SOURCE_DATE_EPOCH is respected)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$("$root/tools/go.sh"):$PATH
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$("$root/release/version.sh" --epoch)}
export SOURCE_DATE_EPOCH
umask 022
dist=$(cd "$root" && realpath "${DIST:-dist}")
cd "$root/release"
GOFLAGS=-buildvcs=false go run . "$root" "$dist" "$@"
