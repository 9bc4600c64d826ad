// Matrix products in a chain on a stream of its own, operands from pinned memory.
#include "client.h"

int main(void) {
  open_device();
  CUfunction matmul = function("matmul");
  int m = 48, n = 48, k = 48;
  size_t bytes = (size_t)m * n * 4;
  float *host;
  CK(cuMemAllocHost((void **)&host, bytes));
  uint64_t s = seed();
  for (int i = 0; i < m * n; i++) host[i] = (float)(random_next(&s) % 2048) / 2048.0f - 0.5f;
  CUdeviceptr x, y, z;
  CK(cuMemAlloc(&x, bytes)); CK(cuMemAlloc(&y, bytes)); CK(cuMemAlloc(&z, bytes));
  CUstream stream;
  CK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CK(cuMemcpyHtoDAsync(x, host, bytes, stream));
  CK(cuMemcpyHtoDAsync(y, host, bytes, stream));
  for (unsigned i = 0; i < rounds(12); i++) {
    void *args[] = {&z, &x, &y, &m, &n, &k};
    CK(cuLaunchKernel(matmul, 3, 3, 1, 16, 16, 1, 0, stream, args, NULL));
    CK(cuMemcpyDtoDAsync(i & 1 ? x : y, z, bytes, stream));
    if (i % 4 == 3) { // rescale, or the numbers run away
      CK(cuMemcpyHtoDAsync(y, host, bytes, stream));
    }
  }
  CK(cuMemcpyDtoHAsync(host, z, bytes, stream));
  CK(cuStreamSynchronize(stream));
  digest(host, bytes);
  CK(cuStreamDestroy(stream));
  CK(cuMemFreeHost(host));
  return finish("matmul");
}
