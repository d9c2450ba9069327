package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// object is a Kubernetes object.
type object = map[string]any

// chart makes the Helm chart from what cni-none.yaml is made from. Its default
// rendering is the same, and each value does what an overlay or a component does.
func (r release) chart() error {
	text, err := r.kustomize(all)
	if err != nil {
		return err
	}
	objects, err := decode(text)
	if err != nil {
		return err
	}
	c := &chart{release: r, values: object{}}
	var templates strings.Builder
	for _, o := range objects {
		if err := c.template(&templates, o); err != nil {
			return fmt.Errorf("%v %v: %w", o["kind"], path(o, "metadata", "name"), err)
		}
	}
	for value, file := range map[string]string{
		`eq .Values.onViolation "delete"`: "deploy/install/delete-violators/rbac.yaml",
		".Values.monitoring.enabled":      "deploy/install/monitoring/monitoring.yaml",
	} {
		data, err := os.ReadFile(filepath.Join(r.source, file))
		if err != nil {
			return err
		}
		fmt.Fprintf(&templates, "{{- if %s }}\n---\n%s\n{{- end }}\n", value, escape(string(data)))
	}
	return c.pack(templates.String())
}

type chart struct {
	release
	values object
	holes  []string // what templates hold in the place of values
}

// hole stands for a template in an object until it is text.
func (c *chart) hole(template string) string {
	c.holes = append(c.holes, template)
	return fmt.Sprintf("HOLE%dHOLE", len(c.holes)-1)
}

// template writes the template of an object.
func (c *chart) template(out *strings.Builder, o object) error {
	condition := ""
	switch {
	case o["kind"] == "DaemonSet":
		if err := c.daemonSet(o); err != nil {
			return err
		}
	case o["kind"] == "RuntimeClass" && path(o, "metadata", "name") == "airgap":
		// One for each handler. That of airgap is as it is in the manifest.
		other, err := c.runtimeClass(o)
		if err != nil {
			return err
		}
		out.WriteString(other)
		condition = `has "airgap" .Values.handlers`
	case isPolicy(o):
		condition = ".Values.policies.enabled"
	case o["kind"] == "Namespace":
		condition = ".Values.createNamespace"
	}
	text, err := c.text(o)
	if err != nil {
		return err
	}
	if condition != "" {
		text = "{{- if " + condition + " }}\n" + text + "{{- end }}\n"
	}
	out.WriteString(text)
	return nil
}

// isPolicy says that an object is about pods that ask, and not about cni-none itself.
func isPolicy(o object) bool {
	kind, _ := o["kind"].(string)
	name, _ := path(o, "metadata", "name").(string)
	return strings.Contains(kind, "AdmissionPolicy") && name != "cni-none-token"
}

// daemonSet makes holes where values go, and takes the defaults from what was there.
func (c *chart) daemonSet(o object) error {
	spec, _ := path(o, "spec", "template", "spec").(object)
	containers, _ := spec["containers"].([]any)
	resources := object{}
	for _, v := range containers {
		container := v.(object)
		name := container["name"].(string)
		resources[name] = container["resources"]
		container["resources"] = c.hole("toYaml .Values.resources." + name)
		container["imagePullPolicy"] = c.hole(".Values.image.pullPolicy")
		args, _ := container["args"].([]any)
		container["args"] = c.args(name, args)
	}
	c.values = object{
		"image":    object{"repository": imageName, "tag": "", "pullPolicy": "IfNotPresent"},
		"handlers": c.values["handlers"], "restart": false, "remove": false, "onViolation": "report", "ipv6Only": false,
		"policies": object{"enabled": true}, "monitoring": object{"enabled": false}, "createNamespace": true,
		"tolerations": spec["tolerations"], "resources": resources,
	}
	if c.values["handlers"] == nil || len(resources) != 2 {
		return fmt.Errorf("it is not the DaemonSet that the chart was written for")
	}
	spec["tolerations"] = c.hole("toYaml .Values.tolerations")
	return nil
}

// args are those of a container. What the overlays add to those of install, in
// their order, a value adds here.
func (c *chart) args(container string, args []any) []any {
	var handlers, rest []any
	for _, a := range args {
		handler, ok := strings.CutPrefix(a.(string), "--handler=")
		if !ok {
			rest = append(rest, a)
			continue
		}
		if handlers = append(handlers, handler); len(handlers) == 1 {
			rest = append(rest, c.hole("BLOCK\n{{- range .Values.handlers }}\n- --handler={{ . }}\n{{- end }}"))
		}
	}
	args = rest
	for i, a := range args {
		if port, ok := strings.CutPrefix(a.(string), "--listen=$(HOST_IP):"); ok {
			args[i] = c.hole(`ternary "--listen=[$(HOST_IP)]:` + port + `" "--listen=$(HOST_IP):` + port + `" .Values.ipv6Only`)
		}
	}
	if container != "install" {
		return args
	}
	c.values["handlers"] = handlers
	line := func(condition, arg string) string {
		return "\n{{- if " + condition + " }}\n- " + arg + "\n{{- end }}"
	}
	return append(args, c.hole("BLOCK"+line(".Values.restart", "--restart")+line(".Values.remove", "--remove")+line(".Values.ipv6Only", "--placeholder=192.0.0.8")+line(`eq .Values.onViolation "delete"`, "--on-violation=delete")))
}

