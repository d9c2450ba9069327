# What a release is made of: the Makefile's targets that fill dist/ (DIST).
ARCHES := amd64 arm arm64 loong64 mips64le ppc64le riscv64 s390x
IMAGE_ARCHES := amd64 arm64

.PHONY: cross
cross: ## build dist/none-linux-ARCH for every architecture that CNI releases for, the others for those of the image
	@set -e; for a in $(ARCHES); do GOARCH=$$a $(MAKE) none BIN=$(DIST) SUFFIX=-linux-$$a; done; \
	for a in $(IMAGE_ARCHES); do GOARCH=$$a $(MAKE) none-audit none-install BIN=$(DIST) SUFFIX=-linux-$$a; done

IMAGE_TAG ?= dev
.PHONY: image
image: ## build the image from this clone, as dist/cni-none-image.oci.tar (IMAGE_TAG=dev, which the manifests name)
	@set -e; for a in $(IMAGE_ARCHES); do GOARCH=$$a $(MAKE) --no-print-directory build BIN=$(DIST) SUFFIX=-linux-$$a; done
	DIST=$(DIST) release/build.sh $(IMAGE_TAG) image
	@echo "to import it on a node: ctr -n k8s.io images import $(abspath $(DIST))/cni-none-image.oci.tar"

.PHONY: release
release: export GOTOOLCHAIN := $(shell awk '$$1 == "toolchain" {print $$2}' go.mod)
release: ## build dist/: programs, image, manifests, chart, .deb, .rpm, bill of materials, checksums
	rm -rf $(DIST)
	$(MAKE) cross
	DIST=$(DIST) release/build.sh $(VERSION)

.PHONY: publish
publish: ## push the image and the chart of dist/ to ghcr.io and make the release (a workflow's work: GITHUB_TOKEN, GITHUB_ACTOR)
	release/publish.sh $(VERSION)
