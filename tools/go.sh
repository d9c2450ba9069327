#!/usr/bin/env bash
# Prints the directory of a Go that builds this project: of those in PATH and in
# /usr/local/go/bin the first that is new enough, or else the first that can fetch one.
# usage: PATH=$(tools/go.sh):$PATH
set -euo pipefail
cd "$(dirname "$0")/.."
need=$(awk '$1 == "go" { print $2 }' go.mod)
mapfile -t candidates < <({ type -aP go || true; echo /usr/local/go/bin/go; } | awk '!seen[$0]++')

# version GO: what it answers in this folder, where go.mod names a version.
version() { "$1" version 2>/dev/null | grep -oE 'go[0-9][0-9.]*' | head -1 | cut -c3- || true; }

found=""
for toolchain in local ""; do
	for go in "${candidates[@]}"; do
		[ -x "$go" ] || continue
		has=$(if [ -n "$toolchain" ]; then export GOTOOLCHAIN=$toolchain; fi; version "$go")
		if [ -n "$has" ] && printf '%s\n' "$need" "$has" | sort -CV; then
			dirname "$go"
			exit
		fi
		[ -z "$toolchain" ] || found+="$go is ${has:-none}; "
	done
done
echo "Go $need or later is needed (${found:-there is no go in PATH, nor in /usr/local/go/bin; }a Go of 1.21 or later fetches what it needs where GOTOOLCHAIN=local is not set):" \
	"unpack https://go.dev/dl/ into /usr/local, or put a newer one first in PATH" >&2
exit 1
