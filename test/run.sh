#!/usr/bin/env bash
# Runs one suite from a clean clone, as root: installs and builds what suites.txt
# says that it needs, then compiles and runs its tests.
# usage: test/run.sh SUITE [flags of go test or of the suite ...]
#        test/run.sh --needs SUITE...    installs and builds only
#        test/run.sh --ready SUITE [flags ...]    when that has been done
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$(tools/go.sh):$PATH
mode=
case ${1-} in --needs | --ready) mode=$1 && shift ;; esac
: "${1:?usage: test/run.sh [--needs | --ready] SUITE [flags]}"

# columns SUITE: its line in suites.txt.
columns() { grep -E "^$1 " test/suites.txt || { echo "test/suites.txt has no suite $1" >&2; exit 2; }; }

# needs SUITE...: each package is installed once, and each program built once.
needs() {
	local line name part built debian programs="" packages="" targets="build"
	for name; do
		line=$(columns "$name")
		read -r _ _ _ built debian <<<"$line"
		[ "$debian" = - ] || packages+=" ${debian//,/ }"
		[ "$built" = - ] || for part in ${built//,/ }; do
			if [ -d "tools/$part" ]; then programs+=" $part"; else targets+=" $part"; fi
		done
	done
	once() { tr ' ' '\n' <<<"$1" | sort -u; }
	tools/debian.sh $(once "$packages")
	tools/build.sh $(once "$programs")
	make -s $(once "$targets")
}

if [ "$mode" = --needs ]; then
	needs "$@"
	exit
fi
suite=$1 && shift
line=$(columns "$suite")
read -r _ timeout _ <<<"$line"
[ "$mode" = --ready ] || needs "$suite"

cd test
export GOFLAGS=
exec go test -count=1 -timeout "$timeout" ${CI:+-v} "./$suite" "$@"
