package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// LiveConfig is what the running containerd has loaded, from its CRI status.
type LiveConfig struct {
	Ready    bool
	Runtimes map[string]map[string]any
	BinDirs  []string
	Info     map[string]string
}

// Live asks the running containerd for what it has loaded.
func (e *Engine) Live(ctx context.Context) (*LiveConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	st, err := e.Status(ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("ask containerd at %s for its status: %w", e.Endpoint, err)
	}
	var config struct {
		Containerd struct {
			Runtimes map[string]map[string]any `json:"runtimes"`
		} `json:"containerd"`
		CNI struct {
			BinDir  string   `json:"binDir"`
			BinDirs []string `json:"binDirs"`
		} `json:"cni"`
	}
	if err := json.Unmarshal([]byte(st.Info["config"]), &config); err != nil {
		return nil, fmt.Errorf("read the config in containerd's CRI status: %w", err)
	}
	l := &LiveConfig{Runtimes: config.Containerd.Runtimes, BinDirs: config.CNI.BinDirs, Info: st.Info}
	if len(l.BinDirs) == 0 && config.CNI.BinDir != "" {
		l.BinDirs = []string{config.CNI.BinDir}
	}
	for _, c := range st.GetStatus().GetConditions() {
		if c.Type == cri.RuntimeReady {
			l.Ready = c.Status
		}
	}
	return l, nil
}

// Lacks says which of the handlers are not loaded as they are to be.
func (l *LiveConfig) Lacks(handlers []string, confDir string) error {
	for _, h := range handlers {
		switch dir := l.Runtimes[h]["cniConfDir"]; {
		case l.Runtimes[h] == nil:
			return fmt.Errorf("containerd has not loaded the handler %q", h)
		case dir != confDir:
			return fmt.Errorf("containerd's handler %q has cni_conf_dir %q instead of %q: its pods get the cluster's network", h, dir, confDir)
		}
	}
	return nil
}

// Has says which of the handlers is still loaded.
func (l *LiveConfig) Has(handlers []string) error {
	for _, h := range handlers {
		if l.Runtimes[h] != nil {
			return fmt.Errorf("containerd still has the handler %q", h)
		}
	}
	return nil
}

// With names the loaded handlers that have that CNI directory.
func (l *LiveConfig) With(confDir string) []string {
	var names []string
	for name, h := range l.Runtimes {
		if h["cniConfDir"] == confDir {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Copied says whether a loaded handler is the copy of base that it is to be.
func (l *LiveConfig) Copied(handler, base string) bool {
	return sameBesidesCNI(l.Runtimes[handler], l.Runtimes[base])
}

// Sandboxes returns the pod sandboxes of the given handlers.
func (e *Engine) Sandboxes(ctx context.Context, handlers []string) ([]*cri.PodSandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	list, err := e.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list the pod sandboxes: %w", err)
	}
	var out []*cri.PodSandbox
	for _, s := range list.Items {
		if slices.Contains(handlers, s.RuntimeHandler) {
			out = append(out, s)
		}
	}
	return out, nil
}
