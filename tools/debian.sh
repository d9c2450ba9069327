#!/usr/bin/env bash
# Installs Debian packages that a test needs and that are missing, and says so
# first. Their services are not started: a test starts its own daemons.
# usage: tools/debian.sh PACKAGE...
set -euo pipefail
missing=()
for p in "$@"; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
	echo "these Debian packages are missing and only root can install them: ${missing[*]}" >&2
	exit 1
fi
echo "installing from Debian: ${missing[*]}" >&2
# One installation at a time, and with a policy-rc.d that keeps services from starting.
exec 9>/run/lock/cni-none-debian.lock
flock 9
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends "${missing[@]}" >&2; }
install || { apt-get update -q >&2 && install; }
