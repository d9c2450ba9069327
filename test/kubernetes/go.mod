// The cluster test is a module of its own so that `go test ./...` above does not start one.
module github.com/cni-none/cni-none/test/kubernetes

go 1.26.0

require (
	github.com/cni-none/cni-none v0.0.0
	github.com/containernetworking/cni v1.3.1
)

require (
	github.com/vishvananda/netlink v1.3.1 // indirect
	github.com/vishvananda/netns v0.0.5 // indirect
	go.opentelemetry.io/otel v1.29.0 // indirect
	go.opentelemetry.io/otel/trace v1.29.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/cni-none/cni-none => ../..
