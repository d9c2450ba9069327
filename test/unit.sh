#!/usr/bin/env bash
# Everything that needs only Go and root. Without root it runs in a user
# namespace where the machine allows one, and says what it left out.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
export GOFLAGS=

unit() {
	go vet ./...
	(cd test/cnitool && go vet ./...)
	unformatted=$(gofmt -l cmd conf internal pkg plugins test 2>/dev/null || true)
	[ -z "$unformatted" ] || { echo "not formatted with gofmt: $unformatted" >&2; return 1; }
	go test -count=1 -timeout 150s ./...
	(cd test/cnitool && go test -count=1 -timeout 150s ./...)
	for target in FuzzConfig FuzzPrevResult; do
		go test -run '^$' -fuzz "^$target\$" -fuzztime 5s ./plugins/none
	done
}

if [ "$(id -u)" = 0 ]; then
	unit
elif unshare --user --map-root-user --mount true 2>/dev/null; then
	echo "not root: running as root of a user namespace; nothing is left out but what skips below, with its reason"
	make --no-print-directory build bin/cnitool
	export -f unit
	unshare --user --map-root-user --mount bash -euc unit
else
	echo "SKIP: not root, and this machine allows no user namespace: every test that makes a network namespace is left out"
	go test -count=1 -timeout 150s ./...
fi
