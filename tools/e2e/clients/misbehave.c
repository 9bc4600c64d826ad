// A client with a wild pointer: it must see the error and go on seeing it, and
// nobody else may.
#include "client.h"

int main(void) {
  open_device();
  CUfunction fill = function("fill"), wild = function("wild");
  unsigned n = 1024, x = 1;
  CUdeviceptr p;
  CK(cuMemAlloc(&p, n * 4));
  for (unsigned i = 0; i < rounds(4); i++) LAUNCH(fill, 4, 256, 0, 0, &p, &n, &x);
  CK(cuCtxSynchronize());
  digest_device(p, n * 4);
  unsigned long long address = 0x10;
  void *args[] = {&address};
  CUresult r = cuLaunchKernel(wild, 1, 1, 1, 1, 1, 1, 0, 0, args, NULL);
  if (r == CUDA_SUCCESS) r = cuCtxSynchronize();
  printf("after a wild store: %d\n", r);
  unsigned v;
  printf("next copy: %d\n", cuMemcpyDtoH(&v, p, 4));
  printf("next allocation: %d\n", cuMemAlloc(&p, 4096));
  printf("next synchronize: %d\n", cuCtxSynchronize());
  return finish("misbehave");
}
