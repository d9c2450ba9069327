module github.com/cni-none/cni-none/test/podman

go 1.26.0
