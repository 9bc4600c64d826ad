#!/usr/bin/env bash
# Runs every fuzz target of the repository for a time. usage: tools/test/fuzz.sh 5s
set -euo pipefail
cd "$(dirname "$0")/../.."
each=${1:?usage: tools/test/fuzz.sh DURATION, for instance 5s}

found=0
while IFS=: read -r file target; do
  found=$((found + 1))
  go test -run '^$' -fuzz "^$target\$" -fuzztime "$each" "./$(dirname "$file")"
done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' jit shm controlplane tools interposer | sed -E 's/:func /:/')
[ "$found" -gt 0 ] || { echo "tools/test/fuzz.sh: no fuzz target found" >&2; exit 1; }
echo "$found fuzz targets ran for $each each"
