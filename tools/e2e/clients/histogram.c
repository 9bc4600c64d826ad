// Histograms: atomics, memsets of every width, two streams joined by events.
#include "client.h"

int main(void) {
  open_device();
  CUfunction fill = function("fill"), histogram = function("histogram");
  unsigned n = 1 << 14;
  CUdeviceptr data[2], bins[2];
  CUstream stream[2];
  CUevent filled[2], counted[2];
  for (int i = 0; i < 2; i++) {
    CK(cuMemAlloc(&data[i], n * 4)); CK(cuMemAlloc(&bins[i], 256 * 4));
    CK(cuStreamCreate(&stream[i], i ? CU_STREAM_NON_BLOCKING : CU_STREAM_DEFAULT));
    CK(cuEventCreate(&filled[i], CU_EVENT_DISABLE_TIMING)); CK(cuEventCreate(&counted[i], CU_EVENT_DISABLE_TIMING));
  }
  for (unsigned i = 0; i < rounds(16); i++) {
    unsigned k = i & 1, x = seed() + i;
    // One stream fills what the other counts.
    if (i > 1) CK(cuStreamWaitEvent(stream[k], counted[k], 0));
    LAUNCH(fill, n / 256, 256, 0, stream[k], &data[k], &n, &x);
    CK(cuEventRecord(filled[k], stream[k]));
    if (i % 4 < 2) CK(cuMemsetD32Async(bins[k], 0, 256, stream[!k]));
    CK(cuStreamWaitEvent(stream[!k], filled[k], 0));
    LAUNCH(histogram, 8, 256, 0, stream[!k], &bins[k], &data[k], &n);
    CK(cuEventRecord(counted[k], stream[!k]));
  }
  CK(cuEventSynchronize(counted[0]));
  CK(cuEventSynchronize(counted[1]));
  CHECK(cuEventQuery(counted[0]) == CUDA_SUCCESS);
  unsigned host[256], sum = 0;
  for (int i = 0; i < 2; i++) {
    CK(cuMemcpyDtoH(host, bins[i], sizeof host));
    for (int j = 0; j < 256; j++) sum += host[j];
    digest(host, sizeof host);
  }
  CHECK(sum % n == 0 && sum > 0);
  CK(cuMemsetD8(bins[0], 0x11, 1024)); CK(cuMemsetD16(bins[0] + 64, 0x2233, 32)); CK(cuMemsetD32(bins[0] + 256, 0x44556677, 16));
  digest_device(bins[0], 1024);
  return finish("histogram");
}
