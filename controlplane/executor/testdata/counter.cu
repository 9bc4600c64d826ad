__device__ unsigned counter = 40;
extern "C" __global__ void count(unsigned *dst) { dst[0] = atomicAdd(&counter, 1); }
