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
	status, reason := "False", camel(r.State)
	if r.State == ready {
		status = "True"
	}
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

// camel makes a condition's reason of a state: pending-restart, PendingRestart.
func camel(state string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(state, "-") {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

// uninstall takes the label off before anything else, so that no pod is sent to
// a node that is about to lose the handler.
func (n *kubeNode) uninstall(ctx context.Context, o *options) error {
	if !o.dryRun {
		if err := n.label(ctx, false); err != nil {
			return err
		}
	}
	return uninstall(ctx, o)
}

// fullEvery is how often watch runs a sandbox on a node that is in order; in
// between it looks without one.
const fullEvery = time.Hour

// watch keeps the node as it should be until it is told to stop. The label is on
// exactly while the last look found everything in order. Being stopped changes
// nothing: what is installed stays, and the label stays true.
func watch(ctx context.Context, o *options) error {
	last := ""
	var lastFull time.Time
	for {
		unlock, err := lock(ctx, o)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err // whoever starts us again has us look again
		}
		r := func() report {
			defer unlock()
			if o.remove {
				switch err := o.node.uninstall(ctx, o); {
				case err == nil:
					return report{State: notInstalled}
				case errors.Is(err, errPending):
					return report{State: pendingRestart}
				default:
					return report{State: degraded, Reasons: []string{err.Error()}}
				}
			}
			return o.tick(ctx, &lastFull)
		}()
		if ctx.Err() != nil {
			return nil // what was found while being stopped says nothing
		}
		if r.String() != last {
			last = r.String()
			o.logf("%s %s", time.Now().UTC().Format(time.RFC3339), last)
		}
		if err := o.node.label(ctx, r.State == ready); err != nil {
			o.logf("%v", err)
			last = ""
		}
		if err := o.node.show(ctx, r); err != nil {
			o.logf("%v", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(o.interval):
		}
	}
}

// tick is one look: what is missing is repaired, with the label off meanwhile.
func (o *options) tick(ctx context.Context, lastFull *time.Time) report {
	r, _ := examine(ctx, o)
	if r.State != installed {
		*lastFull = time.Time{}
		if err := o.node.label(ctx, false); err != nil {
			o.logf("%v", err)
		}
		if r.State != pendingRestart || o.restart {
			if err := install(ctx, o); err != nil {
				if o.restart {
					// One failed restart is enough: trying again every minute would
					// take the node down for good.
					o.restart = false
				}
				return report{State: degraded, Version: r.Version, Reasons: []string{err.Error()}}
			}
		} else {
			return r
		}
	}
	if time.Since(*lastFull) < fullEvery {
		r.State = ready
		return r
	}
	if r = verify(ctx, o); r.State == ready {
		*lastFull = time.Now()
	}
	return r
}
