// Package spec is what the test and the probe in the container agree on.
package spec

// Probe is one attempt to get out of a container.
type Probe struct {
	Name   string
	Kind   string
	Addr   string // of the target, in the form that the kind wants
	Expect string // what only the target can answer
	Token  string // what the target recognises the probe by
}

// Result is what the container saw of a probe.
type Result struct {
	Name    string
	Through bool   // proven from inside
	Detail  string // for a person: why not, or how
}

// The addresses of the test's own networks: of no other host, and none of them
// leaves the namespaces that the test makes.
const (
	HostAddr  = "10.231.0.1" // the stand-in for the host, on its bridge
	HostAddr6 = "2001:db8:231::1"
	Subnet    = "10.231.0.0/24"
	Subnet6   = "2001:db8:231::/64"

	Group = "224.0.0.231" // unassigned, never forwarded

	Ethertype = 0x88b5 // IEEE 802 local experimental

	VNI         = 231
	VxlanPort   = 4790
	VxlanInside = "10.232.0.2/24"
	VxlanHost   = "10.232.0.1/24"
	VxlanTarget = "10.232.0.1:7001"

	MacvlanAddr = "10.231.0.200/24"

	TunAddr = "10.233.0.1/24"
	TunPeer = "10.233.0.2"
)
