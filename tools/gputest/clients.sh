#!/usr/bin/env bash
# Runs the client programs of tools/e2e on a real GPU, natively and under Heddle,
# and compares what they print. usage: HEDDLE_DIST=DIR tools/gputest/clients.sh [PROGRAM…]
set -u
here=$(cd "$(dirname "$0")/../e2e" && pwd)
: "${HEDDLE_DIST:?the folder that make dist made}"
work=$(mktemp -d /tmp/heddle-clients.XXXXXX)
export HEDDLE_RUNTIME_DIR=$work/run E2E_KERNELS=$here/kernels
mkdir -m 700 "$work/run"
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc); cuda=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
programs=${*:-vector reduction matmul stencil histogram streams threads allocators modules globals hostmem callbacks forks errors mapping pools queries libraries contexts full crowd hybrid graphs nodes flood sharing misbehave}
bad=0
for p in $programs; do
  gcc -O1 -g -std=gnu11 -I"$cuda/include" "$here/clients/$p.c" -o "$work/$p" -l:libcuda.so.1 -L"$cuda/lib64/stubs" -lpthread 2>"$work/$p.build" ||
    gcc -O1 -g -std=gnu11 -I"$cuda/include" "$here/clients/$p.c" -o "$work/$p" -L"$cuda/lib64/stubs" -lcuda -lpthread || { bad=$((bad + 1)); continue; }
done
for p in $programs; do
  timeout 60 "$work/$p" >"$work/$p.native" 2>"$work/$p.native.err"; nrc=$?
  timeout 60 "$HEDDLE_DIST/bin/heddle" run --require -- env HEDDLE_LOG=stats "$work/$p" >"$work/$p.heddle" 2>"$work/$p.heddle.err"; hrc=$?
  if [ $nrc = $hrc ] && cmp -s "$work/$p.native" "$work/$p.heddle"; then
    printf '%-12s same (exit %s)\n' "$p" "$nrc"
  else
    bad=$((bad + 1))
    printf '%-12s DIFFERENT: native exit %s, heddle exit %s\n' "$p" "$nrc" "$hrc"
    diff "$work/$p.native" "$work/$p.heddle" | head -${LINES_OF_DIFF:-12}
    head -c 700 "$work/$p.heddle.err"
  fi
done
"$HEDDLE_DIST/bin/heddle" ps 2>&1 | cut -c1-200
"$HEDDLE_DIST/bin/heddle" stop
[ -n "${OUT:-}" ] && cp "$work/run/daemon.log" "$OUT/clients-daemon.log"
tail -c "${LOG_BYTES:-2500}" "$work/run/daemon.log"
echo "clients: $bad different"
exit $((bad > 0))
