// Command pod does in a test's node what a kubelet would: it runs pods through
// the CRI, with limits, from the image that the test imported.
//
//	pod run NAME HANDLER    prints the sandbox's and the container's id
//	pod exec ID COMMAND...  prints what the command says, and ends as it does
//	pod list                a line each: name, handler, state
//	pod remove              all of them
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits that the test looks for in the pod's control group.
const (
	memory = 64 << 20
	quota  = 50000
	period = 100000
	parent = "kubepods-burstable-test.slice"

	audit = "/usr/sbin/none-audit" // of the package
)

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "pod:", err)
		status = 1
	}
	os.Exit(int(status))
}

func run(args []string) (int32, error) {
	if len(args) == 0 {
		return 2, errors.New("usage: pod run NAME HANDLER [PROFILE] | exec ID COMMAND... | list | remove")
	}
	conn, err := grpc.NewClient("unix:///run/containerd/containerd.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 1, err
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	switch {
	case args[0] == "run" && len(args) >= 3:
		return 0, start(ctx, client, args[1], args[2], append(args[3:], "")[0])
	case args[0] == "exec" && len(args) > 2:
		r, err := client.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: args[1], Cmd: args[2:], Timeout: 120})
		if err != nil {
			return 1, err
		}
		fmt.Printf("%s%s", r.Stdout, r.Stderr)
		return r.ExitCode, nil
	case args[0] == "list", args[0] == "remove":
		return 0, each(ctx, client, args[0] == "remove")
	}
	return 2, fmt.Errorf("unknown command %q", args)
}

// start runs a pod with one container, whose seccomp profile is a file's if one
// is named.
func start(ctx context.Context, client cri.RuntimeServiceClient, name, handler, profile string) error {
	if handler == "-" {
		handler = "" // the default
	}
	pod := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"},
		LogDirectory: "/var/log/pods",
		Linux:        &cri.LinuxPodSandboxConfig{CgroupParent: parent},
	}
	sandbox, err := client.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: pod, RuntimeHandler: handler})
	if err != nil {
		return err
	}
	security := &cri.LinuxContainerSecurityContext{}
	if profile != "" {
		security.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: profile}
	}
	mounts := []*cri.Mount{{HostPath: "/payload", ContainerPath: "/payload", Readonly: true}}
	if _, err := os.Stat(audit); err == nil { // containerd makes a directory of what is not there
		mounts = append(mounts, &cri.Mount{HostPath: audit, ContainerPath: "/host/none-audit", Readonly: true})
	}
	container, err := client.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: sandbox.PodSandboxId,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main"},
			Image:    &cri.ImageSpec{Image: "localhost/pod:1"},
			LogPath:  name + ".log",
			Mounts:   mounts,
			Linux: &cri.LinuxContainerConfig{SecurityContext: security,
				Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: memory, CpuQuota: quota, CpuPeriod: period}},
		},
		SandboxConfig: pod,
	})
	if err != nil {
		return err
	}
	if _, err := client.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: container.ContainerId}); err != nil {
		return err
	}
	fmt.Println(sandbox.PodSandboxId, container.ContainerId)
	return nil
}

// each lists the pods, or removes them.
func each(ctx context.Context, client cri.RuntimeServiceClient, remove bool) error {
	list, err := client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, s := range list.Items {
		if !remove {
			fmt.Println(s.Metadata.Name, s.RuntimeHandler, s.State)
			continue
		}
		if _, err := client.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			return err
		}
		if _, err := client.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			return err
		}
	}
	return nil
}
