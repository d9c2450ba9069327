// Package policy tests the policies of deploy/kubernetes/policy against real API
// servers, one of the oldest and one of the newest Kubernetes that they are for:
// what each rule refuses, in every place where it can be written, and that the
// same thing is accepted where the rule does not apply.
//
// The servers and the tests run on a machine of their own: ports cannot collide
// with anybody's, and nothing outlives the test process, however it ends.
package policy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cni-none/cni-none/internal/machine"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	root      = "../.."
	policyDir = root + "/deploy/kubernetes/policy"
	// patience is for a slow machine; what is waited for takes a second or two.
	patience = 2 * time.Minute
)

// TestMain runs the tests on a machine of their own: the kernel ends the servers
// together with it.
func TestMain(m *testing.M) { machine.Main(m, machine.Config{}) }

// cluster is etcd, an API server and the two controllers of the controller-manager
// that matter here: the one that makes service accounts and the one that type-checks
// policies. There are no nodes: a policy is done with a pod before one is needed.
type cluster struct {
	*kubernetes.Clientset
	version    string // as in bin/kubernetes<version>
	kubeconfig string
}

// start runs a cluster until the test ends. The nth cluster has ports of its own.
func start(t *testing.T, version string, n int) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "cn-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	port := 10000 + 10*n
	etcd := fmt.Sprintf("http://127.0.0.1:%d", port)
	etcdPeer := fmt.Sprintf("http://127.0.0.1:%d", port+1)

	// Authentication and authorization are real: one token, one administrator.
	write(t, dir+"/tokens.csv", "secret,admin,1,system:masters\n")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/sa.key", string(pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	c := &cluster{version: version, kubeconfig: dir + "/kubeconfig"}
	write(t, c.kubeconfig, fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: test}}]
users: [{name: test, user: {token: secret}}]
clusters: [{name: test, cluster: {server: "https://127.0.0.1:%d", insecure-skip-tls-verify: true}}]
`, port+2))

	run(t, dir, "etcd", "--name=test", "--data-dir="+dir+"/etcd", "--unsafe-no-fsync",
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+etcdPeer, "--initial-advertise-peer-urls="+etcdPeer,
		"--initial-cluster=test="+etcdPeer)
	run(t, dir, c.program(t, "kube-apiserver"),
		"--etcd-servers="+etcd,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port+2), "--cert-dir="+dir+"/certs",
		"--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24",
		"--allow-privileged=true",
		"--token-auth-file="+dir+"/tokens.csv", "--authorization-mode=RBAC",
		"--service-account-issuer=https://test", "--service-account-key-file="+dir+"/sa.key",
		"--service-account-signing-key-file="+dir+"/sa.key")
	config := &rest.Config{
		Host:            fmt.Sprintf("https://127.0.0.1:%d", port+2),
		BearerToken:     "secret",
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		QPS:             -1,
	}
	if c.Clientset, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the API server to be ready", func() error {
		var status int
		result := c.Discovery().RESTClient().Get().AbsPath("/readyz").Do(t.Context()).StatusCode(&status)
		if status != http.StatusOK {
			return fmt.Errorf("/readyz: %d: %v", status, result.Error())
		}
		return nil
	})
	run(t, dir, c.program(t, "kube-controller-manager"),
		"--kubeconfig="+c.kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port+3), "--cert-dir="+dir+"/certs-manager",
		"--controllers=serviceaccount-controller,validatingadmissionpolicy-status-controller")
	return c
}

// program is one of the binaries that tools/build.sh made for this version.
func (c *cluster) program(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(root, "bin", "kubernetes"+c.version, name)
	if _, err := os.Stat(path); err != nil {
		missing(t, "%v: run tools/build.sh kubernetes%s", err, c.version)
	}
	return path
}

// missing skips the test for want of something that CI always has.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// run starts a server that ends with the test. Its log is shown if the test fails.
func run(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	name := filepath.Base(program)
	if _, err := exec.LookPath(program); err != nil {
		missing(t, "%v: run test/run.sh policy", err)
	}
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-exited
		}
		log.Close()
		if t.Failed() {
			t.Logf("the end of %s:\n%s", log.Name(), tail(log.Name(), 15))
		}
	})
}

func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// kubectl runs the kubectl of 1.34, which may talk to a server of either version
// about everything that is done here.
func (c *cluster) kubectl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return c.command(t, kubectlPath(t), args...)
}

func kubectlPath(t *testing.T) string {
	return (&cluster{version: "134"}).program(t, "kubectl")
}

// command runs a program that finds this cluster in its environment, and returns
// what it wrote, standard output and error together.
func (c *cluster) command(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "HOME="+filepath.Dir(c.kubeconfig),
		"KUBECONFIG="+c.kubeconfig, "KUBECTL="+kubectlPath(t))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// namespace makes a namespace in which pods can be created at once.
func (c *cluster) namespace(t *testing.T, name string, labels map[string]string) string {
	t.Helper()
	_, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service account of "+name, func() error {
		_, err := c.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return name
}

// eventually polls until there is no error any more.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s: %v", patience, what, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
