// The kernels of the client programs in ../clients. kernels.ptx is built from
// this file by regenerate.sh and checked in, so that tests need no nvcc.
extern "C" __global__ void fill(unsigned *p, unsigned n, unsigned seed) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned x = i * 2654435761u + seed;
  x ^= x >> 16; x *= 0x7feb352du; x ^= x >> 15; x *= 0x846ca68bu; x ^= x >> 16;
  p[i] = x;
}

// Not associative and not commutative: any reordering of two steps shows in the result.
extern "C" __global__ void step(unsigned *p, unsigned n, unsigned k) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) p[i] = (p[i] ^ (k * 0x9e3779b9u)) * 5u + k + (p[i] >> 7);
}

extern "C" __global__ void combine(unsigned *out, const unsigned *a, const unsigned *b, unsigned n) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = a[i] * 31u + (b[i] ^ (a[i] >> 3)) + out[i];
}

extern "C" __global__ void vecadd(float *out, const float *a, const float *b, unsigned n) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = a[i] + b[i];
}

// Unit floats out of the bits that fill made.
extern "C" __global__ void tofloat(float *out, const unsigned *in, unsigned n) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = (float)(in[i] >> 8) * (1.0f / 16777216.0f) - 0.5f;
}

extern "C" __global__ void reduce(float *out, const float *in, unsigned n) {
  __shared__ float s[256];
  float v = 0;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += in[i];
  s[threadIdx.x] = v;
  __syncthreads();
  for (unsigned w = blockDim.x / 2; w > 0; w >>= 1) {
    if (threadIdx.x < w) s[threadIdx.x] += s[threadIdx.x + w];
    __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = s[0];
}

// C[m×n] = A[m×k] · B[k×n], tiles of 16.
extern "C" __global__ void matmul(float *C, const float *A, const float *B, int m, int n, int k) {
  __shared__ float a[16][16], b[16][16];
  int r = blockIdx.y * 16 + threadIdx.y, c = blockIdx.x * 16 + threadIdx.x;
  float acc = 0;
  for (int t = 0; t < k; t += 16) {
    a[threadIdx.y][threadIdx.x] = r < m && t + (int)threadIdx.x < k ? A[r * k + t + threadIdx.x] : 0;
    b[threadIdx.y][threadIdx.x] = c < n && t + (int)threadIdx.y < k ? B[(t + threadIdx.y) * n + c] : 0;
    __syncthreads();
    for (int i = 0; i < 16; i++) acc = fmaf(a[threadIdx.y][i], b[i][threadIdx.x], acc);
    __syncthreads();
  }
  if (r < m && c < n) C[r * n + c] = acc;
}

extern "C" __global__ void stencil(float *out, const float *in, int w, int h) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= w || y >= h) return;
  float l = in[y * w + (x ? x - 1 : x)], r = in[y * w + (x + 1 < w ? x + 1 : x)];
  float u = in[(y ? y - 1 : y) * w + x], d = in[(y + 1 < h ? y + 1 : y) * w + x];
  out[y * w + x] = 0.5f * in[y * w + x] + 0.125f * (l + r + u + d);
}

extern "C" __global__ void histogram(unsigned *bins, const unsigned *in, unsigned n) {
  __shared__ unsigned local[256];
  local[threadIdx.x] = 0;
  __syncthreads();
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[in[i] & 255], 1);
  __syncthreads();
  atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
}

extern "C" __global__ void dynshared(unsigned *out, unsigned words) {
  extern __shared__ unsigned buf[];
  for (unsigned i = threadIdx.x; i < words; i += blockDim.x) buf[i] = i * 7u + blockIdx.x;
  __syncthreads();
  unsigned v = 0;
  for (unsigned i = threadIdx.x; i < words; i += blockDim.x) v = v * 3u + buf[words - 1 - i];
  out[blockIdx.x * blockDim.x + threadIdx.x] = v;
}

struct Big { unsigned v[960]; };
extern "C" __global__ void bigparam(unsigned *out, struct Big b) {
  if (threadIdx.x < 960) out[threadIdx.x] = b.v[959 - threadIdx.x] + threadIdx.x;
}

// Runs long without touching memory; the loop's end depends on a parameter.
extern "C" __global__ void spin(unsigned *out, unsigned rounds) {
  unsigned x = threadIdx.x + 1;
  for (unsigned i = 0; i < rounds; i++) x = x * 1664525u + 1013904223u;
  out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

extern "C" __global__ void forever(volatile unsigned *flag) { while (*flag != 0xdeadbeefu) {} }

extern "C" __global__ void wild(unsigned long long address) { *(volatile unsigned *)address = 1; }
