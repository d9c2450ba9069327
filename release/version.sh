#!/usr/bin/env bash
# Prints the version, or with --epoch the time, of this source: git's, or what git
# wrote into source.txt when it made an archive of it.
# usage: release/version.sh [--epoch]
set -euo pipefail
cd "$(dirname "$0")"
read -r epoch commit tag <source.txt
if [[ $epoch == *Format* ]]; then
	# git is only read here, so the clone may be another user's.
	git=(git -c safe.directory='*')
	epoch=$("${git[@]}" log -1 --format=%ct 2>/dev/null || stat -c %Y source.txt)
	commit=$("${git[@]}" describe --tags --always --dirty 2>/dev/null || echo dev)
	tag=""
fi
if [ "${1:-}" = --epoch ]; then echo "$epoch"; else echo "${tag:-$commit}"; fi
