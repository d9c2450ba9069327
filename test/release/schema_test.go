package release

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cni-none/cni-none/test/internal/harness"
)

// foreign are the kinds of other projects.
const foreign = "NetworkAttachmentDefinition,PodMonitor,PrometheusRule"

// TestSchemas: everything that is released is what Kubernetes' own OpenAPI says,
// without a field that it does not know.
func TestSchemas(t *testing.T) {
	files, err := filepath.Glob(harness.Repo("dist/*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d manifests: %v", len(files), err)
	}
	rendered := filepath.Join(t.TempDir(), "chart.yaml")
	harness.Write(t, rendered, output(t, harness.Bin("helm", "helm"), "template", "cni-none", one(t, "cni-none-[0-9]*.tgz"),
		"--set", "handlers={airgap,airgap-gvisor=gvisor}", "--set", "onViolation=delete", "--set", "restart=true"), 0o600)
	schemas := schemasOf(t, "kubernetes136")
	check := func(files ...string) error {
		cmd := exec.Command(harness.Bin("kubeconform", "kubeconform"), append([]string{"-strict", "-summary", "-skip", foreign,
			"-schema-location", schemas + "/{{.ResourceKind}}-{{.ResourceAPIVersion}}.json"}, files...)...)
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		return err
	}
	if err := check(append(files, rendered)...); err != nil {
		t.Error(err)
	}
	// The control: a misspelt key is found.
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	harness.Write(t, wrong, strings.Replace(read(t, "pod.yaml"), "runtimeClassName", "runtimeClassname", 1), 0o600)
	if check(wrong) == nil {
		t.Error("a key that does not exist is not noticed")
	}
}

// schemasOf writes a JSON schema for each kind of a Kubernetes that tools/ pins.
func schemasOf(t *testing.T, pin string) string {
	t.Helper()
	source := harness.Module(t, pin, "k8s.io/kubernetes")
	var spec struct{ Definitions map[string]map[string]any }
	if err := json.Unmarshal([]byte(harness.Read(t, source+"/api/openapi-spec/swagger.json")), &spec); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, v any) {
		data, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	either := map[string]any{"oneOf": []any{map[string]string{"type": "string"}, map[string]string{"type": "number"}}}
	for name, d := range spec.Definitions {
		if strings.HasSuffix(name, ".IntOrString") || strings.HasSuffix(name, ".Quantity") {
			spec.Definitions[name] = either
		} else if d["properties"] != nil {
			d["additionalProperties"] = false
		}
		kinds, _ := d["x-kubernetes-group-version-kind"].([]any)
		for _, k := range kinds {
			kind := k.(map[string]any)
			write(strings.ToLower(kind["kind"].(string))+"-"+kind["version"].(string)+".json", map[string]string{"$ref": "all.json#/definitions/" + name})
		}
	}
	write("all.json", map[string]any{"definitions": spec.Definitions})
	return dir
}
