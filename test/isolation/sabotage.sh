#!/usr/bin/env bash
# Breaks a copy of the plugin in three ways and expects the suites to notice:
# a test that stays green without the guard tests nothing. Needs root.
# usage: test/isolation/sabotage.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
PATH=$("$root/tools/go.sh"):$PATH
tmp=$(mktemp -d /tmp/cn-XXXXXX)
trap 'rm -rf "$tmp"' EXIT
cp -r "$root"/{go.mod,go.sum,internal,pkg,plugins} "$tmp"
cd "$tmp"
cp -r pkg pkg.sound
cp -r plugins plugins.sound

# replace FILE LINE WITH: exactly that line, or the sabotage is none.
replace() {
	grep -qxF -- "$2" "$1" || { echo "$1 has no line \"$2\": adapt $0" >&2; exit 1; }
	LINE=$2 WITH=$3 awk '$0 == ENVIRON["LINE"] {print ENVIRON["WITH"]; next} {print}' "$1" >"$1.new"
	mv "$1.new" "$1"
}

failed=0
# try NAME: builds the copy, runs the tests that both have to fail, and restores it.
try() {
	CGO_ENABLED=0 go build -o bin/none ./plugins/none
	local suite out
	for suite in isolation faults; do
		local run='TestIsolation/(connected|loopback)'
		[ $suite = isolation ] || run='TestHostIsRefused|TestProcess1IsRefused|TestNodeOutages|TestDELKeepsLo|TestFaults/scenes/(ADD|CHECK|DEL)'
		if out=$(cd "$root/test/$suite" && go test -count=1 -v -timeout 10m . -plugin "$tmp/bin/none" -run "$run" 2>&1); then
			echo "$1: test/$suite PASSES"
			failed=1
		else
			echo "$1: test/$suite fails:"
			grep -E '^ *--- FAIL: .*/|^ *[a-z]*_test.go:' <<<"$out" | cut -c1-200 | awk '/--- FAIL/ || n[$1]++ < 2' || true
		fi
	done
	rm -rf pkg plugins
	cp -r pkg.sound pkg
	cp -r plugins.sound plugins
}

"$root/test/run.sh" --needs isolation
"$root/test/run.sh" --needs faults

replace pkg/loopback/netns.go '	if err := n.refuseHost(); err != nil {' '	if err := error(nil); err != nil {'
try "no guard"

replace pkg/loopback/findings.go '	if p == Exclusive {' '	if p == Exclusive && false {'
try "no exclusive check"

replace plugins/none/commands.go 'func del(*call) ([]byte, error) { return nil, nil }' 'func del(c *call) ([]byte, error) { return nil, loDown(c.getenv("CNI_NETNS")) }'
cat >plugins/none/sabotage.go <<'GO'
package main

import (
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func loDown(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.LinkSetDown(lo)
}
GO
try "a DEL that takes lo down"
exit $failed
