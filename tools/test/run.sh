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

step "race detector: what has threads"
# A process with the race detector sleeps a second at its end, for races of what runs beside main's return; the tests start hundreds.
[ -n "${HEDDLE_NIGHTLY:-}" ] || export GORACE="atexit_sleep_ms=50 ${GORACE:-}"
# Two cores: packages one after the other, so that tests of timeouts are not
# starved by somebody else's compiler.
# Not those that start no goroutine and share no memory: the detector makes their long random programs ten times as long.
single='/(simulate|perfetto|reasons)$|/executor/(sched|request|cost|sequence|straggle)$'
raced=$(go list ./shm/... ./controlplane/... | grep -vE "$single")
# Compiled at once on all cores: `go test -p 1` would do it one package after the other.
# shellcheck disable=SC2086 # a list
go list -race -export -test -deps $raced >/dev/null
# shellcheck disable=SC2086
go test -race -count=1 -p 1 -timeout 10m $raced

if [ -n "${HEDDLE_NIGHTLY:-}" ]; then
  step "fuzzing, 10 minutes a target"
  tools/test/fuzz.sh 10m
else
  step "fuzzing, seconds a target"
  tools/test/fuzz.sh 3s
fi

step "everything that has not run yet: Go, C with sanitizers, layout, PTX conformance, software GPU"
# Packages side by side: where these bound a time, it is ten times what they need. Whole systems, with daemons and kills, come after
# them, alone.
e2e=$(go list ./tools/e2e)
go list ./... | grep -vxF "$raced" | grep -vx "$e2e" | xargs go test -count=1 -timeout 20m
go test -count=1 -timeout 20m "$e2e"
