extern "C" __global__ void accumulate(unsigned *dst, const unsigned *src, unsigned n) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) dst[i] += src[i];
}
extern "C" __global__ void stray(unsigned *dst) { dst[threadIdx.x] = 1; }
extern "C" __global__ void sharing(unsigned *dst) { extern __shared__ unsigned s[]; s[threadIdx.x] = threadIdx.x; __syncthreads(); dst[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x]; }
