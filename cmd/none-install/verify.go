package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cni-none/cni-none/cmd/none-install/containerd"
	"github.com/cni-none/cni-none/pkg/loopback"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// verify runs a sandbox of every handler and looks inside.
func (in *installer) verify(ctx context.Context) report {
	x := in.examine(ctx)
	defer x.close()
	if x.State != installed {
		return x.report
	}
	x.State = ready
	if err := sweep(ctx, x.engine); err != nil {
		x.State = degraded
		x.bad("%v", err)
		return x.report
	}
	for _, h := range x.Handlers {
		if err := trySandbox(ctx, x.engine, h); err != nil {
			x.State = degraded
			x.bad("a sandbox of handler %q: %v", h, err)
		}
	}
	return x.report
}

// verifyLabel marks the sandboxes that verify runs.
const verifyLabel = "cni-none.dev/verify"

// sweep removes what an interrupted verify left.
func sweep(ctx context.Context, e *containerd.Engine) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	list, err := e.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{verifyLabel: "true"}}})
	if err != nil {
		return fmt.Errorf("list the pod sandboxes: %w", err)
	}
	for _, s := range list.Items {
		if err := removeSandbox(ctx, e, s.Id); err != nil {
			return err
		}
	}
	return nil
}

func removeSandbox(ctx context.Context, e *containerd.Engine, id string) error {
	if _, err := e.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stop the sandbox %s: %w", id, err)
	}
	if _, err := e.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("remove the sandbox %s: %w", id, err)
	}
	return nil
}

// trySandbox runs a sandbox of the handler and surveys the network namespace
// of its process, as the kernel shows it: not the path that the runtime reports.
func trySandbox(ctx context.Context, e *containerd.Engine, handler string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	l, err := e.Live(ctx)
	if err != nil {
		return err
	}
	id := make([]byte, 8)
	rand.Read(id)
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "cni-none-verify", Namespace: "cni-none", Uid: hex.EncodeToString(id)},
		Labels:   map[string]string{verifyLabel: "true"},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_POD},
		}},
	}
	// runc wants a slice as parent from a handler with SystemdCgroup, and a path from others.
	if options, _ := l.Runtimes[handler]["options"].(map[string]any); options["SystemdCgroup"] == true {
		config.Linux.CgroupParent = "system.slice"
	}
	run, err := e.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, removeSandbox(ctx, e, run.PodSandboxId))
	}()
	return lookInside(ctx, e, run.PodSandboxId)
}

// lookInside surveys the network namespace of a sandbox's process.
func lookInside(ctx context.Context, e *containerd.Engine, sandbox string) error {
	status, err := e.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: sandbox, Verbose: true})
	if err != nil {
		return err
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(status.Info["info"]), &info); err != nil || info.PID <= 0 {
		return fmt.Errorf("the runtime does not say which process it is (%v)", err)
	}
	path := fmt.Sprintf("/proc/%d/ns/net", info.PID)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	of, err := os.Readlink(path)
	if err != nil {
		return err
	}
	runtimes, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", e.PID()))
	if err != nil {
		return err
	}
	if of == own || of == runtimes {
		return fmt.Errorf("it is in the node's own network namespace (%s)", of)
	}
	survey, err := loopback.Inspect(path)
	if err != nil {
		return err
	}
	if err := survey.Check(loopback.Exclusive); err != nil {
		return fmt.Errorf("its network is not a loopback interface only: %w", err)
	}
	return nil
}
