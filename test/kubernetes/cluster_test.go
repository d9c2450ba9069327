// Package kubernetes runs hermetic pods on a cluster of one real node, through
// the configuration files and the commands that the documentation shows, and
// looks at them from inside.
//
// The tests run on a machine of their own. So daemons listen on their usual ports
// and keep their state in their usual places, and none of it exists outside or
// afterwards.
package kubernetes

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cni-none/cni-none/internal/machine"
)

const (
	server  = "https://10.0.0.2:6443" // furnish gives the node this address
	apiDir  = "/etc/kubernetes"
	logDir  = "/var/log/daemons"
	cniBin  = "/opt/cni/bin"
	cniConf = "/etc/cni/net.d"
)

// cluster is one node and its control plane.
type cluster struct {
	root       string // of the repository
	bin        string
	containerd *daemon
	kubelet    *daemon
	mounts     []string // before there was any pod
	images     string   // an archive of all images
}

// start brings up a cluster as an operator has it before anything of ours is on
// it: pods get a bridge and an address of 10.244.0.0/16.
func start(t *testing.T) *cluster {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{root: root, bin: filepath.Join(root, "bin")}
	for _, dir := range []string{apiDir + "/pki", logDir, cniBin, cniConf, "/etc/containerd/conf.d", "/run/netns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	set := func(key, value string) {
		if err := os.Setenv(key, value); err != nil {
			t.Fatal(err)
		}
	}
	set("PATH", strings.Join([]string{c.bin + "/kubernetes134", c.bin + "/containerd24", "/run/bin", os.Getenv("PATH")}, ":"))
	set("KUBECONFIG", apiDir+"/admin.conf")
	set("KUBECACHEDIR", "/run/tmp/kube")

	c.controlPlane(t)
	c.node(t)
	c.mounts = mounts(t)
	return c
}

func (c *cluster) controlPlane(t *testing.T) {
	t.Helper()
	c.daemon(t, "etcd", "--data-dir=/var/lib/etcd", "--unsafe-no-fsync")

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	token := rand.Text()
	c.write(t, apiDir+"/pki/sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	c.write(t, apiDir+"/tokens.csv", token+",admin,1,system:masters\n")
	c.write(t, apiDir+"/admin.conf", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "%s", certificate-authority: %s/pki/apiserver.crt}}]
users: [{name: admin, user: {token: %s}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
`, server, apiDir, token))

	// Two families, so that a Service of either can be asked what it would do
	// with a placeholder. The nodes and the default network have IPv4 only.
	services := "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/108"
	c.daemon(t, "kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=10.0.0.2",
		"--cert-dir="+apiDir+"/pki",
		"--token-auth-file="+apiDir+"/tokens.csv",
		"--authorization-mode=RBAC",
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+apiDir+"/pki/sa.key",
		"--service-account-signing-key-file="+apiDir+"/pki/sa.key",
		services)
	poll(t, "the API server answers", 3*time.Minute, func() (bool, string) {
		out, err := c.try("kubectl", "get", "--raw=/readyz")
		return err == nil, out
	})
	conf := "--kubeconfig=" + apiDir + "/admin.conf"
	c.daemon(t, "kube-controller-manager", conf, "--leader-elect=false",
		"--service-account-private-key-file="+apiDir+"/pki/sa.key",
		"--root-ca-file="+apiDir+"/pki/apiserver.crt")
	c.daemon(t, "kube-scheduler", conf, "--leader-elect=false")
}

func (c *cluster) node(t *testing.T) {
	t.Helper()
	for _, plugin := range []string{"bridge", "host-local"} {
		c.copy(t, filepath.Join(c.bin, "cniplugins", plugin), filepath.Join(cniBin, plugin), 0o755)
	}
	c.copy(t, "testdata/10-bridge.conflist", cniConf+"/10-bridge.conflist", 0o644)
	c.copy(t, "testdata/containerd.toml", "/etc/containerd/config.toml", 0o644)
	kubelet, err := os.ReadFile("testdata/kubelet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, apiDir+"/kubelet.yaml", strings.ReplaceAll(string(kubelet), "CGROUP", cgroup()))

	c.containerd = c.daemon(t, "containerd")
	poll(t, "containerd answers", 2*time.Minute, func() (bool, string) {
		out, err := c.try("ctr", "version")
		return err == nil, out
	})
	c.images = filepath.Join(t.TempDir(), "images.tar")
	buildImages(t, c.images, c.bin)
	c.run(t, "ctr", "--namespace=k8s.io", "images", "import", c.images)

	c.kubelet = c.daemon(t, "kubelet", "--config="+apiDir+"/kubelet.yaml",
		"--kubeconfig="+apiDir+"/admin.conf", "--hostname-override=node", "--node-ip=10.0.0.2")
	poll(t, "the node is Ready", 3*time.Minute, func() (bool, string) {
		out, err := c.try("kubectl", "get", "node", "node", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")]}`)
		return err == nil && strings.Contains(out, `"status":"True"`), out
	})
	poll(t, "the default service account exists", time.Minute, func() (bool, string) {
		out, err := c.try("kubectl", "get", "serviceaccount", "default")
		return err == nil, out
	})
}

// cgroup is where everything that the node runs is kept together.
func cgroup() string { return "/" + machine.Cgroup() }

// daemon is a program that runs until the test ends.
type daemon struct {
	name string
	args []string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

func (c *cluster) daemon(t *testing.T, name string, args ...string) *daemon {
	t.Helper()
	d := &daemon{name: name, args: args, log: filepath.Join(logDir, name+".log")}
	d.start(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("last lines of %s:\n%s", name, tail(d.log, 25))
		}
		d.stop(t)
	})
	return d
}

func (d *daemon) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd = exec.Command(d.name, d.args...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		cmd.Wait() // the log says why
		close(done)
	}(d.cmd, d.done)
}

func (d *daemon) stop(t *testing.T) {
	t.Helper()
	d.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended already
	select {
	case <-d.done:
	case <-time.After(30 * time.Second):
		d.cmd.Process.Kill()
		<-d.done
	}
}

func tail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// try runs a command in the repository and returns its output and standard error together.
func (c *cluster) try(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = c.root
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// run is try for a command that has to succeed; it returns standard output only.
func (c *cluster) run(t testing.TB, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stderr = c.root, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func (c *cluster) write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) copy(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, mode); err != nil {
		t.Fatal(err)
	}
}

// poll asks until ok, or fails the test with the last thing it saw.
func poll(t testing.TB, what string, timeout time.Duration, ask func() (ok bool, state string)) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		ok, state := ask()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s it is not so that %s; last seen: %s", timeout, what, state)
		}
		time.Sleep(500 * time.Millisecond)
	}
}
