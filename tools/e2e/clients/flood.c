// Launches without a wait, several times what a ring holds: back-pressure, not a hang.
#include "client.h"

int main(void) {
  open_device();
  CUfunction count = function("step");
  unsigned n = 32;
  CUdeviceptr p;
  CK(cuMemAlloc(&p, n * 4));
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CK(cuMemsetD32Async(p, 1, n, s)); // in s: a fill on the legacy default stream is not ordered before s
  for (unsigned i = 0; i < rounds(60000); i++) LAUNCH(count, 1, 32, 0, s, &p, &n, &i);
  CK(cuStreamSynchronize(s));
  digest_device(p, n * 4);
  return finish("flood");
}
