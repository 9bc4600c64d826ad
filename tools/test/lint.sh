#!/usr/bin/env bash
# Formatting, vet and the repository's own rules. Quick: part of `make test`.
set -euo pipefail
cd "$(dirname "$0")/../.."

unformatted=$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l)
if [ -n "$unformatted" ]; then
  echo "gofmt would change: $unformatted" >&2
  echo "next: gofmt -w $unformatted" >&2
  exit 1
fi
tools/deps/fetch.sh ruff
ruff=(.deps/ruff/ruff-*.data/scripts/ruff)
"${ruff[0]}" check --no-cache --quiet || { echo "next: ${ruff[0]} check --fix, or mend by hand" >&2; exit 1; }
"${ruff[0]}" format --check --no-cache --quiet || { echo "next: ${ruff[0]} format" >&2; exit 1; }
go vet ./...
go tool staticcheck ./...
go mod verify >/dev/null
go test -count=1 ./tools/rules
