package containerd

import "errors"

// Errors for which a caller may know a remedy, such as a flag.
var (
	ErrNoRuntime = errors.New("no container runtime was found")
	ErrNoCRI     = errors.New("no CRI is served")
	ErrNoBase    = errors.New("no handler to copy")
	ErrNoUnit    = errors.New("the runtime belongs to no systemd service")
)
