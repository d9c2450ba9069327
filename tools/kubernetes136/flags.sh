#!/usr/bin/env bash
# Prints what build.sh shall give `go build`: the version, which a build from the
# module proxy does not know, and Helm asks the API server for.
# usage: flags.sh PACKAGE DIR   (in this folder)
set -euo pipefail
awk '$1 == "require" && $2 == "k8s.io/kubernetes" {print "-ldflags=-X=k8s.io/component-base/version.gitVersion=" $3}' go.mod
