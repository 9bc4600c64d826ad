#!/usr/bin/env bash
# Runs every fuzz target of the repository for a time. usage: tools/test/fuzz.sh 5s
#
# Before Go 1.27 `go test -fuzz` reports "context deadline exceeded" as a failure
# when a worker is still busy as the time ends (go.dev/issue/75804). That, without
# a failing input or a panic, is the end of the time and nothing else; the line
# printed says that it was met. Everything else that is not a pass fails.
set -euo pipefail
cd "$(dirname "$0")/../.."
each=${1:?usage: tools/test/fuzz.sh DURATION, for instance 5s}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
log=$scratch/log
module=$(go list -m)
corpus=$(go env GOCACHE)/fuzz # where `go test -fuzz` keeps what it found

only_out_of_time() { # LOG TARGET: is the end of the time the only complaint?
  # The report is three lines: "--- FAIL: FuzzX (5.14s)", the reason, "FAIL".
  [ "$(grep -c -- '--- FAIL:' "$1")" = 1 ] &&
    grep -A1 -- "^--- FAIL: $2 (" "$1" | tail -1 | grep -qx '    context deadline exceeded' &&
    grep -A2 -- "^--- FAIL: $2 (" "$1" | tail -1 | grep -qx 'FAIL' &&
    ! grep -qE 'Failing input|^panic:|^fatal error:|DATA RACE' "$1"
}

targets=$(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' jit shm controlplane tools interposer | sed -E 's,/[^/]+:func ,:,')
[ -n "$targets" ] || { echo "tools/test/fuzz.sh: no fuzz target found" >&2; exit 1; }

# One program a package, built on all cores: `go test -fuzz` builds one a target, on one core.
cut -d: -f1 <<<"$targets" | sort -u | xargs -P "$(nproc)" -I{} sh -c 'go test -c -fuzz . -o "$0/$(echo {} | tr / -).test" ./{}' "$scratch"

found=0
while IFS=: read -r package target; do
  found=$((found + 1))
  echo "$package: $target"
  if ! (cd "$package" && "$scratch/${package//\//-}.test" -test.paniconexit0 -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$each" \
    -test.fuzzcachedir "$corpus/$module/$package") 2>&1 | tee "$log"; then
    only_out_of_time "$log" "$target" || exit 1
    echo "$target: the time ended while an input was running, no failing input (go.dev/issue/75804)"
  fi
done <<<"$targets"
echo "$found fuzz targets ran for $each each"
