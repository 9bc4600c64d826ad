// A client that does what its standard input says, a line at a time:
//   fill SEED TIMES   launches as many fills, then prints a digest of what the last one left
//   long SEED TIMES   the same with steps on a large array, each on what the one before it left; they fill the GPU six times over
//   wild              launches a store through a wild pointer, and prints the code that comes of it
// Fills may be repeated: they read nothing.
#include "client.h"

int main(void) {
  open_device();
  CUfunction fill = function("fill"), wild = function("wild"), step = function("step");
  enum { SHARED = 48 << 10, BLOCKS = 6 * 4 * 132 }; // so much shared memory lets four blocks onto a processor
  unsigned n = 4096, many = BLOCKS * 32;
  CUdeviceptr p, large;
  CK(cuMemAlloc(&p, n * 4));
  CK(cuMemAlloc(&large, many * 4));
  char line[80];
  while (fgets(line, sizeof line, stdin)) {
    unsigned x, times;
    if (sscanf(line, "fill %u %u", &x, &times) == 2) {
      for (unsigned i = 0; i < times; i++) LAUNCH(fill, 16, 256, 0, 0, &p, &n, &x);
      CK(cuCtxSynchronize());
      digest_state = 0xcbf29ce484222325ull;
      digest_device(p, n * 4);
      printf("%016llx\n", (unsigned long long)digest_state);
    } else if (sscanf(line, "long %u %u", &x, &times) == 2) {
      CK(cuMemsetD32Async(large, x, many, 0));
      for (unsigned k = 1; k <= times; k++) LAUNCH(step, BLOCKS, 32, SHARED, 0, &large, &many, &k);
      CK(cuCtxSynchronize());
      digest_state = 0xcbf29ce484222325ull;
      digest_device(large, many * 4);
      printf("%016llx\n", (unsigned long long)digest_state);
    } else {
      unsigned long long address = 0x10;
      void *args[] = {&address};
      CUresult r = cuLaunchKernel(wild, 1, 1, 1, 1, 1, 1, 0, 0, args, NULL);
      if (r == CUDA_SUCCESS) r = cuCtxSynchronize();
      printf("%d\n", r);
    }
    fflush(stdout);
  }
  return 0;
}
