// Kernels of the small driver-API programs; compiled to one cubin (tools/gputest/gpu-test.sh).
extern "C" {
__global__ void empty() {}
__global__ void add(float *p, float v, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) p[i] += v;
}
// Adds one, and keeps each of its blocks on its SM for ns.
__global__ void __launch_bounds__(1024) linger(float *p, int ns) {
  p[blockIdx.x * blockDim.x + threadIdx.x] += 1;
  unsigned long long a, b;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(a));
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(b));
  while (b - a < ns);
}
__global__ void store(int *p, int v) { *p = v; }  // faults when p is bad
__global__ void misaligned(char *p) { *(volatile int *)(p + 1) = 1; }
__global__ void trap() { asm volatile("trap;"); }
__global__ void endless(volatile int *stop) {
  while (!*stop) {}
}
__global__ void __launch_bounds__(128) bounded(float *p) { p[threadIdx.x] = 1; }  // more than 128 threads is refused
__global__ void shared_dyn(float *p) {
  extern __shared__ float s[];
  s[threadIdx.x] = p[threadIdx.x];
  __syncthreads();
  p[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
__global__ void device_assert(int *p) {
  if (*p != 12345) { asm volatile("trap;"); }
}
__device__ int counter = 5;
__constant__ int scale[4] = {1, 2, 3, 4};
__global__ void bump(int *out) { *out = atomicAdd(&counter, 1) * scale[1]; }
}
