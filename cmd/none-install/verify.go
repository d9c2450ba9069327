package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cni-none/cni-none/cmd/none-install/containerd"
	"github.com/cni-none/cni-none/pkg/loopback"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// verify runs a sandbox of every handler and looks inside.
func (in *installer) verify(ctx context.Context) report {
	x := in.examine(ctx)
	defer x.close()
	switch x.State {
	case installed:
		x.State = ready
	case pendingRestart: // of one handler; the others can be tried
	default:
		return x.report
	}
	for _, h := range slices.Clone(x.sound) {
		err := sweep(ctx, x.engine, x.Handlers)
		if err == nil {
			err = trySandbox(ctx, x.engine, h)
		}
		switch {
		case err == nil:
			x.Ready = append(x.Ready, h)
		case noImage(err) && x.State != degraded:
			if x.State == ready {
				x.State = installed
			}
			x.bad("handler %q is not tried: the node does not have the image that sandboxes are made of, and cannot pull it: %v", h, err)
		default:
			x.State = degraded
			x.bad("a sandbox of handler %q: %v", h, err)
		}
	}
	return x.report
}

// noImage says that the runtime could not get the sandbox's image: a node that is
// offline, or has just been made. No error code tells that from other failures.
func noImage(err error) bool {
	return strings.Contains(err.Error(), "failed to get sandbox image") || strings.Contains(err.Error(), "failed to pull image")
}

// The trial sandbox's name, and where its uid is noted before it runs. All of
// namespace, name, handler and uid have to be right before verify touches a
// sandbox that it finds: labels and names are anyone's to choose.
const (
	trialNamespace = "cni-none"
	trialName      = "cni-none-verify"
	trialFile      = stateDir + "/trial"
)

// sweep removes the sandbox that an interrupted verify left.
func sweep(ctx context.Context, e *containerd.Engine, handlers []string) error {
	uid, err := os.ReadFile(trialFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := e.Sandboxes(ctx, handlers)
	if err != nil {
		return err
	}
	for _, s := range list {
		if m := s.Metadata; m.GetNamespace() == trialNamespace && m.GetName() == trialName && m.GetUid() == string(uid) {
			if err := removeSandbox(ctx, e, s.Id); err != nil {
				return err
			}
		}
	}
	return remove(trialFile)
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
	uid := rand.Text()
	if _, err := write(trialFile, []byte(uid), 0o600); err != nil {
		return err
	}
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: trialName, Namespace: trialNamespace, Uid: uid},
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
		if rerr := removeSandbox(ctx, e, run.PodSandboxId); rerr != nil {
			err = errors.Join(err, rerr)
			return
		}
		err = errors.Join(err, remove(trialFile))
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
	if err := json.Unmarshal([]byte(status.Info["info"]), &info); err != nil {
		return fmt.Errorf("the runtime does not say which process it is: %w", err)
	}
	if info.PID <= 0 {
		return errors.New("the runtime does not say which process it is")
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
