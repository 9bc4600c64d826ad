// A client that does what its standard input says, a line at a time:
//   fill SEED TIMES   launches as many fills, then prints a digest of what the last one left
//   wild              launches a store through a wild pointer, and prints the code that comes of it
// Fills may be repeated: they read nothing.
#include "client.h"

int main(void) {
  open_device();
  CUfunction fill = function("fill"), wild = function("wild");
  unsigned n = 4096;
  CUdeviceptr p;
  CK(cuMemAlloc(&p, n * 4));
  char line[80];
  while (fgets(line, sizeof line, stdin)) {
    unsigned x, times;
    if (sscanf(line, "fill %u %u", &x, &times) == 2) {
      for (unsigned i = 0; i < times; i++) LAUNCH(fill, 16, 256, 0, 0, &p, &n, &x);
      CK(cuCtxSynchronize());
      digest_state = 0xcbf29ce484222325ull;
      digest_device(p, n * 4);
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
