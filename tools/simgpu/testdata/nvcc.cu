// nvcc.cu: what a compiler makes of ordinary kernels: constants, shared memory, atomics, printf, assert.
#include <cassert>
#include <cstdio>

__device__ int counter;
__constant__ float scale[4] = {1, 2, 3, 4};

extern "C" __global__ void saxpy(float *y, const float *x, float a, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = a * x[i] + y[i] * scale[i & 3];
}

extern "C" __global__ void reduce(const float *x, float *out, int n)
{
    __shared__ float s[256];
    int t = threadIdx.x;
    float v = 0;
    for (int i = blockIdx.x * 256 + t; i < n; i += gridDim.x * 256)
        v += x[i];
    s[t] = v;
    __syncthreads();
    for (int k = 128; k > 0; k /= 2) {
        if (t < k)
            s[t] += s[t + k];
        __syncthreads();
    }
    if (t == 0)
        atomicAdd(out, s[0]);
}

extern "C" __global__ void check(int v)
{
    assert(v == 1);
    atomicAdd(&counter, v);
}

extern "C" __global__ void say(int v)
{
    printf("v=%d from %d %s %f\n", v, threadIdx.x, "str", 1.5);
}
