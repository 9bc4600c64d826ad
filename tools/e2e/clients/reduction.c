// Reductions: every sum waits for the one before and is read back at once.
#include "client.h"

int main(void) {
  open_device();
  CUfunction fill = function("fill"), tofloat = function("tofloat"), reduce = function("reduce");
  unsigned n = 1 << 14, parts = 32, s = seed();
  CUdeviceptr bits, values, sums, total;
  CK(cuMemAlloc(&bits, n * 4)); CK(cuMemAlloc(&values, n * 4)); CK(cuMemAlloc(&sums, parts * 4)); CK(cuMemAlloc(&total, 4));
  for (unsigned i = 0; i < rounds(20); i++) {
    unsigned x = s * 31 + i;
    LAUNCH(fill, n / 256, 256, 0, 0, &bits, &n, &x);
    LAUNCH(tofloat, n / 256, 256, 0, 0, &values, &bits, &n);
    LAUNCH(reduce, parts, 256, 0, 0, &sums, &values, &n);
    LAUNCH(reduce, 1, 256, 0, 0, &total, &sums, &parts);
    float host;
    CK(cuMemcpyDtoH(&host, total, 4)); // a 4-byte read, as loss.item() does
    CHECK(host > -8192 && host < 8192);
    digest(&host, 4);
  }
  return finish("reduction");
}
