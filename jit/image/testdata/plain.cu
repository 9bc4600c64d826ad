#include <cassert>
// No state and no services: an instance may be shared. An assertion is allowed; its strings are literals.
extern "C" __global__ void plain(float *a) { a[threadIdx.x] += 1; }
extern "C" __global__ void asserts(int *a) { assert(a[0] == 1); }
