// Linked with the driver's symbols left open, run without any driver: our wrappers answer, nothing crashes.
#include "check.h"
int cuInit(unsigned) __attribute__((weak));
int cuMemAlloc_v2(unsigned long long *, size_t) __attribute__((weak));
int main(void) {
  CHECK(!dlopen("libcuda.so.1", RTLD_NOW));
  CHECK(cuInit && cuInit(0) == 100); // CUDA_ERROR_NO_DEVICE
  unsigned long long p;
  CHECK(cuMemAlloc_v2(&p, 1) == 100);
  puts("right");
  return 0;
}
