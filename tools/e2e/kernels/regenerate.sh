#!/usr/bin/env bash
# Rebuilds the .ptx files from the .cu files with the pinned nvcc (tools/deps/fetch.sh cuda).
set -euo pipefail
cd "$(dirname "$0")"
cuda=$PWD/../../../.deps/cuda/nvidia/cu13
for f in kernels globals alike alike_own; do "$cuda/bin/nvcc" -ptx -arch=compute_75 -I "$cuda/include" $f.cu -o $f.ptx; done
