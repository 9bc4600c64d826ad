// Vector work: many small launches on the default stream, results read back now and then.
#include "client.h"

int main(void) {
  open_device();
  CUfunction fill = function("fill"), tofloat = function("tofloat"), vecadd = function("vecadd");
  unsigned n = 10007, s = seed();
  CUdeviceptr bits, a, b, out;
  CK(cuMemAlloc(&bits, n * 4)); CK(cuMemAlloc(&a, n * 4)); CK(cuMemAlloc(&b, n * 4)); CK(cuMemAlloc(&out, n * 4));
  for (unsigned i = 0; i < rounds(40); i++) {
    unsigned x = s + i;
    LAUNCH(fill, (n + 255) / 256, 256, 0, 0, &bits, &n, &x);
    LAUNCH(tofloat, (n + 255) / 256, 256, 0, 0, &a, &bits, &n);
    LAUNCH(vecadd, (n + 255) / 256, 256, 0, 0, &out, &a, i ? &out : &a, &n);
    if (i % 8 == 7) digest_device(out, n * 4);
  }
  digest_device(out, n * 4);
  CK(cuMemFree(bits)); CK(cuMemFree(a)); CK(cuMemFree(b)); CK(cuMemFree(out));
  return finish("vector");
}
