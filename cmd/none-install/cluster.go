package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// What pods and people see of a node's state. A RuntimeClass schedules to nodes
// that have its handler's label.
const (
	readyLabel    = "cni-none.dev/ready"
	handlerLabel  = "cni-none.dev/handler-"
	conditionType = "CNINoneReady"
	startupTaint  = "cni-none.dev/not-ready"

	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// cluster is what the API server has of the node that we run on. A nil *cluster
// is a node without one: its methods do nothing.
//
// It reads nothing: the answer to a patch is the whole node.
type cluster struct {
	node, namespace string // the node's name; the namespace that we run in
	core            coreclient.CoreV1Interface
	leases          coordinationclient.LeasesGetter
	account         *os.File // the service account's directory: open as long as its token is read

	since   time.Time // of the reason
	reason  string
	shown   time.Time // of the message
	message string
}

// findCluster returns nil outside a pod, or where NODE_NAME is not given. It runs
// before the root changes.
func findCluster() (*cluster, error) {
	host, port, node := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"), os.Getenv("NODE_NAME")
	if host == "" || node == "" {
		return nil, nil
	}
	dir := serviceAccount
	if d := os.Getenv("SERVICE_ACCOUNT_DIR"); d != "" {
		dir = d
	}
	// kubelet renews the token in there. The directory stays open, since its path
	// is another one on the node; client-go reads the file again every minute.
	account, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the service account's directory: %w", err)
	}
	file := func(name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", account.Fd(), name) }
	namespace, err := os.ReadFile(file("namespace"))
	if err != nil {
		return nil, fmt.Errorf("read the service account's namespace: %w", err)
	}
	config := &rest.Config{
		Host: "https://" + net.JoinHostPort(host, port), BearerTokenFile: file("token"), Timeout: 30 * time.Second,
		TLSClientConfig: rest.TLSClientConfig{CAFile: file("ca.crt")}, UserAgent: "none-install/" + version,
	}
	c := &cluster{node: node, account: account, namespace: strings.TrimSpace(string(namespace))}
	if c.core, err = coreclient.NewForConfig(config); err != nil {
		return nil, err
	}
	c.leases, err = coordinationclient.NewForConfig(config)
	return c, err
}

// label says on the node which handlers are ready, and takes off the labels of
// handlers that it does not name. All says that every handler that is wanted is.
func (c *cluster) label(ctx context.Context, ready []string, all bool) error {
	if c == nil {
		return nil
	}
	want := map[string]any{readyLabel: nil}
	if all {
		want[readyLabel] = "true"
	}
	for _, h := range ready {
		want[handlerLabel+h] = "true"
	}
	node, err := c.patchLabels(ctx, want)
	if err != nil {
		return err
	}
	stale := map[string]any{}
	for key := range node.Labels {
		if _, wanted := want[key]; strings.HasPrefix(key, handlerLabel) && !wanted {
			stale[key] = nil
		}
	}
	if len(stale) > 0 {
		_, err = c.patchLabels(ctx, stale)
	}
	return err
}

// patchLabels sets labels. Merging a null deletes the key.
func (c *cluster) patchLabels(ctx context.Context, labels map[string]any) (*corev1.Node, error) {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return nil, err
	}
	node, err := c.core.Nodes().Patch(ctx, c.node, types.MergePatchType, data, metav1.PatchOptions{})
	if err != nil {
		return nil, fmt.Errorf("set the node's labels: %w", err)
	}
	return node, nil
}

// show writes the state into the node's condition.
func (c *cluster) show(ctx context.Context, r report) error {
	if c == nil {
		return nil
	}
	status, reason := r.State.condition()
	now := time.Now().UTC()
	if c.reason != reason {
		c.reason, c.since = reason, now
	}
	message := r.String()
	if len(message) > 1024 {
		message = message[:1024]
	}
	// Every watcher of nodes gets every heartbeat: as seldom as kubelet's own.
	if c.message == message && now.Sub(c.shown) < 5*time.Minute {
		return nil
	}
	err := c.patchCondition(ctx, map[string]any{
		"type": conditionType, "status": status, "reason": reason, "message": strings.ToValidUTF8(message, ""),
		"lastHeartbeatTime": now.Format(time.RFC3339), "lastTransitionTime": c.since.Format(time.RFC3339),
	})
	if err == nil {
		c.message, c.shown = message, now
	}
	return err
}

func (c *cluster) patchCondition(ctx context.Context, condition map[string]any) error {
	data, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []any{condition}}})
	if err != nil {
		return err
	}
	if _, err := c.core.Nodes().Patch(ctx, c.node, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("set the condition %s: %w", conditionType, err)
	}
	return nil
}

// leave takes everything of ours off the node.
func (c *cluster) leave(ctx context.Context) error {
	if c == nil {
		return nil
	}
	if err := c.label(ctx, nil, false); err != nil {
		return err
	}
	if err := c.removeTaint(ctx); err != nil {
		return err
	}
	c.message, c.reason = "", ""
	return c.patchCondition(ctx, map[string]any{"type": conditionType, "$patch": "delete"})
}

// removeTaint takes the startup taint off, where it is on.
func (c *cluster) removeTaint(ctx context.Context) error {
	if c == nil {
		return nil
	}
	node, err := c.patchLabels(ctx, map[string]any{})
	if err != nil {
		return err
	}
	for i, taint := range node.Spec.Taints {
		if taint.Key != startupTaint {
			continue
		}
		// The test keeps the patch from removing another taint, if the list has changed.
		path := fmt.Sprintf("/spec/taints/%d", i)
		data, err := json.Marshal([]map[string]any{{"op": "test", "path": path + "/key", "value": startupTaint}, {"op": "remove", "path": path}})
		if err != nil {
			return err
		}
		if _, err := c.core.Nodes().Patch(ctx, c.node, types.JSONPatchType, data, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("remove the taint %s: %w", startupTaint, err)
		}
		return nil
	}
	return nil
}
