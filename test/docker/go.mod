module github.com/cni-none/cni-none/test/docker

go 1.26.0

require github.com/cni-none/cni-none/test/podman v0.0.0

require (
	github.com/cni-none/cni-none v0.0.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/cni-none/cni-none => ../..

replace github.com/cni-none/cni-none/test/podman => ../podman
