// Host functions in streams see what came before them, and what comes after sees them.
#include "client.h"

static unsigned *seen;
static unsigned calls;
static void note(void *arg) {
  unsigned expected = (unsigned)(uintptr_t)arg;
  if (*seen != expected) fprintf(stderr, "call %u: the copy before it brought %u, expected %u\n", calls, *seen, expected);
  else calls++;
}

int main(void) {
  open_device();
  CUdeviceptr p;
  CUstream s;
  CK(cuMemAllocHost((void **)&seen, 4));
  CK(cuMemAlloc(&p, 4));
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  unsigned n = rounds(12);
  for (unsigned i = 0; i < n; i++) {
    CK(cuMemsetD32Async(p, i + 100, 1, s));
    CK(cuMemcpyDtoHAsync(seen, p, 4, s));
    CK(cuLaunchHostFunc(s, note, (void *)(uintptr_t)(i + 100)));
  }
  CK(cuStreamSynchronize(s));
  CHECK(calls == n);
  digest(&calls, 4);
  return finish("callbacks");
}
