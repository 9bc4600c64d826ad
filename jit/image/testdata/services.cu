#include <cstdio>
#include <cassert>
extern "C" {
__device__ int counter = 5;
__device__ int zeroed[64];
__constant__ float table[16];
__global__ void plain(float*a){ a[threadIdx.x]+=1; }
__global__ void prints(int*a){ printf("x %d\n", a[0]); }
__global__ void asserts(int*a){ assert(a[0]==1); }
__global__ void mallocs(int**a){ a[0]=(int*)malloc(16); }
__global__ void frees(int**a){ free(a[0]); }
__global__ void counts(int*a){ a[0]=atomicAdd(&counter,1)+zeroed[threadIdx.x]; }
__global__ void consts(float*a){ a[0]=table[threadIdx.x]; }
__global__ void tex(cudaTextureObject_t t,float*a){ a[0]=tex2D<float>(t,1.f,2.f); }
__global__ void texf(cudaTextureObject_t t,float*a){ a[0]=tex1Dfetch<float>(t,threadIdx.x); }
__global__ void surf(cudaSurfaceObject_t t,float*a){ surf2Dwrite(a[0],t,4,4); }
__global__ void surfr(cudaSurfaceObject_t t,float*a){ a[0]=surf2Dread<float>(t,4,4); }
__device__ __noinline__ void helper(int*a){ printf("deep %d\n", a[0]); }
__global__ void deep(int*a){ helper(a); }
__global__ void sm(float*a){ __shared__ float s[64]; s[threadIdx.x]=a[threadIdx.x]; __syncthreads(); a[threadIdx.x]=s[63-threadIdx.x]; }
}
