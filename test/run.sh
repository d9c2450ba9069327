#!/usr/bin/env bash
# Runs one suite from a clean clone, as root: installs and builds what suites.txt
# says that it needs, then compiles and runs its tests.
# usage: test/run.sh SUITE [flags of go test or of the suite ...]
#        test/run.sh --needs SUITE    installs and builds only
#        test/run.sh --ready SUITE [flags ...]    when that has been done
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$(tools/go.sh):$PATH
mode=
case ${1-} in --needs | --ready) mode=$1 && shift ;; esac
suite=${1:?usage: test/run.sh [--needs | --ready] SUITE [flags]} && shift
line=$(grep -E "^$suite " test/suites.txt) || { echo "test/suites.txt has no suite $suite" >&2; exit 2; }
read -r _ timeout _ built debian <<<"$line"

needs() {
	local name packages targets=(build)
	[ "$debian" = - ] || IFS=, read -ra packages <<<"$debian"
	[ "$debian" = - ] || tools/debian.sh "${packages[@]}"
	[ "$built" = - ] || for name in ${built//,/ }; do
		case $name in
		*\?) [ -z "${CI-}" ] || targets+=("${name%\?}") ;;
		*) if [ -d "tools/$name" ]; then tools/build.sh "$name"; else targets+=("$name"); fi ;;
		esac
	done
	make -s "${targets[@]}"
}
[ "$mode" = --ready ] || needs
[ "$mode" != --needs ] || exit 0

cd test
export GOFLAGS=
exec go test -count=1 -timeout "$timeout" ${CI:+-v} "./$suite" "$@"
