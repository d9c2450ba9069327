# Every target is explained by `make help`.
GODIR := $(shell tools/go.sh)
ifneq ($(filter-out help,$(MAKECMDGOALS)),)
$(if $(GODIR),,$(error no Go that builds this))
endif
export PATH := $(if $(GODIR),$(GODIR):)$(PATH)
ifndef VERSION # asked for once, and only where it is used
VERSION = $(eval VERSION := $(shell release/version.sh))$(VERSION)
endif
PREFIX ?= /opt/cni
BIN ?= bin
DIST ?= dist

PROGRAMS := none none-audit none-install
none: DIR := plugins/none
none-audit: DIR := cmd/none-audit
none-install: DIR := cmd/none-install

# Static and not position-independent (PIE costs half an exec more), and the same bytes
# wherever and whenever it is built.
STAMP := -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=$(VERSION) -X main.version=$(VERSION)
.PHONY: build $(PROGRAMS)
build: $(PROGRAMS) ## build bin/none, and bin/none-audit and bin/none-install for people, for this machine
$(PROGRAMS):
	CGO_ENABLED=0 GOFLAGS= go build -C $(DIR) -trimpath -buildvcs=false -buildmode=exe \
		-ldflags '-s -w -buildid= $(STAMP)' -o $(abspath $(BIN))/$@$(SUFFIX) .

# none-install installs the plugin that lies beside it.
TOOLS ?= /usr/local
.PHONY: install uninstall
install: build ## install the plugin into $(PREFIX)/bin (PREFIX=/opt/cni), the other two into $(TOOLS)/sbin (DESTDIR is respected)
	install -D -m 755 $(BIN)/none $(DESTDIR)$(PREFIX)/bin/none
	install -D -m 755 -t $(DESTDIR)$(TOOLS)/lib/cni-none $(BIN)/none $(BIN)/none-install
	install -D -m 755 $(BIN)/none-audit $(DESTDIR)$(TOOLS)/sbin/none-audit
	ln -sfn ../lib/cni-none/none-install $(DESTDIR)$(TOOLS)/sbin/none-install
	install -d $(DESTDIR)$(TOOLS)/share/man/man8
	for p in none-audit none-install; do $(BIN)/$$p man >$(DESTDIR)$(TOOLS)/share/man/man8/$$p.8 || exit; done
uninstall: ## remove what make install has installed
	rm -f $(DESTDIR)$(PREFIX)/bin/none $(addprefix $(DESTDIR)$(TOOLS)/,lib/cni-none/none lib/cni-none/none-install \
		sbin/none-audit sbin/none-install share/man/man8/none-audit.8 share/man/man8/none-install.8)
	[ ! -d $(DESTDIR)$(TOOLS)/lib/cni-none ] || rmdir $(DESTDIR)$(TOOLS)/lib/cni-none

bin/cnitool: test/go.mod # pinned there, so that the plugin's own go.mod stays small
	cd test && CGO_ENABLED=0 GOFLAGS= go build -trimpath -o ../bin/cnitool github.com/containernetworking/cni/cnitool

.PHONY: demo
demo: none bin/cnitool ## show, as root, what a container on the none network has (PICTURE=docs/demo.svg draws it)
	@cd test && GOFLAGS= go run ./cnitool/demo ../bin ../conf $(abspath $(PICTURE))

.PHONY: test
test: none bin/cnitool ## test all that needs only Go and root (in a user namespace without root)
	@test/unit.sh

# Every suite of test/suites.txt; each installs what it needs from Debian, saying
# what first, and builds the rest with Go into bin/.
SUITES := $(shell awk '/^[a-z]/ {print "test-" $$1}' test/suites.txt)
.PHONY: suites matrix test-runtimes $(SUITES)
suites: ## say what make test-SUITE runs as root; FLAGS go to go test
	@cat test/suites.txt
matrix: # their names, for a workflow
	@awk '/^[a-z]/ {printf "%s\"%s\"", n++ ? "," : "[\"sabotage\",", $$1} END {print "]"}' test/suites.txt
$(SUITES): test-%:
	test/run.sh $* $(FLAGS)
test-runtimes: test-gocni test-containerd test-podman test-docker ## test containers of containerd, nerdctl's CNI layer, podman, docker
test-kubernetes: test-policy ## test hermetic pods on a cluster of the test's own, and the admission policies
test-isolation: test-audit ## try to get out of a container, and of a control; test the audit
test-faults: test-soak ## make every system call of the plugin fail; a sample of make soak

.PHONY: test-kernels-all test-node-all
test-kernels-all: ## test the programs on all kernels and architectures in QEMU, and write the table in docs/kernels.md
	test/run.sh kernels -v -full $(FLAGS)
test-node-all: ## test none-install on a Debian node in QEMU, with a reboot, containerd 2.4, the watch, seccomp and podman
	test/run.sh node -v -full $(FLAGS)

.PHONY: test-sabotage
test-sabotage: ## break copies of the project, a few lines at a time, and expect the tests to notice (root)
	test/run.sh --needs isolation faults
	cd test && GOFLAGS= go run ./sabotage .. sabotage/list.txt

.PHONY: soak
soak: ## kill, repeat and starve the plugin for long, and attack the audit at full size (root)
	test/run.sh soak -full
	go test -count=1 -run TestWatchIsNotBlinded ./cmd/none-audit -full

.PHONY: bench
bench: ## measure it beside upstream's plugins (root, two minutes; more where containerd has to be built)
	test/bench/run.sh

.PHONY: lint
lint: ## run the linters of .golangci.yml on every module, and actionlint (builds them first: five minutes)
	test/lint.sh

.PHONY: fuzz
fuzz: ## fuzz each target for FUZZTIME (10m)
	test/fuzz.sh $(or $(FUZZTIME),10m)

.PHONY: vulnerabilities
vulnerabilities: ## look for known vulnerabilities in what is shipped (asks vuln.go.dev)
	tools/build.sh govulncheck
	@for m in . cmd/none-install; do (cd $$m && GOFLAGS= $(abspath bin)/govulncheck/govulncheck ./...) || exit; done

include release/rules.mk

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
.DEFAULT_GOAL := help
