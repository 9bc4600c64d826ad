// Host memory of every kind: pageable, pinned, registered, mapped into kernels;
// copies of 1 byte to several MiB, at odd offsets, both ways.
#include "client.h"

int main(void) {
  open_device();
  CUfunction step = function("step");
  size_t most = 3u << 20;
  unsigned char *pageable = malloc(most), *back = malloc(most), *pinned, *registered;
  CK(cuMemHostAlloc((void **)&pinned, most, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP));
  CHECK(posix_memalign((void **)&registered, 4096, most) == 0);
  memset(registered, 0, most);
  CK(cuMemHostRegister(registered, most, CU_MEMHOSTREGISTER_DEVICEMAP));
  CUdeviceptr p;
  CUstream s;
  CK(cuMemAlloc(&p, most));
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  uint64_t rnd = seed() + 5;
  for (size_t i = 0; i < most; i++) pageable[i] = (unsigned char)(i * 31 + (i >> 8));
  memcpy(pinned, pageable, most);
  memcpy(registered, pageable, most);
  unsigned char *kinds[] = {pageable, pinned, registered};
  for (unsigned i = 0; i < rounds(60); i++) {
    size_t n = 1 + random_next(&rnd) % (i % 10 == 0 ? most / 2 : i % 3 ? 300 : 100000), at = random_next(&rnd) % (most - n), from = random_next(&rnd) % (most - n);
    unsigned char *source = kinds[random_next(&rnd) % 3], *target = i % 2 ? back : pinned;
    if (target == source) source = pageable;
    CK(cuMemcpyHtoDAsync(p + at, source + from, n, s));
    unsigned words = (unsigned)(n / 4 < 1000 ? n / 4 : 1000), k = i;
    CUdeviceptr aligned = (p + at + 3) & ~3ull;
    if (n > 8 && words > 1) { words--; LAUNCH(step, (words + 255) / 256, 256, 0, s, &aligned, &words, &k); }
    CK(cuMemcpyDtoHAsync(target, p + at, n, s));
    CK(cuStreamSynchronize(s));
    digest(target, n);
    if (target == pinned) memcpy(pinned, pageable, most);
    if (i % 7 == 0) { // the blocking forms
      CK(cuMemcpyHtoD(p, pageable + i, 777));
      CK(cuMemcpyDtoH(back, p, 777));
      CHECK(memcmp(back, pageable + i, 777) == 0);
    }
  }
  // A kernel on pinned memory itself.
  CUdeviceptr mapped;
  CK(cuMemHostGetDevicePointer(&mapped, pinned, 0));
  unsigned n = 1000, k = 3;
  LAUNCH(step, 4, 256, 0, s, &mapped, &n, &k);
  CK(cuStreamSynchronize(s));
  digest(pinned, n * 4);
  CK(cuMemHostGetDevicePointer(&mapped, registered, 0));
  LAUNCH(step, 4, 256, 0, s, &mapped, &n, &k);
  CK(cuStreamSynchronize(s));
  digest(registered, n * 4);
  CK(cuMemHostUnregister(registered));
  CK(cuMemFreeHost(pinned));
  return finish("hostmem");
}
