// Package cluster starts a Kubernetes cluster from real parts: etcd, API server,
// controller-manager, scheduler, and a kubelet on the machine's containerd.
package cluster

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/machine"
)

// Config says what cluster it is. Only Version has to be there.
type Config struct {
	Version string           // as in bin/kubernetes134
	Machine *machine.Machine // Here
	Address string           // that the API server listens on: 127.0.0.1
	Port    int              // of the API server: 6443; other parts have the next ones
	Tokens  string           // more lines of the API server's token file
	Args    []string         // more flags of the API server
	// Controllers runs the controller-manager with these, as its flag has them
	// ("*" for its default); there is none without.
	Controllers string
	Scheduler   bool
}

// Cluster is a control plane that runs until the test ends.
type Cluster struct {
	Config
	Dir        string // with pki/, kubeconfig and tokens.csv, on the machine
	Kubeconfig string // of the administrator, on the machine
	Token      string // of the administrator
	Server     string // URL of the API server
}

// Start starts a control plane and waits until it is ready.
func Start(tb testing.TB, config Config) *Cluster {
	tb.Helper()
	c := &Cluster{Config: config, Token: rand.Text()}
	if c.Machine == nil {
		c.Machine = machine.Here()
	}
	if c.Address == "" {
		c.Address = "127.0.0.1"
	}
	if c.Port == 0 {
		c.Port = 6443
	}
	c.Dir = fmt.Sprintf("/run/cluster-%d", c.Port)
	c.Kubeconfig = c.Dir + "/kubeconfig"
	c.Server = fmt.Sprintf("https://%s:%d", c.Address, c.Port)
	c.files(tb)
	etcd, peer := fmt.Sprintf("http://127.0.0.1:%d", c.Port+1), fmt.Sprintf("http://127.0.0.1:%d", c.Port+2)
	c.Machine.Daemon(tb, "", "etcd", "--name=test", "--data-dir="+c.Dir+"/etcd", "--unsafe-no-fsync",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=test="+peer)
	c.apiServer(tb, etcd)
	if c.Controllers != "" {
		c.Daemon(tb, "kube-controller-manager", "--kubeconfig="+c.Kubeconfig, "--leader-elect=false",
			"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.Port+3), "--cert-dir="+c.Dir+"/controller-manager",
			"--controllers="+c.Controllers,
			"--service-account-private-key-file="+c.Dir+"/pki/sa.key", "--root-ca-file="+c.Dir+"/pki/apiserver.crt")
	}
	if c.Scheduler {
		c.Daemon(tb, "kube-scheduler", "--kubeconfig="+c.Kubeconfig, "--leader-elect=false",
			"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.Port+4), "--cert-dir="+c.Dir+"/scheduler")
	}
	return c
}

// files writes what the parts are given. Authentication and authorization are real:
// a token for one administrator.
func (c *Cluster) files(tb testing.TB) {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	c.Machine.Write(tb, c.Dir+"/pki/sa.key", string(pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})), 0o600)
	c.Machine.Write(tb, c.Dir+"/tokens.csv", c.Token+",admin,1,system:masters\n"+c.Tokens, 0o600)
	c.Machine.Write(tb, c.Kubeconfig, fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: admin}}]
users: [{name: admin, user: {token: %s}}]
clusters: [{name: test, cluster: {server: "%s", certificate-authority: %s/pki/apiserver.crt}}]
`, c.Token, c.Server, c.Dir), 0o600)
}

func (c *Cluster) apiServer(tb testing.TB, etcd string) {
	tb.Helper()
	args := []string{
		"--etcd-servers=" + etcd,
		"--bind-address=" + c.Address, "--advertise-address=" + c.Address, fmt.Sprintf("--secure-port=%d", c.Port),
		"--cert-dir=" + c.Dir + "/pki", "--token-auth-file=" + c.Dir + "/tokens.csv", "--authorization-mode=RBAC",
		"--endpoint-reconciler-type=none", "--allow-privileged=true",
		// Two families, so that a Service of either can be asked what it would do with
		// a placeholder.
		"--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/108",
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.Dir + "/pki/sa.key", "--service-account-signing-key-file=" + c.Dir + "/pki/sa.key",
	}
	d := c.Daemon(tb, "kube-apiserver", append(args, c.Args...)...)
	harness.Eventually(tb, "the API server is ready", func() error {
		d.MustRun(tb)
		out, err := c.Kubectl("get", "--raw=/readyz")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// Program is one of this cluster's programs, or kubectl.
func (c *Cluster) Program(name string) string {
	if name == "kubectl" { // that of 1.34 may talk to a server of either version
		return harness.Bin("kubernetes134/kubectl")
	}
	return harness.Bin("kubernetes"+c.Version, name)
}

// Daemon starts one of this cluster's programs, or another one by its path.
func (c *Cluster) Daemon(tb testing.TB, name string, args ...string) *machine.Daemon {
	tb.Helper()
	if !strings.Contains(name, "/") {
		name = c.Program(name)
	}
	return c.Machine.Daemon(tb, "", append([]string{name}, args...)...)
}

// Command is a program that finds the cluster, and kubectl, in its environment.
func (c *Cluster) Command(args ...string) *exec.Cmd {
	cmd := c.Machine.Command(args...)
	cmd.Env = append(cmd.Env, "KUBECONFIG="+c.Kubeconfig, "KUBECTL="+c.Program("kubectl"), "HOME="+c.Dir)
	return cmd
}

// Kubectl runs kubectl and returns what it wrote, standard output and error.
func (c *Cluster) Kubectl(args ...string) (string, error) {
	out, err := c.Command(append([]string{c.Program("kubectl")}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// MustKubectl is Kubectl for what has to succeed; it returns standard output only.
func (c *Cluster) MustKubectl(tb testing.TB, args ...string) string {
	tb.Helper()
	var errs strings.Builder
	cmd := c.Command(append([]string{c.Program("kubectl")}, args...)...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// Apply gives the API manifests: what a file holds, or kustomize or helm printed.
func (c *Cluster) Apply(tb testing.TB, manifests string) {
	tb.Helper()
	cmd := c.Command(c.Program("kubectl"), "apply", "--server-side", "--force-conflicts", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("kubectl apply: %v\n%s\n%s", err, out, manifests)
	}
}

// Clientset is a client for a cluster on this machine.
func (c *Cluster) Clientset(tb testing.TB) *kubernetes.Clientset {
	tb.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.Machine.Path(c.Kubeconfig))
	if err == nil {
		config.QPS = -1
		var client *kubernetes.Clientset
		if client, err = kubernetes.NewForConfig(config); err == nil {
			return client
		}
	}
	tb.Fatal(err)
	return nil
}
