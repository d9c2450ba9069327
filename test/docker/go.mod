module github.com/cni-none/cni-none/test/docker

go 1.26.0

require github.com/cni-none/cni-none/test/podman v0.0.0

replace github.com/cni-none/cni-none/test/podman => ../podman
