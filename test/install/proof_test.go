package install

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// dump is what containerd itself makes of its config, read without any help of
// none-install's.
func (n *node) dump() map[string]any {
	n.Helper()
	args := []string{"containerd", "--config", mainFile, "config", "dump"}
	if _, ok := n.files()[mainFile]; !ok {
		args = []string{"containerd", "config", "default"}
	}
	cmd := n.command(args...)
	out, err := cmd.Output()
	if err != nil {
		n.Fatalf("containerd cannot read its config: %v", err)
	}
	t := map[string]any{}
	if err := toml.Unmarshal(out, &t); err != nil {
		n.Fatal(err)
	}
	delete(t, "imports")
	return t
}

func table(t map[string]any, keys ...string) map[string]any {
	for _, k := range keys {
		t, _ = t[k].(map[string]any)
	}
	return t
}

func handlersOf(dump map[string]any) map[string]any {
	for _, section := range []string{"io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"} {
		if r := table(dump, "plugins", section, "containerd", "runtimes"); r != nil {
			return r
		}
	}
	return nil
}

// onlyHandlers fails the test if containerd's config differs from what it was in
// anything but these handlers.
func (n *node) onlyHandlers(before map[string]any, handlers ...string) {
	n.Helper()
	after := n.dump()
	for _, h := range handlers {
		if handlersOf(after)[h] == nil {
			n.Errorf("containerd's config has no handler %q", h)
		}
		delete(handlersOf(after), h)
	}
	if !reflect.DeepEqual(before, after) {
		a, _ := toml.Marshal(before)
		b, _ := toml.Marshal(after)
		n.Errorf("containerd's config changed in more than %v:\n%s", handlers, lineDiff(string(a), string(b)))
	}
}

func lineDiff(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out []string
	for _, l := range as {
		if !slices.Contains(bs, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range bs {
		if !slices.Contains(as, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

// mustRun fails the test unless containerd answers.
func (n *node) mustRun() {
	n.Helper()
	if _, err := n.client.Version(context.Background(), &cri.VersionRequest{}); err != nil {
		n.Fatalf("containerd does not answer: %v", err)
	}
}

// unchanged fails the test unless a pod is in every respect what it was.
func (n *node) unchanged(p pod) {
	n.Helper()
	if now := n.lookAt(p.id); now != p {
		n.Errorf("a default pod changed: %+v, and was %+v", now, p)
	}
	if got := n.links(p); !slices.Equal(got, []string{"eth0", "lo"}) {
		n.Errorf("a default pod has %v now", got)
	}
}

// runcCalls counts how often the platform's runc was called for a pod.
func (n *node) runcCalls(id string) (calls int, systemd bool) {
	n.Helper()
	for line := range strings.Lines(n.read("/run/runc-calls")) {
		if strings.Contains(line, id) {
			calls++
			systemd = systemd || strings.Contains(line, "--systemd-cgroup")
		}
	}
	return calls, systemd
}

func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
