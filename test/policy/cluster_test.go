// Package policy tests the policies of deploy/kubernetes/policy against real API
// servers, one of the oldest and one of the newest Kubernetes that they are for:
// what each rule refuses, in every place where it can be written, and that the
// same thing is accepted where the rule does not apply.
//
// The servers and the tests run on a machine of their own.
package policy

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/cni-none/cni-none/test/internal/cluster"
	"github.com/cni-none/cni-none/test/internal/harness"
	"github.com/cni-none/cni-none/test/internal/machine"
)

var policyDir = harness.Repo("deploy/kubernetes/policy")

func TestMain(m *testing.M) { machine.Main(m, machine.Config{}) }

// server is an API server and the two controllers that matter here: the one that
// makes service accounts and the one that type-checks policies. There are no nodes:
// a policy is done with a pod before one is needed.
type server struct {
	*cluster.Cluster
	*kubernetes.Clientset
}

// start runs a server until the test ends. The nth one has ports of its own.
func start(t *testing.T, version string, n int) *server {
	t.Helper()
	var args []string
	if version == "134" { // from 1.36 on it is always there
		args = []string{"--feature-gates=MutatingAdmissionPolicy=true", "--runtime-config=admissionregistration.k8s.io/v1beta1=true"}
	}
	c := cluster.Start(t, cluster.Config{
		Version: version, Port: 10000 + 10*n, Args: args,
		Controllers: "serviceaccount-controller,validatingadmissionpolicy-status-controller",
	})
	return &server{c, c.Clientset(t)}
}

// namespace makes a namespace in which pods can be created at once.
func (s *server) namespace(t *testing.T, name string, labels map[string]string) string {
	t.Helper()
	_, err := s.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the service account of "+name, func() error {
		_, err := s.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return name
}
