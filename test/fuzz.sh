#!/usr/bin/env bash
# Runs every fuzz target that there is, one after the other.
# usage: test/fuzz.sh FUZZTIME   (a duration, or a number of inputs such as 20000x)
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$(tools/go.sh):$PATH
export PATH GOFLAGS=-buildvcs=false CGO_ENABLED=0
while IFS=: read -r file target; do
	(cd "$(dirname "$file")" && go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 1000x .)
done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's/:func /:/' | sort)
