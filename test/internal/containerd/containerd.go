// Package containerd starts real containerds: Debian's 1.6, and 1.7 and 2.4 built
// from their Go modules.
package containerd

import (
	"embed"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// Where containerd has these by default.
const (
	Socket     = "/run/containerd/containerd.sock"
	ConfigFile = "/etc/containerd/config.toml"
	DropIns    = "/etc/containerd/conf.d" // imported by Config(3) and Config(4)
)

// Dirs are the folders with the programs of a version.
var Dirs = map[string]string{
	"1.6": "/usr/bin",
	"1.7": harness.Bin("containerd17"),
	"2.4": harness.Bin("containerd24"),
}

//go:embed *.toml
var configs embed.FS

// Config is a config file of version 2, 3 or 4, as a node has it before anything of
// ours is on it. With 4 containerd brings lo up by itself.
func Config(version int) string {
	text, err := configs.ReadFile(fmt.Sprintf("version%d.toml", version))
	if err != nil {
		panic(err)
	}
	return string(text)
}

// Containerd is one that runs on a machine, and its CRI.
type Containerd struct {
	*machine.Daemon
	*CRI
	Dir string // of its programs

	m *machine.Machine
}

// Launch starts the containerd of a version with the config that is in its place.
// path names more folders with shims and runtimes.
func Launch(tb testing.TB, m *machine.Machine, version, path string) *Containerd {
	tb.Helper()
	dir := Dirs[version]
	// Its own shim, and not that of the other containerd.
	d := m.Daemon(tb, dir+":"+path, filepath.Join(dir, "containerd"))
	return &Containerd{d, Dial(tb, m.Path(Socket)), dir, m}
}

// Start is Launch, and waits until the CRI answers.
func Start(tb testing.TB, m *machine.Machine, version, path string) *Containerd {
	tb.Helper()
	c := Launch(tb, m, version, path)
	c.WaitReady(tb, cri.RuntimeReady)
	return c
}

// Restart ends the daemon and starts it again; its shims and containers live on.
func (c *Containerd) Restart(tb testing.TB) {
	tb.Helper()
	c.Stop()
	c.Daemon.Start(tb)
	c.WaitReady(tb, cri.RuntimeReady)
}

// Import imports an archive with images for the CRI, and waits until it knows them.
func (c *Containerd) Import(tb testing.TB, archive string, names ...string) {
	tb.Helper()
	c.m.Run(tb, filepath.Join(c.Dir, "ctr"), "-n", "k8s.io", "images", "import", archive)
	c.WaitImages(tb, names...)
}

// CRI is the client of a containerd's CRI.
type CRI struct {
	cri.RuntimeServiceClient
	Images cri.ImageServiceClient
}

// Dial makes a client; there need not be a server yet.
func Dial(tb testing.TB, socket string) *CRI {
	tb.Helper()
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// The socket is there in a moment, not in the second of the default.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second}}))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return &CRI{cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)}
}

// WaitReady waits until the CRI answers that these conditions hold.
func (c *CRI) WaitReady(tb testing.TB, conditions ...string) {
	tb.Helper()
	harness.Eventually(tb, "containerd serves CRI", func() error {
		r, err := c.Status(harness.Context(tb), &cri.StatusRequest{}, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		for _, is := range r.Status.Conditions {
			for _, want := range conditions {
				if is.Type == want && !is.Status {
					return fmt.Errorf("%s is false: %s", is.Type, is.Message)
				}
			}
		}
		return nil
	})
}

// WaitImages waits until the CRI knows images: it learns of one through an event,
// some time after the import.
func (c *CRI) WaitImages(tb testing.TB, names ...string) {
	tb.Helper()
	for _, name := range names {
		harness.Eventually(tb, "the CRI knows "+name, func() error {
			r, err := c.Images.ImageStatus(harness.Context(tb), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
			if err == nil && r.Image == nil {
				err = harness.ErrNotYet
			}
			return err
		})
	}
}

// Remove stops and removes a sandbox.
func (c *CRI) Remove(tb testing.TB, id string) {
	tb.Helper()
	_, stop := c.StopPodSandbox(harness.Context(tb), &cri.StopPodSandboxRequest{PodSandboxId: id})
	_, remove := c.RemovePodSandbox(harness.Context(tb), &cri.RemovePodSandboxRequest{PodSandboxId: id})
	if err := errors.Join(stop, remove); err != nil {
		tb.Errorf("remove sandbox %s: %v", id, err)
	}
}
