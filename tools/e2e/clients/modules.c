// Code that comes and goes: modules and libraries loaded, used and unloaded,
// large parameters, dynamic shared memory, attributes, both launch forms.
#include "client.h"

int main(void) {
  open_device();
  char *text = ptx_text("kernels.ptx");
  CUdeviceptr out;
  CK(cuMemAlloc(&out, 1 << 16));
  for (unsigned i = 0; i < rounds(6); i++) {
    CUmodule m;
    CUfunction f;
    unsigned n = 2000, x = i;
    CK(cuModuleLoadData(&m, text));
    CK(cuModuleGetFunction(&f, m, "fill"));
    LAUNCH(f, 8, 256, 0, 0, &out, &n, &x);
    CHECK(cuModuleGetFunction(&f, m, "no_such_kernel") == CUDA_ERROR_NOT_FOUND);
    CK(cuModuleUnload(m)); // with the launch in flight
    digest_device(out, n * 4);

    CUlibrary lib;
    CUkernel k;
    CK(cuLibraryLoadData(&lib, text, NULL, NULL, 0, NULL, NULL, 0));
    CK(cuLibraryGetKernel(&k, lib, "step"));
    CUfunction g;
    CK(cuKernelGetFunction(&g, k));
    unsigned step = i + 5;
    void *args[] = {&out, &n, &step};
    CK(cuLaunchKernel((CUfunction)k, 8, 1, 1, 256, 1, 1, 0, 0, args, NULL)); // a CUkernel is accepted too
    CK(cuLaunchKernel(g, 8, 1, 1, 256, 1, 1, 0, 0, args, NULL));
    digest_device(out, n * 4);
    CK(cuLibraryUnload(lib));
  }
  free(text);

  struct { CUdeviceptr out; unsigned v[960]; } packed = {out, {0}};
  for (unsigned i = 0; i < 960; i++) packed.v[i] = i * i;
  size_t bytes = sizeof packed.out + sizeof packed.v;
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
  CK(cuLaunchKernel(function("bigparam"), 1, 1, 1, 960, 1, 1, 0, 0, NULL, extra));
  digest_device(out, 960 * 4);

  CUfunction dyn = function("dynshared");
  for (unsigned words = 64; words <= 16384; words *= 4) {
    if (words * 4 > 48 * 1024) CK(cuFuncSetAttribute(dyn, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)words * 4));
    LAUNCH(dyn, 4, 128, words * 4, 0, &out, &words);
    digest_device(out, 4 * 128 * 4);
  }
  int v;
  CK(cuFuncGetAttribute(&v, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, dyn));
  CHECK(v >= 128);

  CUlaunchConfig config = {.gridDimX = 4, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 128, .blockDimY = 1, .blockDimZ = 1, .sharedMemBytes = 256};
  unsigned words = 64;
  void *args[] = {&out, &words};
  CK(cuLaunchKernelEx(&config, dyn, args, NULL));
  digest_device(out, 4 * 128 * 4);
  return finish("modules");
}
