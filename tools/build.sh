#!/usr/bin/env bash
# Builds the programs that the tests drive from their Go modules, into bin/NAME/.
# usage: tools/build.sh NAME...   (NAME is a folder beside this script: its
# go.mod pins the version, its tools.txt lists the packages to build)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
PATH=$("$here/go.sh"):$PATH

# build DIR [FLAGS] PACKAGE...: a program is in its place when it is complete.
build() {
	local out=$1 tmp=$1.new
	shift
	[ $# -gt 0 ] || return 0
	echo "building $*" >&2
	rm -rf "$tmp"
	mkdir "$tmp"
	CGO_ENABLED=0 GOFLAGS= go build -trimpath -buildvcs=false -o "$tmp/" "$@"
	mv "$tmp"/* "$out"
	rmdir "$tmp"
}

for name in "$@"; do
	out=$root/bin/$name
	mkdir -p "$out"
	cd "$here/$name"
	missing=()
	while read -r pkg; do
		[ -n "$pkg" ] || continue
		bin=$out/$(basename "$pkg")
		# A binary newer than the pin is the pinned one: nothing to do.
		if [ "$bin" -nt go.mod ] && [ "$bin" -nt tools.txt ] && [ ! flags.sh -nt "$bin" ]; then continue; fi
		missing+=("$pkg")
	done <tools.txt
	# Those with the same flags at once, so that one is compiled while another is linked.
	declare -A groups=()
	for pkg in "${missing[@]}"; do
		flags=$([ ! -x flags.sh ] || ./flags.sh "$pkg" "$out") # and why
		groups[" $flags"]+=" $pkg"
	done
	for key in "${!groups[@]}"; do # a blank and the flags
		flags=${key# }
		build "$out" ${flags:+"$flags"} ${groups[$key]}
	done
done
