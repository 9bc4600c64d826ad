#!/bin/sh
# Builds the simulated GPU: OUTDIR/lib/libcuda.so.1 (and libcuda.so) and
# OUTDIR/bin/simgpu. SIMGPU_SANITIZE=1 builds the library with ASan and UBSan.
# CUDA_INCLUDE names the folder of cuda.h (default: .deps, see tools/deps/fetch.sh).
set -eu
out=${1:?usage: tools/simgpu/build.sh OUTDIR}
root=$(cd "$(dirname "$0")/../.." && pwd)
include=${CUDA_INCLUDE:-$root/.deps/cuda/nvidia/cu13/include}
src=$root/tools/simgpu/libcuda
mkdir -p "$out/lib" "$out/bin" "$out/gen"
out=$(cd "$out" && pwd)
cd "$root"
touch "$out/.stamp.new" # as old as the sources read; simtest builds again when one is newer than the stamp
go run ./tools/simgpu/gen -include "$include" -src "$src" -out "$out/gen"
flags="-O2 -g"
if [ "${SIMGPU_SANITIZE:-0}" = 1 ]; then
    flags="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
fi
# -Bsymbolic: cuGetProcAddress answers with this library's own functions, as the real
# one does, even where a preloaded library exports the same names.
# shellcheck disable=SC2086
gcc -std=c11 -D_GNU_SOURCE $flags -fPIC -shared -pthread -fvisibility=hidden \
    -Wall -Wextra -Werror -Wmissing-prototypes -Wno-deprecated-declarations \
    -I "$src" -I "$out/gen" -isystem "$include" \
    -Wl,-soname,libcuda.so.1 -Wl,--version-script="$out/gen/libcuda.map" -Wl,-Bsymbolic -Wl,-z,defs -Wl,-z,nodelete \
    -o "$out/lib/libcuda.so.1" "$src"/*.c "$out/gen/entry_points.c"
ln -sf libcuda.so.1 "$out/lib/libcuda.so"
go build -o "$out/bin/simgpu" ./tools/simgpu/cmd/simgpu
mv "$out/.stamp.new" "$out/.stamp"
