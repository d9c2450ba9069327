package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// violations takes what none-audit watch --json says and tells it to the cluster.
type violations struct {
	cluster *cluster
	listen  net.Listener
	remove  bool // the pod, too
	logf    func(format string, args ...any)
}

// change is a line of none-audit watch --json, as far as it is needed here.
type change struct {
	Inode      uint64   `json:"inode"`
	Violated   bool     `json:"violated"`
	Why        []string `json:"why"`
	Containers []struct {
		Pod *struct{ Namespace, Name, UID string } `json:"pod"`
	} `json:"containers"`
}

// listenFor makes the socket, before the root changes. Only root may connect.
func listenFor(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600)
}

func (v *violations) run(ctx context.Context) {
	context.AfterFunc(ctx, func() { _ = v.listen.Close() })
	for {
		conn, err := v.listen.Accept()
		if err != nil {
			if ctx.Err() == nil {
				v.logf("listen for violations: %v", err)
			}
			return
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		go v.read(ctx, conn)
	}
}

func (v *violations) read(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c change
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			v.logf("none-audit says what is no JSON: %v", err)
			continue
		}
		if c.Violated {
			v.report(ctx, c)
		}
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		v.logf("read from none-audit: %v", err)
	}
}

// report makes an Event at each pod that the namespace is of.
func (v *violations) report(ctx context.Context, c change) {
	why := strings.Join(c.Why, ", ")
	v.logf("%s violated net:[%d]: %s", time.Now().UTC().Format(time.RFC3339Nano), c.Inode, why)
	if v.cluster == nil {
		return
	}
	told := map[string]bool{}
	for _, container := range c.Containers {
		p := container.Pod
		if p == nil || told[p.UID] {
			continue
		}
		told[p.UID] = true
		if err := v.cluster.warn(ctx, p.Namespace, p.Name, p.UID, "its network namespace is not isolated: "+why); err != nil {
			v.logf("%v", err)
		}
		if !v.remove {
			continue
		}
		if err := v.cluster.deletePod(ctx, p.Namespace, p.Name, p.UID); err != nil {
			v.logf("%v", err)
		}
	}
}

// warn makes a Warning at a pod.
func (c *cluster) warn(ctx context.Context, namespace, name, uid, message string) error {
	if len(message) > 1024 {
		message = message[:1024]
	}
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: name[:min(len(name), 200)] + ".", Namespace: namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name, UID: types.UID(uid)},
		Type:           corev1.EventTypeWarning, Reason: "NotIsolated", Message: strings.ToValidUTF8(message, ""),
		Source:         corev1.EventSource{Component: "cni-none", Host: c.node},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	if _, err := c.core.Events(namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make an Event at pod %s/%s: %w", namespace, name, err)
	}
	return nil
}

// deletePod deletes that pod, and no other of its name.
func (c *cluster) deletePod(ctx context.Context, namespace, name, uid string) error {
	id := types.UID(uid)
	err := c.core.Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &id}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", namespace, name, err)
	}
	return nil
}
