package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// What pods and people see of a node's state. The RuntimeClass schedules to
// nodes that have the label.
const (
	readyLabel     = "cni-none.dev/ready"
	conditionType  = "CNINoneReady"
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// kubeNode is the Node object of the node that we run on. Two kinds of PATCH are
// all that is needed, so this is net/http and not client-go. A nil *kubeNode is
// a node without a cluster: its methods do nothing.
type kubeNode struct {
	name, host string
	account    *os.Root  // opened before the root changes; the token in it is renewed
	since      time.Time // of the reason
	reason     string
	shown      time.Time // of the message
	message    string
}

// findNode returns nil outside a pod, or where NODE_NAME is not given.
func findNode() (*kubeNode, error) {
	host, port, name := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"), os.Getenv("NODE_NAME")
	if host == "" || name == "" {
		return nil, nil
	}
	dir := serviceAccount
	if d := os.Getenv("SERVICE_ACCOUNT_DIR"); d != "" {
		dir = d
	}
	account, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the service account's directory: %w", err)
	}
	return &kubeNode{name: name, host: net.JoinHostPort(host, port), account: account}, nil
}

func (n *kubeNode) patch(ctx context.Context, subresource, kind string, body any) error {
	token, err := n.account.ReadFile("token")
	if err != nil {
		return err
	}
	ca, err := n.account.ReadFile("ca.crt")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return errors.New("the service account's ca.crt holds no certificate")
	}
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	u := "https://" + n.host + "/api/v1/nodes/" + url.PathEscape(n.name) + subresource
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, u, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", kind)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<12))
		return fmt.Errorf("PATCH %s: %s: %s", u, resp.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// label puts the label on or takes it off. Merging a null deletes the key.
func (n *kubeNode) label(ctx context.Context, on bool) error {
	if n == nil {
		return nil
	}
	var value any
	if on {
		value = "true"
	}
	err := n.patch(ctx, "", "application/merge-patch+json",
		map[string]any{"metadata": map[string]any{"labels": map[string]any{readyLabel: value}}})
	if err != nil {
		return fmt.Errorf("set the label %s=%v: %w", readyLabel, value, err)
	}
	return nil
}

// show writes the state into the node's condition.
func (n *kubeNode) show(ctx context.Context, r report) error {
	if n == nil {
		return nil
	}
	status, reason := r.State.condition()
	now := time.Now().UTC()
	if n.reason != reason {
		n.reason, n.since = reason, now
	}
	message := r.String()
	if len(message) > 1024 {
		message = message[:1024]
	}
	// Every watcher of nodes gets every heartbeat: as seldom as kubelet's own.
	if n.message == message && now.Sub(n.shown) < 5*time.Minute {
		return nil
	}
	err := n.patch(ctx, "/status", "application/strategic-merge-patch+json", map[string]any{"status": map[string]any{"conditions": []any{map[string]any{
		"type": conditionType, "status": status, "reason": reason, "message": strings.ToValidUTF8(message, ""),
		"lastHeartbeatTime": now.Format(time.RFC3339), "lastTransitionTime": n.since.Format(time.RFC3339),
	}}}})
	if err != nil {
		return fmt.Errorf("set the condition %s: %w", conditionType, err)
	}
	n.message, n.shown = message, now
	return nil
}
