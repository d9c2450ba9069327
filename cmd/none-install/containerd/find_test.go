package containerd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// named is a runtime that knows its name only: CRI-O and cri-dockerd cannot be
// built from what the tests may fetch, and all that is asked of them is this.
type named struct {
	cri.UnimplementedRuntimeServiceServer
	name string
}

func (n named) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{RuntimeName: n.name, RuntimeVersion: "1.0"}, nil
}

func TestOtherRuntimes(t *testing.T) {
	for name, says := range map[string]string{"cri-o": "CRI-O has one CNI directory", "docker": "docker run --network none", "other": "one CNI directory for all handlers"} {
		dir, err := os.MkdirTemp("/tmp", "cn-") // a socket's path has to be short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		socket := filepath.Join(dir, "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		cri.RegisterRuntimeServiceServer(server, named{name: name})
		go server.Serve(l)
		t.Cleanup(server.Stop)
		_, err = Find(t.Context(), Where{Endpoint: "unix://" + socket})
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "Multus") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
