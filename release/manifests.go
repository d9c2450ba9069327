package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// all is what cni-none.yaml holds, and the chart.
const all = "deploy"

// manifests writes cni-none.yaml, which is all that a cluster needs, the overlays
// of it, optional policies, and the samples, each with the release's image.
func (r release) manifests() error {
	files := map[string]string{"cni-none.yaml": all}
	var overlays []string
	for _, of := range []string{"deploy/install/*", "deploy/kubernetes/policy/*"} {
		found, err := filepath.Glob(filepath.Join(r.source, of, "kustomization.yaml"))
		if err != nil {
			return err
		}
		overlays = append(overlays, found...)
	}
	for _, file := range overlays {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		dir := filepath.Dir(strings.TrimPrefix(file, r.source+"/"))
		if name := filepath.Base(dir); name != "base" && strings.Contains(string(text), "\nkind: Kustomization\n") {
			files["cni-none-"+name+".yaml"] = dir
		}
	}
	files["cni-none-proof.yaml"] = "deploy/kubernetes/policy/proof" // a component, and of use by itself
	for name, dir := range files {
		text, err := r.kustomize(dir)
		if err != nil {
			return err
		}
		if err := r.write(name, []byte(text)); err != nil {
			return err
		}
	}
	samples, err := filepath.Glob(filepath.Join(r.source, "deploy/kubernetes/*.yaml"))
	if err != nil {
		return err
	}
	for _, path := range samples {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if filepath.Base(path) == "kustomization.yaml" {
			continue
		}
		if err := r.write(filepath.Base(path), []byte(r.released(string(text)))); err != nil {
			return err
		}
	}
	return nil
}

// kustomize is what kubectl kustomize prints of a directory, with the release's image.
func (r release) kustomize(dir string) (string, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(r.source, dir))
	if err != nil {
		return "", fmt.Errorf("kustomize %s: %w", dir, err)
	}
	text, err := built.AsYaml()
	return r.released(string(text)), err
}

// released names the release's image where the tree has its own tag.
func (r release) released(text string) string {
	return strings.ReplaceAll(text, imageName+":"+treeTag, imageName+":"+r.version)
}
