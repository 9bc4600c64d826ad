// What eager frameworks do: the same few hundred launches again and again, with the same addresses; one of them with a parameter
// that changes each time, memsets and device copies in between, and a second stream that joins now and then. Every step depends on the
// one before, and none of it commutes.
#include "client.h"

int main(void) {
  open_device();
  CUfunction fill = function("fill"), step = function("step"), combine = function("combine");
  enum { N = 60, BUFFERS = 6, LAYERS = 16 };
  unsigned n = N, s = seed();
  CUdeviceptr b[BUFFERS];
  CUstream side;
  CUevent fork, join;
  CK(cuStreamCreate(&side, CU_STREAM_NON_BLOCKING));
  CK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
  CK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
  CUstream work;
  CK(cuStreamCreate(&work, CU_STREAM_NON_BLOCKING));
  for (unsigned i = 0; i < BUFFERS; i++) {
    CK(cuMemAlloc(&b[i], N * 4));
    unsigned x = s + i;
    LAUNCH(fill, 1, 64, 0, work, &b[i], &n, &x);
  }
  for (unsigned round = 0; round < rounds(24); round++) {
    for (unsigned layer = 0; layer < LAYERS; layer++) {
      unsigned k = layer * 7 + 1;
      CUdeviceptr *x = &b[layer % 3], *y = &b[(layer + 1) % 3], *z = &b[3];
      LAUNCH(step, 1, 64, 0, work, x, &n, &k);
      LAUNCH(combine, 1, 64, 0, work, z, x, y, &n);
      LAUNCH(step, 2, 32, 0, work, z, &n, &layer);
      if (layer % 8 == 3) CK(cuMemsetD32Async(b[4], layer, N / 2, work));
      if (layer % 8 == 5) CK(cuMemcpyDtoDAsync(b[4] + 64, b[3], 128, work));
      if (layer == 15) LAUNCH(step, 1, 64, 0, work, &b[4], &n, &round);
    }
    if (round % 6 == 5) {
      CK(cuEventRecord(fork, work));
      CK(cuStreamWaitEvent(side, fork, 0));
      LAUNCH(combine, 1, 64, 0, side, &b[5], &b[3], &b[4], &n);
      CK(cuEventRecord(join, side));
      CK(cuStreamWaitEvent(work, join, 0));
    }
    if (round % 8 == 7) {
      CK(cuStreamSynchronize(work));
      digest_device(b[3], N * 4);
    }
  }
  CK(cuCtxSynchronize());
  for (unsigned i = 0; i < BUFFERS; i++) {
    digest_device(b[i], N * 4);
    CK(cuMemFree(b[i]));
  }
  CK(cuStreamDestroy(side));
  CK(cuStreamDestroy(work));
  return finish("sequences");
}
