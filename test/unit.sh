#!/usr/bin/env bash
# All that needs only Go and the right to make network namespaces. Where that
# right is missing it runs in a user namespace, or says what it leaves out.
# usage: test/unit.sh   (or, from itself: test/unit.sh all)
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$(tools/go.sh):$PATH
export PATH GOFLAGS=-buildvcs=false CGO_ENABLED=0

# Every module but the pins of tools/.
mapfile -t modules < <(find . -name go.mod -not -path './tools/*' -not -path './bin/*' -printf '%h\n' | sort)

# The race detector needs cgo, and that a C compiler.
race=-race cgo=1
if ! command -v "$(go env CC)" >/dev/null; then
	[ -z "${CI:-}" ] || { echo "the race detector needs a C compiler: install gcc" >&2; exit 1; }
	echo "left out: the race detector, which needs a C compiler (gcc)"
	race='' cgo=0
fi

# gotest MODULE ARGS...: the time limit is there to end what hangs, and nothing else.
gotest() (
	cd "$1"
	go test -count=1 -timeout 20m "${@:2}"
)

# tests ARGS...: what runs threads or goroutines of its own runs with the race detector.
tests() {
	CGO_ENABLED=$cgo gotest . $race "$@" $(go list ./... | grep -v /plugins/)
	CGO_ENABLED=$cgo gotest cmd/none-install $race "$@" ./...
	gotest . "$@" ./plugins/...
	gotest release "$@" ./...
	gotest test "$@" ./cnitool/... ./bench/...
}

all() {
	local m unformatted
	for m in "${modules[@]}"; do (cd "$m" && go vet ./...); done
	unformatted=$(find . -name '*.go' -not -path './bin/*' -not -path './dist/*' -exec gofmt -l {} +)
	[ -z "$unformatted" ] || { echo "not formatted with gofmt: $unformatted" >&2; return 1; }
	tests
	# A number of inputs, not of seconds: a limit in time that runs out while an
	# input is tried counts as a failure ("context deadline exceeded").
	test/fuzz.sh 20000x
}

# without runs what needs no namespace, and lists the tests that were skipped.
without() {
	echo "left out: every test that makes a network namespace, since $1, and user namespaces are not allowed here:"
	local log
	log=$(mktemp)
	trap 'rm -f "$log"' RETURN
	tests -v >"$log" 2>&1 || { cat "$log"; return 1; }
	grep -E '^ *--- SKIP|^SKIP' "$log" || true
	grep -E '^(ok|FAIL) ' "$log"
}

who="this user may not make one"
[ "$(id -u)" != 0 ] || who="root lacks CAP_SYS_ADMIN here"
if [ "${1:-}" = all ] || unshare --mount --net true 2>/dev/null; then
	all
elif unshare --user --map-root-user --mount --net true 2>/dev/null; then
	echo "a user namespace stands in for root, since $who; nothing is left out but what skips below, with its reason"
	[ -w /dev/net/tun ] || echo "left out: a tun device beside lo (/dev/net/tun is not ours to open)"
	# It has a network namespace of its own, to which a thread may return, with lo
	# up as on any machine, and no way out: what tests are built from comes first.
	for m in "${modules[@]}"; do (cd "$m" && go list -deps -test ./... >/dev/null); done
	tools/build.sh cniplugins
	unshare --user --map-root-user --mount --net bash -euc 'go run ./internal/nstest/lo && exec test/unit.sh all'
else
	without "$who"
fi
