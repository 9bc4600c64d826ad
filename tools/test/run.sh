#!/usr/bin/env bash
# Everything CI runs, in the order in which a failure is cheapest to read. The
# last lines are the test runners' own. HEDDLE_NIGHTLY=1 runs the long versions.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CGO_CFLAGS="${CGO_CFLAGS:--O2 -g -Wno-deprecated-declarations}"
export HEDDLE_BUILD=$PWD/build

step() { printf '\n== %s\n' "$*"; }

step "lint: formatting, vet, import boundaries"
tools/test/lint.sh

# Two cores: packages one after the other, so that tests of timeouts are not
# starved by somebody else's compiler.
step "race detector: what has threads"
# Not those that start no goroutine and share no memory: the detector makes their long random programs ten times as long.
single='/(simulate|perfetto|reasons)$|/executor/(sched|request|cost|sequence|straggle)$'
raced=$(go list ./shm/... ./controlplane/... | grep -vE "$single")
# shellcheck disable=SC2086 # a list
go test -race -count=1 -p 1 -timeout 10m $raced

if [ -n "${HEDDLE_NIGHTLY:-}" ]; then
  step "fuzzing, 10 minutes a target"
  tools/test/fuzz.sh 10m
else
  step "fuzzing, seconds a target"
  tools/test/fuzz.sh 3s
fi

step "everything that has not run yet: Go, C with sanitizers, layout, PTX conformance, software GPU"
go list ./... | grep -vxF "$raced" | xargs go test -count=1 -p 1 -timeout 20m
