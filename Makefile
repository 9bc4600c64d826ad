# Heddle's commands. `make demo` and `make test` need nothing but Go, gcc, Python and, for what is missing, Debian's packages.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
CUDA := $(CURDIR)/.deps/cuda/nvidia/cu13
BUILD := $(CURDIR)/build
# go-nvml wraps functions that NVIDIA's header marks deprecated.
export CGO_CFLAGS := -O2 -g -Wno-deprecated-declarations
# Go 1.26 places its heap at random below 64 TiB, where clients' windows lie; an executor built so starts itself anew until it
# lies elsewhere (tools/heddle/cli/heap.go). Without the randomisation the first start fits.
export GOEXPERIMENT := norandomizedheapbase64
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X github.com/heddle-gpu/heddle/tools/heddle/cli.Version=$(VERSION)

.PHONY: help build deps tools-deps interposer heddle simgpu generate demo demo-programs test test-go test-race test-c lint nightly bench gpu-test gpu-carry dist clean

build: heddle interposer simgpu ## everything, into build/

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

deps: ## CUDA headers and ptxas (PyPI wheels, pinned) into .deps/
	@tools/deps/fetch.sh cuda

tools-deps: deps ## what only the tests use: Debian packages, headers of NVTX
	@tools/deps/packages.sh
	@tools/deps/fetch.sh nvtx

heddle:
	@mkdir -p $(BUILD)/bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o $(BUILD)/bin/heddle ./tools/heddle

interposer: deps
	@mkdir -p $(BUILD)/interposer $(BUILD)/lib/heddle
	@tools/deps/packages.sh cmake
	cmake -S . -B $(BUILD)/interposer -DCMAKE_BUILD_TYPE=Release -DHEDDLE_CUDA_INCLUDE=$(CUDA)/include >$(BUILD)/interposer/configure.log || { cat $(BUILD)/interposer/configure.log; exit 1; }
	cmake --build $(BUILD)/interposer --parallel $$(nproc)
	install $(BUILD)/interposer/libheddle.so $(BUILD)/lib/heddle/libheddle.so # a new file: programs that have the old one mapped keep it

simgpu: deps
	tools/simgpu/build.sh $(BUILD)/simgpu

generate: deps ## rewrite every generated file
	go generate ./...

demo: build demo-programs ## several unmodified clients through Heddle, checked against native runs
	$(BUILD)/bin/heddle demo

# Six of the tests' client programs, which know nothing of Heddle.
demo-programs: simgpu
	@mkdir -p $(BUILD)/demo/bin $(BUILD)/demo/kernels
	for p in vector reduction matmul stencil histogram misbehave; do gcc -O2 -std=gnu11 -isystem $(CUDA)/include tools/e2e/clients/$$p.c -o $(BUILD)/demo/bin/$$p -L $(BUILD)/simgpu/lib -lcuda -lpthread; done
	cp tools/e2e/kernels/*.ptx $(BUILD)/demo/kernels/

test: tools-deps build ## everything CI runs
	@tools/deps/numba.sh
	tools/test/run.sh

lint: deps ## formatting, vet, ruff, import boundaries, file rules
	tools/test/lint.sh

nightly: tools-deps build ## the long versions: fuzzing, thousands of kills
	@tools/deps/numba.sh
	HEDDLE_NIGHTLY=1 tools/test/run.sh

bench: build ## benchmarks; figures, never a pass or fail
	go test -run '^$$' -bench . -benchtime 1s ./...

gpu-test: dist ## on a machine with an NVIDIA GPU: docs/results.md's tables
	HEDDLE_DIST=$(CURDIR)/dist tools/gputest/gpu-test.sh $(PARTS)

gpu-carry: dist ## what a machine with a GPU but without Go needs beside the checkout: dist/ and build/corpus/
	rm -rf $(BUILD)/corpus
	go run ./jit/conformance/export $(BUILD)/corpus

dist: deps ## a folder that runs on any x86-64 Linux with glibc 2.31+ and an NVIDIA driver
	@tools/deps/fetch.sh zig
	tools/dist/build.sh $(CURDIR)/dist '$(VERSION)'

clean:
	rm -rf $(BUILD) dist
