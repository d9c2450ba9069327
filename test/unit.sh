#!/usr/bin/env bash
# Everything that needs only Go and root. Without root it runs in a user
# namespace where the machine allows one, and says what it left out.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
export GOFLAGS=

unit() {
	go vet ./...
	(cd test && go vet ./cnitool/... ./bench)
	(cd cmd/none-install && go vet ./...)
	unformatted=$(gofmt -l cmd conf internal pkg plugins test 2>/dev/null || true)
	[ -z "$unformatted" ] || { echo "not formatted with gofmt: $unformatted" >&2; return 1; }
	go test -count=1 -timeout 150s ./...
	(cd test && go test -count=1 -timeout 150s ./cnitool/... ./bench)
	(cd cmd/none-install && go test -count=1 -timeout 150s ./...)
	# A number of inputs, not of seconds: a limit in time that runs out while an
	# input is tried counts as a failure ("context deadline exceeded").
	make --no-print-directory fuzz FUZZTIME=20000x
}

if [ "$(id -u)" = 0 ]; then
	unit
elif unshare --user --map-root-user --mount --net true 2>/dev/null; then
	echo "not root: running as root of a user namespace; nothing is left out but what skips below, with its reason"
	[ -w /dev/net/tun ] || echo "left out: a tun device beside lo (/dev/net/tun is not ours to open)"
	# It has a network namespace of its own, to which a thread may return, and no
	# way out: what tests are built from comes first.
	go mod download
	(cd test && go mod download)
	(cd cmd/none-install && go mod download)
	tools/build.sh cniplugins
	export -f unit
	unshare --user --map-root-user --mount --net bash -euc unit
else
	echo "SKIP: not root, and this machine allows no user namespace: every test that makes a network namespace is left out"
	go test -count=1 -timeout 150s ./...
fi
