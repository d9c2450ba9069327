package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/cni-none/cni-none/pkg/loopback"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The states that a node can be in.
const (
	notInstalled   = "not-installed"
	installed      = "installed" // everything is in place and loaded; no sandbox was tried
	pendingRestart = "pending-restart"
	ready          = "ready" // a sandbox was tried, and had a loopback interface only
	degraded       = "degraded"
)

// report is a node's state with the reasons for it.
type report struct {
	State    string   `json:"state"`
	Version  string   `json:"version,omitempty"` // of the plugin that is installed
	Handlers []string `json:"handlers,omitempty"`
	Reasons  []string `json:"reasons,omitempty"`
}

func (r report) String() string {
	s := r.State
	if len(r.Reasons) > 0 {
		s += ": " + strings.Join(r.Reasons, "; ")
	}
	return s
}

// examine looks at the files, at the config and at what the runtime has loaded.
// It changes nothing.
func examine(ctx context.Context, o *options) (report, *engine) {
	st, err := loadState()
	if err != nil {
		return report{State: degraded, Reasons: []string{err.Error()}}, nil
	}
	if st == nil {
		return report{State: notInstalled}, nil
	}
	r := report{State: degraded, Version: st.Version, Handlers: st.handlers()}
	bad := func(format string, args ...any) { r.Reasons = append(r.Reasons, fmt.Sprintf(format, args...)) }
	if st.Phase != "installed" {
		bad("a run was interrupted while %s: run install or uninstall again", st.Phase)
	}
	if s, err := fileSum(conflist); err != nil || s != sum(o.conflist) {
		bad("%s is not the one of this version (%v)", conflist, orMissing(s, err))
	}
	if err := checkConfDir(); err != nil {
		bad("%v", err)
	}
	e, err := findEngine(ctx, o, st)
	if err != nil {
		bad("%v", err)
		return r, nil
	}
	d, err := e.dump(ctx, e.config)
	if err != nil {
		bad("%v", err)
		return r, e
	}
	checkPlugin(bad, d.binDirs(), o)
	for _, h := range r.Handlers {
		base := st.Handlers[h]
		if base == "" {
			base = d.defaultRuntime()
		}
		have, _ := d.runtimes()[h].(tree)
		want, _ := d.runtimes()[base].(tree)
		if have == nil {
			bad("containerd's config has no handler %q", h)
			continue
		}
		for _, text := range diff(handlerTable(want), significant(have), func([]string) bool { return false }) {
			bad("handler %q is not %q with a CNI directory (was, is): %s", h, base, text)
		}
	}
	if len(r.Reasons) > 0 {
		return r, e
	}
	if e.endpoint == "" {
		r.State = pendingRestart
		bad("the runtime is not running")
		return r, e
	}
	l, err := e.loaded(ctx)
	if err != nil {
		bad("%v", err)
		return r, e
	}
	if err := lacksHandlers(l, r.Handlers); err != nil {
		r.State = pendingRestart
		bad("%v", err)
		return r, e
	}
	checkPlugin(bad, l.binDirs, o)
	for _, h := range r.Handlers {
		base := st.Handlers[h]
		if base == "" {
			base = d.defaultRuntime()
		}
		a, b := maps.Clone(l.runtimes[h]), maps.Clone(l.runtimes[base])
		for _, k := range []string{"cniConfDir", "cniMaxConfNum"} {
			delete(a, k)
			delete(b, k)
		}
		// significant: what the config leaves out is null in one and empty in the other
		if !reflect.DeepEqual(significant(a), significant(b)) {
			r.State = pendingRestart
			bad("containerd has loaded another %q than its config says", h)
		}
		if s, ok := l.info["lastCNILoadStatus."+h]; ok && s != "OK" {
			bad("containerd could not load %s: %s", conflist, s)
		}
	}
	if len(r.Reasons) == 0 {
		r.State = installed
	}
	return r, e
}

func orMissing(sum string, err error) any {
	switch {
	case err != nil:
		return err
	case sum == "":
		return "it is missing"
	}
	return "its sum is " + sum[:12]
}

// checkPlugin looks for the plugin where the runtime does.
func checkPlugin(bad func(string, ...any), dirs []string, o *options) {
	for _, dir := range dirs {
		path := filepath.Join(dir, "none")
		s, err := fileSum(path)
		if s == "" && err == nil {
			continue
		}
		if s != sum(o.plugin) {
			bad("%s is not the plugin of this version (%v)", path, orMissing(s, err))
		} else if st, err := os.Stat(path); err == nil && st.Mode()&0o111 == 0 {
			bad("%s is not executable", path)
		}
		return
	}
	bad("there is no plugin in %s", strings.Join(dirs, ", "))
}

// verify runs a sandbox of every handler and looks inside.
func verify(ctx context.Context, o *options) report {
	r, e := examine(ctx, o)
	if r.State != installed {
		return r
	}
	if err := sweep(ctx, e); err != nil {
		return report{State: degraded, Version: r.Version, Handlers: r.Handlers, Reasons: []string{err.Error()}}
	}
	r.State = ready
	for _, h := range r.Handlers {
		if err := trySandbox(ctx, e, h); err != nil {
			r.State = degraded
			r.Reasons = append(r.Reasons, fmt.Sprintf("a sandbox of handler %q: %v", h, err))
		}
	}
	return r
}

// verifyLabel marks the sandboxes that verify runs.
const verifyLabel = "cni-none.dev/verify"

// sweep removes what an interrupted verify left.
func sweep(ctx context.Context, e *engine) error {
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

func removeSandbox(ctx context.Context, e *engine, id string) error {
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
func trySandbox(ctx context.Context, e *engine, handler string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	l, err := e.loaded(ctx)
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
	if options, _ := l.runtimes[handler]["options"].(map[string]any); options["SystemdCgroup"] == true {
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
	status, err := e.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: run.PodSandboxId, Verbose: true})
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
	runtimes, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", e.pid))
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
