// A stencil that ping-pongs between two buffers, with pitched memory and 2D copies.
#include "client.h"

int main(void) {
  open_device();
  CUfunction stencil = function("stencil");
  int w = 100, h = 60;
  float *host = malloc((size_t)w * h * 4);
  uint64_t s = seed();
  for (int i = 0; i < w * h; i++) host[i] = (float)(random_next(&s) % 1000);
  CUdeviceptr a, b, pitched;
  size_t pitch;
  CK(cuMemAlloc(&a, (size_t)w * h * 4)); CK(cuMemAlloc(&b, (size_t)w * h * 4));
  CK(cuMemAllocPitch(&pitched, &pitch, (size_t)w * 4, (size_t)h, 4));
  CK(cuMemsetD2D8(pitched, pitch, 0x5a, (size_t)w * 4, (size_t)h));
  CUDA_MEMCPY2D in = {.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = host, .srcPitch = (size_t)w * 4, .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = pitched, .dstPitch = pitch, .WidthInBytes = (size_t)w * 4, .Height = (size_t)h};
  CK(cuMemcpy2D(&in));
  CUDA_MEMCPY2D flat = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = pitched, .srcPitch = pitch, .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = a, .dstPitch = (size_t)w * 4, .WidthInBytes = (size_t)w * 4, .Height = (size_t)h};
  CK(cuMemcpy2DAsync(&flat, 0));
  for (unsigned i = 0; i < rounds(30); i++) {
    void *args[] = {i & 1 ? &a : &b, i & 1 ? &b : &a, &w, &h};
    CK(cuLaunchKernel(stencil, 7, 4, 1, 16, 16, 1, 0, CU_STREAM_LEGACY, args, NULL));
  }
  CK(cuCtxSynchronize());
  digest_device(a, (size_t)w * h * 4);
  digest_device(b, (size_t)w * h * 4);
  CK(cuMemFree(pitched));
  return finish("stencil");
}
