//go:build tools

// Package tools keeps go.mod tidy: what build.sh compiles, as imports.
package tools

import _ "sigs.k8s.io/agent-sandbox/cmd/agent-sandbox-controller"
