#include <cuda.h>
#include <stdlib.h>
// A library whose constructor uses CUDA: it runs with the dynamic linker's lock held.
__attribute__((constructor)) static void constructed(void) {
  CUdeviceptr p;
  if (cuMemAlloc(&p, 1) < 200000) abort();
}
