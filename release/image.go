package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// imageName is what manifests, samples and docs call the image, and its tag in the tree.
const (
	imageName = "ghcr.io/cni-none/cni-none"
	treeTag   = "dev"
)

const (
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociConfig   = "application/vnd.oci.image.config.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// descriptor is one of OCI's (image-spec, descriptor.md).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    map[string]string `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// blobs is what an image consists of, by digest.
type blobs map[string][]byte

func (b blobs) add(mediaType string, data []byte) descriptor {
	digest := fmt.Sprintf("%x", sha256.Sum256(data))
	b[digest] = data
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(data)}
}

// addJSON is for maps and strings, which can be encoded.
func (b blobs) addJSON(mediaType string, v any) descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b.add(mediaType, data)
}

// image writes the image for all arches, from nothing but the programs, as a tar
// of an OCI layout: what ctr, podman and skopeo read, and registries take.
func (r release) image() error {
	b := blobs{}
	var manifests []descriptor
	for _, arch := range arches {
		m, err := r.imageFor(arch, b)
		if err != nil {
			return err
		}
		manifests = append(manifests, m)
	}
	index := b.addJSON(ociIndex, map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": manifests})
	index.Annotations = map[string]string{"org.opencontainers.image.ref.name": r.version, "io.containerd.image.name": imageName + ":" + r.version}
	top, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []descriptor{index}})
	if err != nil {
		return err
	}
	files := []file{{"oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", 0o644, top}}
	for _, digest := range sorted(b) {
		files = append(files, file{"blobs/sha256/" + digest, 0o644, b[digest]})
	}
	archive, err := tarOf(files, r.when)
	if err != nil {
		return err
	}
	return r.write("cni-none-image.oci.tar", archive)
}

func (r release) imageFor(arch string, b blobs) (descriptor, error) {
	var files []file
	for _, name := range programs {
		data, err := os.ReadFile(r.program(name, arch))
		if err != nil {
			return descriptor{}, err
		}
		files = append(files, file{name, 0o755, data})
	}
	plain, err := tarOf(files, r.when)
	if err != nil {
		return descriptor{}, err
	}
	packed, err := compress(plain)
	if err != nil {
		return descriptor{}, err
	}
	layer := b.add(ociLayer, packed)
	config := b.addJSON(ociConfig, map[string]any{
		"created": r.when.Format(time.RFC3339), "architecture": arch, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/none-install"}, "Cmd": []string{"help"}, "Labels": map[string]string{
			"org.opencontainers.image.version": r.version, "org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.source": "https://github.com/cni-none/cni-none"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(plain))}},
	})
	m := b.addJSON(ociManifest, map[string]any{"schemaVersion": 2, "mediaType": ociManifest, "config": config, "layers": []descriptor{layer}})
	m.Platform = map[string]string{"architecture": arch, "os": "linux"}
	return m, nil
}

// file is one that goes into an archive.
type file struct {
	name string
	mode int64
	data []byte
}

func tarOf(files []file, when time.Time) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: when, Format: tar.FormatUSTAR}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
