package main

import (
	"os"
	"testing"
)

// TestConflist: a module cannot embed a file from outside it, so there are two
// copies of the config for containerd, and they are one.
func TestConflist(t *testing.T) {
	shipped, err := os.ReadFile("../../conf/containerd/10-airgap-cri.conflist")
	if err != nil {
		t.Fatal(err)
	}
	if string(shipped) != string(defaultConflist) {
		t.Error("10-airgap.conflist differs from conf/containerd/10-airgap-cri.conflist: copy it")
	}
}
