#!/usr/bin/env bash
# Prints what build.sh shall give `go build` for a package, if anything, and leaves
# a sentence about it in DIR/built: the suites repeat it.
#
# The shim protects itself from the OOM killer (oom_score_adj -999) and gives up
# where it may not: proc(5) wants CAP_SYS_RESOURCE for that. On a machine that lacks
# the capability the one call is left out. Nothing else is touched, and runsc never is.
# usage: flags.sh PACKAGE DIR   (in this folder; DIR is where the programs go)
set -euo pipefail
package=$1 dir=$2
[ "$package" = gvisor.dev/gvisor/shim ] || exit 0
caps=$(awk '/^CapEff:/ {print $2}' /proc/self/status)
if (((16#$caps >> 24) & 1)); then # CAP_SYS_RESOURCE, capabilities(7)
	echo "runsc and its shim are unmodified" >"$dir/built"
	exit 0
fi
# A copy of the module: -overlay may not replace what is in the module cache. It has
# no directory before it is downloaded.
GOFLAGS= go mod download gvisor.dev/gvisor
module=$(GOFLAGS= go list -m -f '{{.Dir}}' gvisor.dev/gvisor)
rm -rf "$dir/src"
cp -r "${module:?}" "$dir/src"
chmod -R u+w "$dir/src"
file=$dir/src/pkg/shim/v1/manager.go
line='	if err := sys.SetOOMScore(cmd.Process.Pid, oomScoreMax); err != nil {'
without='	if err := error(nil); err != nil { _ = sys.SetOOMScore'
grep -qxF -- "$line" "$file" || { echo "$file has no line \"$line\": adapt $0" >&2; exit 1; }
LINE=$line WITHOUT=$without awk '$0 == ENVIRON["LINE"] {print ENVIRON["WITHOUT"]; next} {print}' "$file" >"$file.new"
mv "$file.new" "$file"
cp go.mod go.sum "$dir"
GOFLAGS= go mod edit -replace "gvisor.dev/gvisor=$dir/src" "$dir/go.mod"
echo "runsc is unmodified; its shim was built without the call that sets oom_score_adj to -999: CAP_SYS_RESOURCE is missing here" >"$dir/built"
echo "-modfile=$dir/go.mod"