// runtimeClass is the template for every handler but airgap itself.
func (c *chart) runtimeClass(airgap object) (string, error) {
	text, err := c.text(airgap)
	if err != nil {
		return "", err
	}
	text = regexp.MustCompile(`(?m)(handler: |  name: |handler-)airgap\b`).ReplaceAllString(text, "${1}{{ $$name }}")
	return "{{- range .Values.handlers }}\n{{- $name := first (splitList \"=\" .) }}\n{{- if ne $name \"airgap\" }}\n" + text + "{{- end }}\n{{- end }}\n", nil
}

var (
	holeLine = regexp.MustCompile(`(?m)^( *)(- )?([\w-]+: )?'?HOLE(\d+)HOLE'?$`)
	ownImage = regexp.MustCompile(regexp.QuoteMeta(imageName) + `:[\w.-]+`)
)

// text is an object with templates in its holes.
func (c *chart) text(o object) (string, error) {
	data, err := yaml.Marshal(o)
	if err != nil {
		return "", err
	}
	text := ownImage.ReplaceAllString(escape(string(data)), "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}")
	text = holeLine.ReplaceAllStringFunc(text, func(line string) string {
		m := holeLine.FindStringSubmatch(line)
		n, err := strconv.Atoi(m[4])
		if err != nil {
			return line // digits, says the pattern
		}
		hole := c.holes[n]
		if block, ok := strings.CutPrefix(hole, "BLOCK\n"); ok {
			return strings.ReplaceAll(block, "\n- ", "\n"+m[1]+"- ")
		}
		if strings.HasPrefix(hole, "toYaml ") {
			return fmt.Sprintf("%s%s\n{{ %s | indent %d }}", m[1], strings.TrimSpace(m[3]), hole, len(m[1])+2)
		}
		return m[1] + m[2] + m[3] + "{{ " + hole + " }}"
	})
	return "---\n" + text, nil
}

// escape keeps Helm's hands off what looks like a template: Prometheus has its own.
func escape(text string) string {
	return regexp.MustCompile(`\{\{.*?\}\}`).ReplaceAllStringFunc(text, func(s string) string { return "{{ `" + s + "` }}" })
}

// pack writes the chart as helm package would, with the same bytes every time.
func (c *chart) pack(templates string) error {
	number := c.number("-")
	about, err := yaml.Marshal(object{
		"apiVersion": "v2", "name": "cni-none", "version": number, "appVersion": c.version, "type": "application",
		"description": "Pods with a loopback interface and nothing else", "home": "https://github.com/cni-none/cni-none",
		"kubeVersion": ">= 1.30.0-0", "sources": []string{"https://github.com/cni-none/cni-none"},
	})
	if err != nil {
		return err
	}
	values, err := os.ReadFile(filepath.Join(c.source, "release/values.yaml"))
	if err != nil {
		return err
	}
	var explained object
	if err := yaml.Unmarshal(values, &explained); err != nil {
		return err
	}
	have, err := yaml.Marshal(c.values)
	if err != nil {
		return err
	}
	said, err := yaml.Marshal(explained)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, said) {
		return fmt.Errorf("release/values.yaml has other defaults than the manifests, which say:\n%s", have)
	}
	archive, err := tarOf([]file{
		{"cni-none/Chart.yaml", 0o644, about},
		{"cni-none/values.yaml", 0o644, values},
		{"cni-none/templates/all.yaml", 0o644, []byte(templates)},
	}, c.when)
	if err != nil {
		return err
	}
	packed, err := compress(archive)
	if err != nil {
		return err
	}
	return c.write("cni-none-"+number+".tgz", packed)
}

// decode reads the objects of a file.
func decode(text string) ([]object, error) {
	var objects []object
	for document := range strings.SplitSeq(text, "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return nil, err
		}
		if o != nil {
			objects = append(objects, o)
		}
	}
	return objects, nil
}

// path follows keys into an object.
func path(v any, keys ...string) any {
	for _, key := range keys {
		o, _ := v.(object)
		v = o[key]
	}
	return v
}
