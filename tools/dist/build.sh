#!/usr/bin/env bash
# Builds a folder that runs on any x86-64 Linux with glibc 2.31 or later and an
# NVIDIA driver: bin/heddle, lib/heddle/libheddle.so, the documents. The ziglang
# wheel's compiler links against the old glibc. usage: tools/dist/build.sh OUT VERSION
set -euo pipefail
out=${1:?usage: tools/dist/build.sh OUT VERSION}
version=${2:-unknown}
cd "$(dirname "$0")/../.."
root=$PWD
zig=$root/.deps/zig/ziglang/zig
cuda=$root/.deps/cuda/nvidia/cu13/include

work=$root/build/dist; mkdir -p "$work" "$out/bin" "$out/lib/heddle" "$out/include"
export HEDDLE_ZIG=$zig
cc=$root/tools/dist/cc.sh
export ZIG_GLOBAL_CACHE_DIR=$work/zig-cache ZIG_LOCAL_CACHE_DIR=$work/zig-cache

GOEXPERIMENT=norandomizedheapbase64 CGO_ENABLED=1 CC=$cc CGO_CFLAGS="-O2 -Wno-deprecated-declarations" \
  go build -trimpath -ldflags "-s -w -X github.com/heddle-gpu/heddle/tools/heddle/cli.Version=$version" -o "$out/bin/heddle" ./tools/heddle

cmake -S . -B "$work/interposer" -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER="$cc" -DHEDDLE_CUDA_INCLUDE="$cuda" >"$work/configure.log" || { cat "$work/configure.log"; exit 1; }
cmake --build "$work/interposer" >"$work/build.log" || { cat "$work/build.log"; exit 1; }
cp "$work/interposer/libheddle.so" "$out/lib/heddle/libheddle.so"
cp interposer/include/heddle.h "$out/include/"
cp README.md LICENSE SECURITY.md "$out/"
tools/dist/check.sh "$out" 2.31
