module github.com/cni-none/cni-none/test/podman

go 1.26.0

require github.com/cni-none/cni-none v0.0.0

require golang.org/x/sys v0.49.0 // indirect

replace github.com/cni-none/cni-none => ../..
