#!/usr/bin/env bash
# Fetches what the build needs and never commits: CUDA headers and the PTX
# assembler (PyPI wheels, pinned) into .deps/cuda, and on request NVTX's headers,
# for tests, ruff, for lint, and the zig compiler that `make dist` uses to link
# against an old glibc.
#
# usage: tools/deps/fetch.sh cuda|nvtx|ruff|zig …
set -euo pipefail
cd "$(dirname "$0")/../.."
deps=$PWD/.deps

# fetch STAMP WHEEL… unpacks wheels into .deps/STAMP once; the stamp records what was unpacked.
fetch() {
  local dir=$deps/$1; shift
  local want="$*"
  [ -f "$dir/.stamp" ] && [ "$(cat "$dir/.stamp")" = "$want" ] && return 0
  local tmp; tmp=$(mktemp -d "${TMPDIR:-/tmp}/heddle-deps.XXXXXX")
  trap 'rm -rf "$tmp"' RETURN
  echo "fetching $want" >&2
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: -d "$tmp/wheels" "$@"
  rm -rf "$dir"; mkdir -p "$dir"
  local w; for w in "$tmp"/wheels/*.whl; do python3 -m zipfile -e "$w" "$dir"; done
  # zipfile does not keep modes: programs must be executable.
  find "$dir" -type f \( -path '*/bin/*' -o -path '*/scripts/*' -o -name zig -o -name cicc \) -exec chmod +x {} +
  printf '%s' "$want" >"$dir/.stamp"
}

for what in "$@"; do
  case $what in
    cuda) fetch cuda nvidia-cuda-runtime==13.0.96 nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 ;;
    nvtx) fetch nvtx nvidia-nvtx==13.0.85 ;;
    ruff) fetch ruff ruff==0.17.6 ;;
    zig) fetch zig ziglang==0.15.2 ;;
    *) echo "tools/deps/fetch.sh: unknown dependency '$what'; expected cuda, nvtx, ruff or zig" >&2; exit 2 ;;
  esac
done
