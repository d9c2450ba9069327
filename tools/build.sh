#!/usr/bin/env bash
# Builds the programs that the tests drive from their Go modules, into bin/NAME/.
# usage: tools/build.sh NAME...   (NAME is a folder beside this script: its
# go.mod pins the version, its tools.txt lists the packages to build)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
PATH=$("$here/go.sh"):$PATH
for name in "$@"; do
	out=$root/bin/$name
	mkdir -p "$out"
	cd "$here/$name"
	while read -r pkg; do
		[ -n "$pkg" ] || continue
		bin=$out/$(basename "$pkg")
		# A binary newer than the pin is the pinned one: nothing to do.
		if [ "$bin" -nt go.mod ] && [ "$bin" -nt tools.txt ]; then continue; fi
		echo "building $pkg" >&2
		flags=
		[ ! -x flags.sh ] || flags=$(./flags.sh "$pkg" "$out") # and why
		CGO_ENABLED=0 GOFLAGS= go build -trimpath -buildvcs=false ${flags:+"$flags"} -o "$bin.tmp" "$pkg"
		mv "$bin.tmp" "$bin"
		touch "$bin"
	done <tools.txt
done
