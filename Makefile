# make run HOMESERVER=https://matrix.example.org   build and run, on SQLite under data/
# make test                                        everything that can be tested on this machine
# make test-quick                                  what takes a minute at most: before each commit
# make demo                                        a conversation on a real homeserver, shown
# make bench                                       the figures of docs/performance.md
# make bench-docs                                  the same, written into it
# make bench-compare OLD=v1.0                      the same beside an older build, in turn
# make lint                                        golangci-lint, govulncheck
# make build                                       bin/e2ee-proxy, static
# make test-deps                                   prepare what the tests need, below .cache/

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.PHONY: build run test test-quick bench bench-docs bench-compare demo lint fmt-check test-deps clean

HOMESERVER ?=
OLD ?=
DATA ?= data
TEST_TIMEOUT ?= 60m
# Collecting garbage under the race detector costs a quarter of the tests' time; less of it
# costs about 1 GB.
TEST_GOGC ?= 400
PACKAGES ?= ./...

GOLANGCI_LINT := v2.8.0
GOVULNCHECK := v1.9.0
TOOLS := $(CURDIR)/.cache/bin

# The race detector needs a C compiler; a machine with nothing but Go tests without it.
CC_FOUND := $(shell command -v $${CC:-cc} || command -v gcc || true)
# It looks at everything but the arithmetic of the curve, which runs on numbers of its own, and
# the part of SQLite that was translated from C, whose memory is not Go's and so is not looked
# at anyway; its driver and its C library are, without the checks of Go's rules for unsafe
# pointers. Together they would take more than half of the time.
RACE := $(if $(CC_FOUND),-race -gcflags=modernc.org/...=-d=checkptr=0 -gcflags=modernc.org/sqlite/lib=-race=false \
	-gcflags=filippo.io/edwards25519/...=-race=false -gcflags=crypto/internal/fips140/edwards25519/...=-race=false)

# What is built without cgo is built once, and used by the build, vet, the tests and the
# programs under test/. Other flags here, such as -trimpath, would compile everything anew;
# only the race detector needs cgo and a build of its own.
export CGO_ENABLED := 0

# Where git does not answer (no git, a source archive, another owner), the build records
# no revision instead of failing.
ifeq ($(shell git rev-parse HEAD 2>/dev/null),)
export GOFLAGS := $(GOFLAGS) -buildvcs=false
endif

build:
	go build -o bin/e2ee-proxy ./cmd/e2ee-proxy

run:
	@if [ -z "$(HOMESERVER)" ]; then echo "usage: make run HOMESERVER=https://matrix.example.org" >&2; exit 2; fi
	$(MAKE) --no-print-directory build
	exec bin/e2ee-proxy serve --homeserver "$(HOMESERVER)" --data "$(DATA)" --log-format text

# Under the race detector the engine is disturbed and killed at a sample of the points at
# which it can be; at every point it is without it, which is much faster.
EVERY_POINT = $(if $(filter ./...,$(PACKAGES)),E2EE_PROXY_EVERY_POINT=1 \
	go test -json -timeout $(TEST_TIMEOUT) -run '^Test(Disturbed|Crash)' ./e2ee,true)

# What takes longest begins first, so that nothing has to wait for it alone in the end.
LONGEST = $(if $(filter ./...,$(PACKAGES)),./e2ee ./test/e2e)
test: fmt-check build
	go vet $(PACKAGES)
	@if [ -z "$(RACE)" ]; then echo "no C compiler here: testing without the race detector"; fi
	go build -o bin/report ./test/report
	{ failed=; \
	  $(if $(RACE),CGO_ENABLED=1) GOGC=$(TEST_GOGC) go test -json $(RACE) -timeout $(TEST_TIMEOUT) $(LONGEST) $(PACKAGES) || failed=1; \
	  $(EVERY_POINT) || failed=1; \
	  test -z "$$failed"; } | bin/report

# The engine's own tests (./e2ee) take minutes, and so do those with real homeservers.
QUICK = $(shell go list $(PACKAGES) | grep -v -E '^e2ee-proxy/(e2ee|test|internal/tes[a-z]+)(/|$$)')
test-quick: fmt-check build
	go vet ./...
	go build -o bin/report ./test/report
	go test -json -short -timeout 2m $(QUICK) ./test/report | bin/report

bench:
	go run ./test/bench

bench-docs:
	go run ./test/bench -write docs/performance.md

# Each benchmark runs in turn with that of an older revision (or of a folder with its sources).
bench-compare:
	@if [ -z "$(OLD)" ]; then echo "usage: make bench-compare OLD=REVISION" >&2; exit 2; fi
	go run ./test/bench -old "$(OLD)"

demo:
	go run ./test/demo

fmt-check:
	@unformatted=$$(find . -name '*.go' -not -path './.cache/*' -not -path '*/node_modules/*' -print0 | xargs -0 gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "run gofmt on:" >&2; echo "$$unformatted" >&2; exit 1; fi

lint: fmt-check $(TOOLS)/golangci-lint-$(GOLANGCI_LINT) $(TOOLS)/govulncheck-$(GOVULNCHECK)
	$(TOOLS)/golangci-lint-$(GOLANGCI_LINT) run $(PACKAGES)
	.ci/vulnerabilities $(TOOLS)/govulncheck-$(GOVULNCHECK) $(PACKAGES)

# GOFLAGS is emptied: what a project needs is not what its tools need.
$(TOOLS)/golangci-lint-$(GOLANGCI_LINT):
	GOFLAGS= GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT)
	mv $(TOOLS)/golangci-lint $@

$(TOOLS)/govulncheck-$(GOVULNCHECK):
	GOFLAGS= GOBIN=$(TOOLS) go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK)
	mv $(TOOLS)/govulncheck $@

# The harness obtains its parts when a test first needs them; its own tests need them all, but
# for the clients that people have.
test-deps:
	go test -count=1 -timeout $(TEST_TIMEOUT) -run '^TestPrepared$$' ./test/clients
	go test -count=1 -timeout $(TEST_TIMEOUT) ./internal/testproc/... ./internal/tesths/... ./internal/testpeer/... ./internal/testbrowser/... ./internal/testpg/... ./internal/decisionpoint/...

clean:
	rm -rf bin
