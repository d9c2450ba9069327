#!/usr/bin/env bash
# Lints every module, the workflows, and what go.mod files say about Go.
# usage: test/lint.sh
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
PATH=$(tools/go.sh):$PATH
export PATH GOFLAGS=-buildvcs=false CGO_ENABLED=0
tools/build.sh golangci actionlint
failed=0

mapfile -t modules < <(find . -name go.mod -not -path './tools/*' -not -path './bin/*' -printf '%h\n' | sort)
for m in "${modules[@]}"; do
	echo "golangci-lint in $m"
	(cd "$m" && "$root/bin/golangci/golangci-lint" run --allow-parallel-runners --config "$root/.golangci.yml" ./...) || failed=1
done

# No module asks for a later Go than its dependencies do, and all that is ours is
# built by the same one.
toolchain=$(awk '$1 == "toolchain" { print $2 }' go.mod)
for m in "${modules[@]}"; do
	has=$(awk '$1 == "go" { print $2 }' "$m/go.mod")
	needs=$(cd "$m" && go list -m -f '{{if not .Main}}{{.GoVersion}}{{end}}' all | sort -V | tail -1)
	[[ $needs == *.*.* ]] || needs+=.0
	printf '%s\n' "$has" "$needs" | sort -CV || { echo "$m/go.mod: go $has, and its dependencies need no more than $needs" >&2; failed=1; }
	[ "$(awk '$1 == "toolchain" { print $2 }' "$m/go.mod")" = "$toolchain" ] || { echo "$m/go.mod: its toolchain is not the root's, $toolchain" >&2; failed=1; }
done

bin/actionlint/actionlint || failed=1
exit $failed
