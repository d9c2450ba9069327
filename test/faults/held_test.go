package faults

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/plugintest"
)

// TestHeldUp: a path that a user's program serves (FUSE) holds ADD up for as long
// as that program likes, which docs/security.md says. DEL, which opens nothing, is
// not held up, and ADD ends with an error when the program does.
func TestHeldUp(t *testing.T) {
	node := plugintest.NewNode(t)
	dir := t.TempDir()
	server, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	silent := os.NewFile(uintptr(server), "a FUSE server that does not answer")
	t.Cleanup(func() { silent.Close() })
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server)
	if err := unix.Mount("test", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })

	call := plugintest.Call{Plugin: harness.Plugin(), Command: "DEL", Netns: dir + "/netns"}
	if o := node.Run(t, call); o.Exit != 0 {
		t.Errorf("DEL: %+v", o)
	}
	call.Command = "ADD"
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	var stdout bytes.Buffer
	add := call.Cmd(ctx)
	add.Stdout = &stdout
	if err := node.Try(add.Start); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- add.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("ADD ended while the server was silent: %v: %s", err, &stdout)
	case <-time.After(2 * time.Second):
	}
	silent.Close()
	<-ended
	o := plugintest.Outcome{Exit: add.ProcessState.ExitCode(), Stdout: stdout.String()}
	if e, err := o.Contract(); err != nil || e == nil {
		t.Errorf("ADD, once the server has ended: %v, %v, %s", e, err, &stdout)
	}
	t.Logf("once the server has ended: %s", &stdout)
}
