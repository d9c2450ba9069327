# Every target is explained by `make help`.
export PATH := $(PATH):/usr/local/go/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PREFIX ?= /opt/cni
BIN ?= bin
ARCHES := amd64 arm arm64 loong64 mips64le ppc64le riscv64 s390x

# Static and not position-independent (PIE costs half an exec more), and the same bytes
# wherever and whenever it is built.
STAMP := -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=$(VERSION)
GOBUILD := CGO_ENABLED=0 GOFLAGS= go build -trimpath -buildvcs=false -buildmode=exe -ldflags '-s -w -buildid= $(STAMP)'

.PHONY: build
build: ## build bin/none, and bin/none-audit for people, for this machine
	$(GOBUILD) -o $(BIN)/none ./plugins/none
	$(GOBUILD) -o $(BIN)/none-audit ./cmd/none-audit

.PHONY: cross
cross: ## build dist/none-linux-ARCH for every architecture that CNI releases for
	$(foreach a,$(ARCHES),GOARCH=$(a) $(GOBUILD) -o dist/none-linux-$(a) ./plugins/none &&) true

.PHONY: install
install: build ## install it into $(PREFIX)/bin (PREFIX=/opt/cni; DESTDIR is respected)
	install -D -m 755 $(BIN)/none $(DESTDIR)$(PREFIX)/bin/none

bin/cnitool: test/go.mod # pinned there, so that the plugin's own go.mod stays small
	cd test && CGO_ENABLED=0 GOFLAGS= go build -trimpath -o ../bin/cnitool github.com/containernetworking/cni/cnitool

.PHONY: bin/none-install
bin/none-install:
	release/none-install.sh $@

.PHONY: demo
demo: build bin/cnitool ## show, as root, what a container on the none network has (one minute the first time)
	@cd test && GOFLAGS= go run ./cnitool/demo ../bin ../conf

.PHONY: test
test: build bin/cnitool ## test all that needs only Go and root (in a user namespace without root)
	@test/unit.sh

# Every suite of test/suites.txt; each installs what it needs from Debian, saying
# what first, and builds the rest with Go into bin/.
SUITES := $(shell awk '/^[a-z]/ {print "test-" $$1}' test/suites.txt)
.PHONY: suites test-runtimes $(SUITES)
suites: ## say what make test-SUITE runs as root; FLAGS go to go test
	@cat test/suites.txt
$(SUITES): test-%:
	test/run.sh $* $(FLAGS)
test-runtimes: test-gocni test-containerd test-podman test-docker ## test containers of containerd, nerdctl's CNI layer, podman, docker
test-kubernetes: test-policy ## test hermetic pods on a cluster of the test's own, and the admission policies
test-isolation: test-audit ## try to get out of a container, and of a control; test the audit
test-faults: test-soak ## make every system call of the plugin fail; a sample of make soak

.PHONY: test-sabotage
test-sabotage: ## break a copy of the plugin in three ways and see the suites go red (root, two minutes)
	test/isolation/sabotage.sh

.PHONY: soak
soak: ## kill, repeat and starve the plugin for long (root)
	test/run.sh soak -full

.PHONY: bench
bench: ## measure it beside upstream's plugins (root, two minutes; more where containerd has to be built)
	test/bench/run.sh

.PHONY: lint
lint: ## run the linters of .golangci.yml (builds golangci-lint first: five minutes)
	tools/build.sh golangci
	bin/golangci/golangci-lint run ./...

.PHONY: fuzz
fuzz: ## fuzz each target for FUZZTIME (10m)
	@for target in FuzzConfig FuzzPrevResult; do \
		GOFLAGS= go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(or $(FUZZTIME),10m) ./plugins/none || exit; done

.PHONY: release
release: ## build dist/: programs, .deb, .rpm, image, bill of materials, checksums
	VERSION=$(VERSION) release/build.sh

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
.DEFAULT_GOAL := help
