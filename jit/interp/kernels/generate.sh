#!/bin/sh
# Makes ptx/*.ptx from src/*.cu with the project's own nvcc (tools/deps/fetch.sh
# cuda). The results are checked in, because tests must run without nvcc.
# The target is the oldest that the kernels can be had for, sm_75 unless the
# source says "//@@ sm_NN": newer architectures take the same PTX.
# -fmad=false: contraction is the compiler's choice, and gcc, which compiles the
# same sources as the reference, must make the same ones. Kernels that want a
# fused operation say so.
set -eu
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
cuda=$root/.deps/cuda/nvidia/cu13
mkdir -p ptx
for f in src/*.cu; do
	name=$(basename "$f" .cu)
	# nvcc writes hashes of folders and times of files into what it makes: what the last commit has is left as it is, unless "all" is wanted.
	[ "${1:-}" != all ] && [ -f "ptx/$name.ptx" ] && git diff --quiet HEAD -- "$f" src/device.h generate.sh && continue
	arch=$(sed -n 's|^//@@ ||p' "$f")
	"$cuda/bin/nvcc" -ptx -arch="${arch:-sm_75}" -fmad=false -I "$cuda/include" "$f" -o "ptx/$name.ptx"
	# As written by a debug build: other code (memory instead of registers, no
	# inlining), and the debug sections themselves for the parser.
	case $name in
	block | calls | warp | atomics)
		"$cuda/bin/nvcc" -ptx -G -arch=sm_80 -fmad=false -I "$cuda/include" "$f" -o "ptx/${name}_debug.ptx"
		# The compiler's directory and file names are of no use to anyone.
		sed -i -e 's|"/[^"]*/\([^"/]*\)"|"\1"|' "ptx/${name}_debug.ptx"
		;;
	esac
done
