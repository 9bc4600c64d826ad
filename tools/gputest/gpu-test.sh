#!/usr/bin/env bash
# The tables of issues 2, 4, 5 and 6 on a machine with an NVIDIA GPU. usage: HEDDLE_DIST=DIR gpu-test.sh PART…
# Parts: selfcheck (needs no Heddle) smoke outputs forward alone eight rate latency gemm errors kills graphs idle, coalesce sweep
# compiled corpus, mix mixgraph mixwait states partition objectives straggler reload churn eyes, graph1 graphs8 eager8 many decode
# compiledgraph frameworks.
# Rows also go to $OUT/gpu-test.json, logs to $OUT/gpu-test.log. See README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ "${*}" = selfcheck ] || { : "${HEDDLE_DIST:?the folder that \`make dist\` made, with bin/heddle and lib/heddle/libheddle.so}"; HEDDLE_DIST=$(cd "$HEDDLE_DIST" && pwd); export HEDDLE_DIST; }
[ -z "${GT_KEEP:-}" ] || : "${OUT:?GT_KEEP writes to OUT: name a folder}"
export GT_WORK=${GT_WORK:-/tmp/heddle-gputest}; mkdir -p "$GT_WORK/run"; chmod 700 "$GT_WORK/run"; rm -rf "$GT_WORK/run"/*
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc); cuda=$(dirname "$(dirname "$(readlink -f "$nvcc")")"); python=${PYTHON:-python3}
arch=${GT_ARCH:-sm_$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)}
build() { # build TARGET SOURCE COMMAND… : only when the source is newer
  local t=$GT_WORK/$1 s=$here/programs/$2; shift 2
  [ "$t" -nt "$s" ] && [ "$t" -nt "$here/programs/program.h" ] && return 0
  "$@" "$s" -o "$t" $tail || { echo "gpu-test: cannot build $t" >&2; return 1; }
}
pids=()
tail="" ; build kernels.cubin kernels.cu "$nvcc" -cubin -arch="$arch" & pids+=($!)
tail="-lcublas" ; build gemm gemm.cu "$nvcc" -O2 -std=c++17 -arch="$arch" & pids+=($!)
tail="-ldl" ; build drop.so drop.c gcc -O2 -shared -fPIC -I"$cuda/include" & pids+=($!)
tail="-L$cuda/lib64/stubs -l:libcuda.so.1 -lpthread"; [ -e "$cuda/lib64/stubs/libcuda.so" ] && tail="-L$cuda/lib64/stubs -lcuda -lpthread"
build micro micro.c gcc -O2 -I"$cuda/include" & pids+=($!)
build loop loop.c gcc -O2 -I"$cuda/include" & pids+=($!)
build smoke smoke.c gcc -O2 -I"$cuda/include" & pids+=($!)
build errors errors.c gcc -O2 -I"$cuda/include" & pids+=($!)
build triton triton.c gcc -O2 -I"$cuda/include" & pids+=($!)
build coalesced coalesced.c gcc -O2 -I"$cuda/include" & pids+=($!)
for p in "${pids[@]}"; do wait "$p"; done
caches="inductor triton-cache cupy" # of harness.base_env: what the compilers of frameworks made. Not Heddle's own, whose filling is measured
if [ -n "${GT_KEPT:-}" ] && ls "$GT_KEPT"/kept.* >/dev/null 2>&1; then cat "$GT_KEPT"/kept.* | tar -xzf - -C "$GT_WORK"; fi
cd "$here"; export PYTHONDONTWRITEBYTECODE=1
status=0; "$python" parts.py "$@" || status=$?
if [ -n "${GT_KEEP:-}" ]; then # in pieces that come back from a lent machine
  cd "$GT_WORK"; for c in $caches; do mkdir -p "$c"; done
  # shellcheck disable=SC2086 # a list
  tar -czf - $caches | split -b 15M - "$OUT/kept."
  ls -l "$OUT"/kept.*
fi
exit "$status"
