// Small kernels that many processes launch alike (../clients/alike.c): what can be coalesced, one kind of code each. They read
// every register that says where a block is, so that an instance which takes itself for another shows.

extern "C" __global__ void alike_add(float *out, const float *a, const float *b, unsigned n) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = a[i] + b[i];
}

// One block a row: shared memory and barriers.
extern "C" __global__ void alike_softmax(float *out, const float *in, unsigned n) {
  __shared__ float s[64];
  const float *row = in + blockIdx.x * n;
  float most = -1e30f, sum = 0;
  for (unsigned i = threadIdx.x; i < n; i += 64) most = fmaxf(most, row[i]);
  s[threadIdx.x] = most;
  __syncthreads();
  for (unsigned w = 32; w > 0; w >>= 1) {
    if (threadIdx.x < w) s[threadIdx.x] = fmaxf(s[threadIdx.x], s[threadIdx.x + w]);
    __syncthreads();
  }
  most = s[0];
  __syncthreads();
  for (unsigned i = threadIdx.x; i < n; i += 64) sum += __expf(row[i] - most);
  s[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned w = 32; w > 0; w >>= 1) {
    if (threadIdx.x < w) s[threadIdx.x] += s[threadIdx.x + w];
    __syncthreads();
  }
  sum = s[0];
  for (unsigned i = threadIdx.x; i < n; i += 64) out[blockIdx.x * n + i] = __expf(row[i] - most) / sum;
}

// Atomics in shared and in global memory.
extern "C" __global__ void alike_tally(unsigned *bins, const unsigned *in, unsigned n) {
  __shared__ unsigned local[64];
  local[threadIdx.x] = 0;
  __syncthreads();
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[in[i] & 63], 1);
  __syncthreads();
  atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
  if (threadIdx.x == 0) atomicMax(&bins[64], gridDim.x * 1000 + blockIdx.x);
}

// Whole blocks leave, then half of the threads of the others, in the middle of a warp.
extern "C" __global__ void alike_leave(unsigned *p, unsigned n, unsigned k) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (blockIdx.x % 3 == k % 3) return;
  if (i < n) p[i] = p[i] * 5u + k;
  if ((threadIdx.x ^ k) & 1) return;
  if (i < n) p[i] ^= p[i] >> 9 ^ gridDim.x;
}

// A transposition in two dimensions, through shared memory.
extern "C" __global__ void alike_turn(unsigned *out, const unsigned *in, unsigned w, unsigned h) {
  __shared__ unsigned tile[8][9];
  unsigned x = blockIdx.x * 8 + threadIdx.x, y = blockIdx.y * 8 + threadIdx.y;
  if (x < w && y < h) tile[threadIdx.y][threadIdx.x] = in[y * w + x];
  __syncthreads();
  x = blockIdx.y * 8 + threadIdx.x, y = blockIdx.x * 8 + threadIdx.y;
  if (x < h && y < w) out[y * h + x] = tile[threadIdx.x][threadIdx.y] + gridDim.x * 3 + gridDim.y;
}

// Three dimensions: where the instance cannot be blockIdx.z.
extern "C" __global__ void alike_cube(unsigned *p, unsigned k) {
  unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  p[block * blockDim.x + threadIdx.x] += block * 7u + gridDim.z * 1000003u + k * (blockIdx.z + 1);
}

// As much shared memory as the launch says.
extern "C" __global__ void alike_dynamic(unsigned *out, unsigned words) {
  extern __shared__ unsigned buf[];
  for (unsigned i = threadIdx.x; i < words; i += blockDim.x) buf[i] = i * 7u + blockIdx.x;
  __syncthreads();
  unsigned v = out[blockIdx.x * blockDim.x + threadIdx.x];
  for (unsigned i = threadIdx.x; i < words; i += blockDim.x) v = v * 3u + buf[words - 1 - i];
  out[blockIdx.x * blockDim.x + threadIdx.x] = v;
}

// The last block to come sums what the others left: it counts the blocks of its own instance only.
extern "C" __global__ void alike_last(unsigned *out, unsigned *parts, unsigned *arrived, const unsigned *in, unsigned n) {
  __shared__ unsigned last;
  unsigned v = 0;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += in[i];
  atomicAdd(&parts[blockIdx.x], v);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicInc(arrived, gridDim.x - 1) == gridDim.x - 1;
  __syncthreads();
  if (!last || threadIdx.x) return;
  unsigned sum = *out;
  for (unsigned i = 0; i < gridDim.x; i++) {
    sum = sum * 31u + *(volatile unsigned *)&parts[i];
    parts[i] = 0;
  }
  *out = sum;
}
