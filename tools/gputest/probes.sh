#!/usr/bin/env bash
# Builds and runs the GPU probes of issue 2 (needs one NVIDIA GPU, nvcc, gcc, PyTorch). usage: probes.sh [PROBE…],
# for instance: probes.sh p01 p07. The whole output goes to $OUT/probes.txt where OUT is set; what is printed here is cut to fit.
# Takes under 6 minutes. p13, one and a half minutes of PyTorch, runs only when it is named.
set -u
here=$(cd "$(dirname "$0")" && pwd); src=$here/probes
work=$(mktemp -d /tmp/heddle-probes.XXXXXX); out=$work/out; mkdir -p "$out" "$work/bin"
want=${*:-p01 p02 p03 p04 p05 p06 p07 p08 p09 p10 p11 p12}
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc); arch=${PROBE_ARCH:-sm_90}
has() { [[ " $want " == *" $1"* ]]; }
cleanup() { [ -n "${mps:-}" ] && mps_stop; [ -n "${OUT:-}" ] && (cd "$out" && tail -n +1 -- *.txt) >>"$OUT/probes.txt"; [ -z "${KEEP:-}" ] && rm -rf "$work"; }
mps_stop() { echo quit | timeout 20 nvidia-cuda-mps-control >/dev/null 2>&1; mps=; unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY; }
mps_start() { export CUDA_MPS_PIPE_DIRECTORY=$work/mps CUDA_MPS_LOG_DIRECTORY=$work/mpslog; mkdir -p "$work/mps" "$work/mpslog"; timeout 20 nvidia-cuda-mps-control -d && mps=1; }
trap cleanup EXIT

pids=()
for f in "$src"/p*.cu; do n=$(basename "$f" .cu); has "${n%%_*}" || continue
  (timeout 150 "$nvcc" -O2 -std=c++17 -arch="$arch" "$f" -o "$work/bin/$n" -lcuda -lpthread >"$work/$n.build" 2>&1 || timeout 150 "$nvcc" -O2 -std=c++17 -arch="$arch" "$f" -o "$work/bin/$n" -Xlinker -l:libcuda.so.1 -lpthread >>"$work/$n.build" 2>&1 || { echo "BUILD FAILED $n"; head -c 600 "$work/$n.build"; }) & pids+=($!); done
(python3 "$src/big.py" >"$work/big.cu" && timeout 150 "$nvcc" -cubin -arch="$arch" "$work/big.cu" -o "$work/big.cubin" && timeout 100 "$nvcc" -cubin -arch="$arch" "$src/bump.cu" -o "$work/bump.cubin") >"$work/big.build" 2>&1 & pids+=($!)
inc=$(dirname "$(dirname "$(readlink -f "$nvcc")")"); [ -f "$inc/include/cuda.h" ] && inc=$inc/include || inc=$(dirname "$(find / -name cuda.h -path '*include*' -not -path '/proc/*' 2>/dev/null | head -1)")
(gcc -O2 -shared -fPIC -I"$inc" "$src/p08_count.c" -o "$work/count.so" -ldl -lpthread 2>&1 || echo "BUILD FAILED p08_count") & pids+=($!)
wait "${pids[@]}"

names=() rcs=() secs=()
one() { # one NAME TIMEOUT CUT COMMAND…
  local n=$1 t=$2 cut=$3; shift 3; local a; a=$(date +%s.%N)
  timeout -k 3 "$t" "$@" >"$out/$n.txt" 2>&1 </dev/null; local rc=$?
  names+=("$n"); rcs+=("$rc"); secs+=("$(echo "$(date +%s.%N) $a" | awk '{printf "%.1f", $1-$2}')")
  echo "== $n (rc $rc)"; head -c "$cut" "$out/$n.txt"; [ "$(stat -c %s "$out/$n.txt")" -gt "$cut" ] && echo "…cut"
}
has p01 && one p01 60 2000 "$work/bin/p01_copies"
has p02 && one p02 30 1700 "$work/bin/p02_null_stream"
has p03 && one p03 45 2300 "$work/bin/p03_windows"
has p05 && one p05 30 800 "$work/bin/p05_ready"
has p06 && { one p06-native 30 250 "$work/bin/p06_leftover" native; if mps_start; then one p06-mps 40 400 "$work/bin/p06_leftover" MPS; mps_stop; else echo "MPS did not start"; fi; }
has p09 && one p09 60 1500 "$work/bin/p09_calls"
has p11 && CUDA_DEVICE_MAX_CONNECTIONS=32 one p11 30 4000 "$work/bin/p11_small_copies"
has p12 && one p12 60 6000 "$work/bin/p12_green"
has p13 && PYTHONUNBUFFERED=1 one p13 200 6000 python3 "$src/p13_partition.py"
has p10 && one p10 30 2000 "$work/bin/p10_features" "$work/bump.cubin"
has p04 && { one p04 90 2600 "$work/bin/p04_stalls" "$work/big.cubin"; CUDA_MODULE_LOADING=EAGER one p04-eager 40 700 "$work/bin/p04_stalls" "$work/big.cubin" modules; }
has p07 && { one p07 75 2100 "$work/bin/p07_fault"; one p07-core 45 400 "$work/bin/p07_fault" coredump; dmesg 2>&1 | grep -iE 'xid|not permitted' | tail -2 | cut -c1-200 >"$out/xid.txt"; echo "Xid by dmesg: $(cat "$out/xid.txt")"; }
if has p08; then
  mkdir -p "$work/img"; : >"$work/img/kernels.txt"
  GP_DUMP=$work/img LD_PRELOAD=$work/count.so one p08 100 1800 env HF_HUB_OFFLINE=1 python3 "$src/p08_models.py" resnet50 bert gpt2
  one p08-images 70 1500 python3 "$src/p08_images.py" "$work/img" 45
  cat "$work/img/images.txt" >"$out/p08-image-list.txt" 2>/dev/null; cut -c1-120 "$work/img/kernels.txt" >"$out/p08-kernels.txt" 2>/dev/null
fi
echo "== table: probe, rc (124: timed out), seconds; $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)"
for i in "${!names[@]}"; do printf '%s %s %ss; ' "${names[$i]}" "${rcs[$i]}" "${secs[$i]}"; done; echo
