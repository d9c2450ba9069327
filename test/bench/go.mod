module github.com/cni-none/cni-none/test/bench

go 1.26.0

require (
	github.com/cni-none/cni-none v0.0.0-00010101000000-000000000000
	github.com/containernetworking/plugins v1.9.1
	github.com/vishvananda/netlink v1.3.1
	golang.org/x/sys v0.49.0
)

require github.com/vishvananda/netns v0.0.5 // indirect

replace github.com/cni-none/cni-none => ../..
