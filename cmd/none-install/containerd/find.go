package containerd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultConfig is the file that containerd reads when it is given none.
const defaultConfig = "/etc/containerd/config.toml"

// Where container runtimes listen, in the order in which they are tried.
var endpoints = []string{
	"/run/containerd/containerd.sock",
	"/run/k3s/containerd/containerd.sock",
	"/var/snap/microk8s/common/run/containerd.sock",
	"/run/crio/crio.sock",
	"/run/cri-dockerd.sock",
}

// Where containerd is when it does not run.
var programDirs = []string{"/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin", "/opt/bin"}

// Engine is the containerd of the node: the program that listens on its socket,
// with the config that it was started with.
type Engine struct {
	Endpoint string // "" where none is running
	Program  string
	Config   string // the one place that says which file is the main one

	process process
	conn    *grpc.ClientConn
	cri.RuntimeServiceClient
}

// Where says where to look for it; what is empty is found out.
type Where struct {
	Endpoint, Program, Config string
	// What was noted at an earlier look, for a containerd that is not running: a
	// node can have more than one, since k3s brings its own.
	LastProgram, LastConfig string
}

// sockets are those that are asked.
func (w Where) sockets() []string {
	if w.Endpoint != "" {
		return []string{strings.TrimPrefix(w.Endpoint, "unix://")}
	}
	return endpoints
}

// serving is the first socket that is listened on, and the process behind it, or 0.
func (w Where) serving() (socket string, pid int) {
	for _, path := range w.sockets() {
		if pid, err := listener(path); err == nil {
			return path, pid
		}
	}
	return "", 0
}

// PID is the process that Find would find, or 0. It asks that process nothing.
func (w Where) PID() int {
	_, pid := w.serving()
	return pid
}

// Find asks the sockets, and falls back on a containerd that is installed and
// not running.
func Find(ctx context.Context, w Where) (*Engine, error) {
	socket, pid := w.serving()
	if pid == 0 {
		return w.stopped(w.sockets())
	}
	e := &Engine{Endpoint: socket, Program: w.Program, Config: w.Config, process: process{pid: pid}}
	if err := e.dial(ctx); err != nil {
		return nil, err
	}
	return e, e.identify()
}

// stopped is the containerd that would run.
func (w Where) stopped(tried []string) (*Engine, error) {
	if w.LastProgram != "" && w.Program == "" && w.Config == "" {
		if _, err := os.Stat(w.LastProgram); err == nil {
			return &Engine{Program: w.LastProgram, Config: w.LastConfig}, nil
		}
	}
	e := &Engine{Program: w.Program, Config: w.Config}
	if e.Config == "" {
		e.Config = defaultConfig
	}
	for _, dir := range programDirs {
		path := filepath.Join(dir, "containerd")
		if st, err := os.Stat(path); e.Program == "" && err == nil && st.Mode().IsRegular() {
			e.Program = path
		}
	}
	if e.Program == "" {
		return nil, fmt.Errorf("%w: none listens on %s, and there is no containerd program", ErrNoRuntime, strings.Join(tried, ", "))
	}
	return e, nil
}

// Running says whether it serves CRI.
func (e *Engine) Running() bool { return e.Endpoint != "" }

// PID is the process that runs, or 0.
func (e *Engine) PID() int { return e.process.pid }

// Close closes the connection to it.
func (e *Engine) Close() error {
	if e.conn == nil {
		return nil
	}
	return e.conn.Close()
}

// dial connects to the socket and makes sure that containerd answers.
func (e *Engine) dial(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+e.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	e.conn, e.RuntimeServiceClient = conn, cri.NewRuntimeServiceClient(conn)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	v, err := e.Version(ctx, &cri.VersionRequest{})
	if err == nil && v.RuntimeName != "containerd" {
		err = fmt.Errorf("the container runtime at %s is %s %s, and none-install knows containerd only: it gives a runtime handler a network of its own. %s",
			e.Endpoint, v.RuntimeName, v.RuntimeVersion, elsewhere(v.RuntimeName))
	} else if status.Code(err) == codes.Unimplemented {
		err = fmt.Errorf("%w at %s: what listens there is a containerd whose CRI plugin is switched off (disabled_plugins), as Docker's package has it, and Kubernetes does not use it", ErrNoCRI, e.Endpoint)
	} else if err != nil {
		err = fmt.Errorf("ask the container runtime at %s for its version: %w", e.Endpoint, err)
	}
	if err != nil {
		conn.Close()
	}
	return err
}

// elsewhere says what to do where a handler cannot have a CNI directory.
func elsewhere(name string) string {
	const multus = "use Multus with `clusterNetwork`: copy the plugin into its CNI directory, apply deploy/kubernetes/multus.yaml (multus.yaml of a release), and annotate pods with v1.multus-cni.io/default-network: kube-system/airgap"
	switch name {
	case "cri-o":
		return "CRI-O has one CNI directory for all handlers: " + multus
	case "docker":
		return "With Docker Engine, `docker run --network none` needs no plugin; for pods, " + multus
	}
	return "Where the runtime has one CNI directory for all handlers, " + multus
}

// identify learns from /proc which program it is and which config it was given.
func (e *Engine) identify() error {
	if err := e.process.note(); err != nil {
		return err
	}
	var err error
	if e.Program == "" {
		if e.Program, err = e.process.program(); err != nil {
			return err
		}
	}
	if e.Config == "" {
		e.Config, err = e.process.config()
	}
	return err
}
