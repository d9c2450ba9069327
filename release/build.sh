#!/usr/bin/env bash
# Builds a release into dist/: static programs, .deb, .rpm, the image, the bill of
# materials, checksums. The same commit gives the same bytes.
# usage: release/build.sh   (VERSION and SOURCE_DATE_EPOCH are respected)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
PATH=$(tools/go.sh):$PATH
export VERSION=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
umask 022
rm -rf dist
mkdir dist
make --no-print-directory cross VERSION="$VERSION"
# A package's version is a number: what is not one counts as before the first release.
number=${VERSION#v}
[[ $number =~ ^[0-9]+\. ]] || number=0.0.0~$number
cd release
go run . "$root/dist" "$number" "$root"
