// Errors: what the driver says to bad arguments, one line each. Heddle must say the same.
#include "client.h"

#define SAY(what, call) printf("%-34s %d\n", what, (int)(call))

// Copies and memsets to memory that was freed: a block among others, and one with memory of its own.
static void freed_memory(void) {
  static unsigned char host[4096];
  CUdeviceptr small[3], large, p[2], q;
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  for (int i = 0; i < 3; i++) CK(cuMemAlloc(&small[i], 4096));
  CK(cuMemAlloc(&large, 64 << 20));
  CK(cuMemAlloc(&q, 4096));
  CK(cuMemsetD8(small[1], 1, 4096)); // good, and known to be
  CK(cuMemsetD8(large, 1, 4096));
  CK(cuMemFree(small[1]));
  CK(cuMemFree(large));
  p[0] = small[1], p[1] = large;
  for (int i = 0; i < 2; i++) {
    CUDA_MEMCPY2D c = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = p[i], .srcPitch = 64, .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                       .dstDevice = q, .dstPitch = 64, .WidthInBytes = 32, .Height = 4};
    CUDA_MEMCPY3D d = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = q, .srcPitch = 64, .srcHeight = 4, .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                       .dstDevice = p[i], .dstPitch = 64, .dstHeight = 4, .WidthInBytes = 32, .Height = 4, .Depth = 2};
    printf("freed, %s\n", i ? "large" : "small");
    SAY("copy to it", cuMemcpyHtoD(p[i], host, 16));
    SAY("copy to it, 4 KiB", cuMemcpyHtoD(p[i], host, 4096));
    SAY("copy from it", cuMemcpyDtoH(host, p[i], 16));
    SAY("copy to it in a stream", cuMemcpyHtoDAsync(p[i] + 64, host, 16, s));
    SAY("copy from it in a stream", cuMemcpyDtoHAsync(host, p[i], 16, s));
    SAY("device copy to it", cuMemcpyDtoD(p[i], q, 16));
    SAY("device copy from it in a stream", cuMemcpyDtoDAsync(q, p[i], 16, s));
    SAY("box from it", cuMemcpy2D(&c));
    SAY("box from it in a stream", cuMemcpy2DAsync(&c, s));
    SAY("cube to it", cuMemcpy3D(&d));
    SAY("memset", cuMemsetD8(p[i], 1, 16));
    SAY("memset in a stream", cuMemsetD32Async(p[i] + 128, 1, 16, s));
    SAY("memset of rows", cuMemsetD2D8(p[i], 64, 1, 32, 4));
    SAY("synchronize", cuCtxSynchronize());
  }
  SAY("the neighbour before", cuMemsetD8(small[0], 1, 4096));
  SAY("the neighbour behind", cuMemcpyHtoD(small[2], host, 4096));
  SAY("allocated again", cuMemAlloc(&p[0], 4096));
  SAY("memset of it", cuMemsetD8(p[0], 1, 4096));
  SAY("allocated again, large", cuMemAlloc(&large, 64 << 20));
  SAY("memset of that", cuMemsetD8(large + (32 << 20), 1, 32 << 20));
  // Stream-ordered memory is good from the call that makes it.
  SAY("stream-ordered", cuMemAllocAsync(&p[1], 1 << 20, s));
  SAY("memset of that in its stream", cuMemsetD8Async(p[1], 1, 1 << 20, s));
  SAY("free in its stream", cuMemFreeAsync(p[1], s));
  SAY("synchronize", cuStreamSynchronize(s));
}

int main(void) {
  CUcontext none;
  SAY("current context before init", cuCtxGetCurrent(&none));
  open_device();
  CUfunction fill = function("fill");
  CUdeviceptr p, q;
  CK(cuMemAlloc(&p, 4096));
  unsigned n = 16, x = 1;
  void *args[] = {&p, &n, &x};
  SAY("grid of 0", cuLaunchKernel(fill, 0, 1, 1, 32, 1, 1, 0, 0, args, NULL));
  SAY("block of 0", cuLaunchKernel(fill, 1, 1, 1, 0, 1, 1, 0, 0, args, NULL));
  SAY("block of 2048", cuLaunchKernel(fill, 1, 1, 1, 2048, 1, 1, 0, 0, args, NULL));
  SAY("block of 32x64", cuLaunchKernel(fill, 1, 1, 1, 32, 64, 1, 0, 0, args, NULL));
  SAY("block depth of 128", cuLaunchKernel(fill, 1, 1, 1, 1, 1, 128, 0, 0, args, NULL));
  SAY("grid height of 70000", cuLaunchKernel(fill, 1, 70000, 1, 32, 1, 1, 0, 0, args, NULL));
  SAY("shared memory of 1 MiB", cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 1 << 20, 0, args, NULL));
  SAY("shared memory of 64 KiB unasked", cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 64 << 10, 0, args, NULL));
  SAY("allocation of 0", cuMemAlloc(&q, 0));
  SAY("allocation of 1 PiB", cuMemAlloc(&q, 1ull << 50));
  SAY("free of 0", cuMemFree(0));
  SAY("free inside a block", cuMemFree(p + 8));
  SAY("free of nonsense", cuMemFree(0x1234));
  SAY("memset of 0", cuMemsetD8(p, 0, 0));
  SAY("copy of 0", cuMemcpyHtoD(p, args, 0));
  SAY("range of nonsense", cuMemGetAddressRange(&q, NULL, 0x1234));
  CUstream s;
  SAY("stream flags of 99", cuStreamCreate(&s, 99));
  CUevent a, b;
  float ms;
  CK(cuEventCreate(&a, 0));
  CK(cuEventCreate(&b, CU_EVENT_DISABLE_TIMING));
  SAY("elapsed, never recorded", cuEventElapsedTime(&ms, a, a));
  CK(cuEventRecord(a, 0));
  CK(cuEventRecord(b, 0));
  CK(cuEventSynchronize(b));
  SAY("elapsed without timing", cuEventElapsedTime(&ms, a, b));
  CUmodule m;
  SAY("module of nonsense", cuModuleLoadData(&m, "this is no code"));
  SAY("good launch", cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 0, 0, args, NULL));
  SAY("synchronize", cuCtxSynchronize());
  SAY("double free, first", cuMemFree(p));
  freed_memory();
  return finish("errors");
}
