// The library interface as the runtime uses it: kernels without a context, launched as they are and as functions, attributes on
// both, globals, and loading the same text again, which starts with fresh globals.
#include "client.h"

int main(void) {
  open_device();
  char *text = ptx_text("kernels.ptx");
  CUlibrary lib;
  CUkernel k;
  CUfunction f, direct;
  CUmodule mod;
  CK(cuLibraryLoadData(&lib, text, NULL, NULL, 0, NULL, NULL, 0));
  memset(text, 'x', strlen(text)); // the caller's bytes are its own again
  free(text);
  CK(cuLibraryGetKernel(&k, lib, "fill"));
  printf("no such kernel: %d\n", cuLibraryGetKernel(&k, lib, "none"));
  CK(cuLibraryGetKernel(&k, lib, "fill"));
  CK(cuKernelGetFunction(&f, k));
  CK(cuLibraryGetModule(&mod, lib));
  CK(cuModuleGetFunction(&direct, mod, "fill"));
  CUdeviceptr p;
  unsigned n = 1000;
  CK(cuMemAlloc(&p, n * 4));
  CUfunction ways[] = {(CUfunction)k, f, direct};
  for (unsigned i = 0; i < 3; i++) {
    unsigned value = 100 + i;
    LAUNCH(ways[i], 4, 256, 0, NULL, &p, &n, &value);
    digest_device(p, n * 4);
  }
  size_t offset, size;
  for (size_t i = 0; cuKernelGetParamInfo(k, i, &offset, &size) == CUDA_SUCCESS; i++) printf("parameter %zu: %zu at %zu\n", i, size, offset);
  int threads = 0;
  CK(cuKernelGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, k, device));
  printf("threads %d\n", threads);
  CK(cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536, k, device));
  CK(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 60000));
  unsigned value = 5;
  void *args[] = {&p, &n, &value};
  printf("shared memory within the limit: %d\n", cuLaunchKernel((CUfunction)k, 4, 1, 1, 256, 1, 1, 65536, NULL, args, NULL));
  printf("and above it: %d\n", cuLaunchKernel(f, 4, 1, 1, 256, 1, 1, 60001, NULL, args, NULL));
  CK(cuCtxSynchronize());
  CK(cuLibraryUnload(lib));

  for (int turn = 0; turn < 3; turn++) { // each load has its own instance of every global
    char *again = ptx_text("globals.ptx");
    CK(cuLibraryLoadData(&lib, again, NULL, NULL, 0, NULL, NULL, 0));
    free(again);
    CUdeviceptr g;
    size_t bytes = 0;
    int r = cuLibraryGetGlobal(&g, &bytes, lib, "counter");
    printf("global: %d, %zu bytes\n", r, bytes);
    if (r == CUDA_SUCCESS) {
      unsigned v = 0;
      CK(cuMemcpyDtoH(&v, g, 4));
      printf("it begins with %u\n", v);
      v += 41 + (unsigned)turn;
      CK(cuMemcpyHtoD(g, &v, 4));
      CK(cuMemcpyDtoH(&v, g, 4));
      printf("and is now %u\n", v);
    }
    CK(cuLibraryUnload(lib));
  }
  return finish("libraries");
}
