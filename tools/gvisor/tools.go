//go:build tools

// Package tools keeps go.mod tidy: what build.sh compiles, as imports.
package tools

import (
	_ "gvisor.dev/gvisor/runsc"
	_ "gvisor.dev/gvisor/shim"
)
