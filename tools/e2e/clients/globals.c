// Device globals and constants: written by kernels and by the host, read by both.
#include "client.h"

int main(void) {
  open_device();
  char *text = ptx_text("globals.ptx");
  CUmodule m;
  CK(cuModuleLoadData(&m, text));
  free(text);
  CUfunction count, scaled, asserts;
  CK(cuModuleGetFunction(&count, m, "count"));
  CK(cuModuleGetFunction(&scaled, m, "scaled"));
  CK(cuModuleGetFunction(&asserts, m, "asserts"));
  CUdeviceptr counter, scale, p;
  size_t bytes;
  // As long as nobody asks where it is, the kernels have it to themselves.
  unsigned before = 0;
  for (unsigned by = 1; by <= rounds(40); by++) {
    LAUNCH(count, 4, 32, 0, 0, &by);
    before += 4 * by;
    if (by % 4 == 0) CK(cuCtxSynchronize());
  }
  CK(cuModuleGetGlobal(&counter, &bytes, m, "counter"));
  CHECK(bytes == 4);
  unsigned left;
  CK(cuMemcpyDtoH(&left, counter, 4));
  CHECK(left == before);
  CK(cuModuleGetGlobal(&scale, &bytes, m, "scale"));
  CHECK(bytes == 16);
  CK(cuMemAlloc(&p, 4000));
  unsigned expected = seed(), n = 1000;
  CK(cuMemcpyHtoD(counter, &expected, 4));
  for (unsigned i = 0; i < rounds(10); i++) {
    unsigned by = i + 1, got, factors[4] = {i, i + 1, i * 3, 7};
    LAUNCH(count, 4, 32, 0, 0, &by);
    expected += 4 * by;
    CK(cuMemcpyDtoH(&got, counter, 4));
    CHECK(got == expected);
    CK(cuMemcpyHtoD(scale, factors, sizeof factors));
    CK(cuMemsetD32(p, i, n));
    LAUNCH(scaled, 4, 256, 0, 0, &p, &n);
    digest_device(p, n * 4);
  }
  unsigned limit = 0xffffffffu;
  LAUNCH(asserts, 1, 32, 0, 0, &p, &limit); // holds
  CK(cuCtxSynchronize());
  digest(&expected, 4);
  return finish("globals");
}
