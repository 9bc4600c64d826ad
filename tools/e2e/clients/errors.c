// Errors: what the driver says to bad arguments, one line each. Heddle must say the same.
#include "client.h"

#define SAY(what, call) printf("%-34s %d\n", what, (int)(call))

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
  return finish("errors");
}
