// Allocators: sizes from 1 byte to several MiB, frees while work is in flight,
// stream-ordered allocation, and the answers about addresses.
#include "client.h"

enum { SLOTS = 40 };

int main(void) {
  open_device();
  CUfunction fill = function("fill"), spin = function("spin");
  CUdeviceptr p[SLOTS] = {0};
  size_t size[SLOTS] = {0};
  unsigned tag[SLOTS] = {0};
  uint64_t rnd = seed() + 99;
  for (unsigned i = 0; i < rounds(150); i++) {
    int k = (int)(random_next(&rnd) % SLOTS);
    if (p[k]) { // its contents are still what was written, then it goes while other work runs
      unsigned words = (unsigned)(size[k] / 4), check = words < 64 ? words : 64;
      unsigned host[64];
      CK(cuMemcpyDtoH(host, p[k] + (words - check) * 4, check * 4));
      for (unsigned j = 0; j < check; j++) CHECK(host[j] == tag[k]);
      CK(cuMemFree(p[k]));
      p[k] = 0;
      continue;
    }
    unsigned scale = random_next(&rnd) % 4;
    size[k] = scale == 0 ? 4 + random_next(&rnd) % 500 : scale == 1 ? 4 + random_next(&rnd) % 70000 : scale == 2 ? 1 << 21 : 4 + random_next(&rnd) % 5000000;
    tag[k] = i * 2654435761u;
    CK(cuMemAlloc(&p[k], size[k]));
    CHECK(p[k] % 256 == 0);
    for (int j = 0; j < SLOTS; j++) CHECK(j == k || !p[j] || p[k] + size[k] <= p[j] || p[j] + size[j] <= p[k]);
    CUdeviceptr base;
    size_t bytes;
    CK(cuMemGetAddressRange(&base, &bytes, p[k] + size[k] / 2));
    CHECK(base == p[k] && bytes >= size[k]);
    unsigned type = 0;
    CK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p[k]));
    CHECK(type == CU_MEMORYTYPE_DEVICE);
    CK(cuMemsetD32(p[k], tag[k], size[k] / 4));
  }
  size_t free_before, free_after, total;
  CK(cuMemGetInfo(&free_before, &total));
  CHECK(free_before <= total);
  for (int k = 0; k < SLOTS; k++) if (p[k]) CK(cuMemFree(p[k]));
  CK(cuMemGetInfo(&free_after, &total));
  CHECK(free_after >= free_before);

  // Freed with a kernel on it in flight: the free waits, the kernel is done.
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  for (unsigned i = 0; i < rounds(4); i++) {
    CUdeviceptr out;
    unsigned long_time = 2000;
    CK(cuMemAlloc(&out, 256 * 4));
    LAUNCH(spin, 1, 256, 0, s, &out, &long_time);
    CK(cuMemFree(out));
  }

  // Stream-ordered: the freed block may come back at once in the same stream.
  for (unsigned i = 0; i < rounds(10); i++) {
    CUdeviceptr a, b;
    unsigned n = 3000 + i * 100, x = i;
    CK(cuMemAllocAsync(&a, n * 4, s));
    LAUNCH(fill, (n + 255) / 256, 256, 0, s, &a, &n, &x);
    CK(cuMemFreeAsync(a, s));
    CK(cuMemAllocAsync(&b, n * 4, s));
    CK(cuMemsetD32Async(b, i, n, s));
    unsigned host[16];
    CK(cuMemcpyDtoHAsync(host, b, sizeof host, s));
    CK(cuStreamSynchronize(s));
    for (int j = 0; j < 16; j++) CHECK(host[j] == i);
    CK(cuMemFreeAsync(b, s));
  }
  CK(cuStreamSynchronize(s));
  digest(&rnd, sizeof rnd);
  return finish("allocators");
}
