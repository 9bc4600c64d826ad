// Kernels with device globals, constants and asserts: see kernels.cu.
#include <assert.h>

// A device global that kernels write and the host reads.
__device__ unsigned counter;
__constant__ unsigned scale[4];
extern "C" __global__ void count(unsigned by) {
  if (threadIdx.x == 0) atomicAdd(&counter, by);
}
extern "C" __global__ void scaled(unsigned *p, unsigned n) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) p[i] = p[i] * scale[i & 3] + 1;
}

extern "C" __global__ void asserts(const unsigned *p, unsigned limit) { assert(p[threadIdx.x] < limit); }
