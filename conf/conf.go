// Package conf holds the configs that are shipped, as they are in this directory.
package conf

import _ "embed"

var (
	// Airgap is the network for cnitool, podman 4 and nerdctl: it reports no address.
	//go:embed 10-airgap.conflist
	Airgap []byte

	// AirgapCRI is the network for containerd's CRI: it reports a placeholder.
	//go:embed containerd/10-airgap-cri.conflist
	AirgapCRI []byte

	// Handler1 and Handler2 are the runtime handler for containerd 1 and 2 by hand.
	//go:embed containerd/airgap-1.x.toml
	Handler1 []byte
	//go:embed containerd/airgap-2.x.toml
	Handler2 []byte

	// Seccomp is a profile that closes what a network namespace does not contain.
	//go:embed seccomp/airgap.json
	Seccomp []byte
)
