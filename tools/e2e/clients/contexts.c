// Contexts that come and go with memory, modules, pinned memory and work in them: what a context had is gone with it, the others do
// not notice, and the device ends with as much free memory as it began.
#include "client.h"

static void work(CUcontext ctx, unsigned tag, int tidy) {
  char *text = ptx_text("kernels.ptx");
  CUmodule mod;
  CUfunction fill;
  CUdeviceptr p, q, async;
  CUstream s;
  void *pinned;
  unsigned n = 100000;
  CK(cuCtxSetCurrent(ctx));
  CK(cuModuleLoadData(&mod, text));
  free(text);
  CK(cuModuleGetFunction(&fill, mod, "fill"));
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CK(cuMemAlloc(&p, n * 4));
  CK(cuMemAlloc(&q, 8 << 20));
  CK(cuMemHostAlloc(&pinned, 4096, 0));
  CK(cuMemAllocAsync(&async, n * 4, s));
  LAUNCH(fill, (n + 255) / 256, 256, 0, s, &p, &n, &tag);
  CK(cuMemcpyDtoDAsync(async, p, n * 4, s));
  CK(cuMemcpyDtoHAsync(pinned, async + 4096, 4096, s));
  CK(cuStreamSynchronize(s));
  digest(pinned, 4096);
  LAUNCH(fill, (n + 255) / 256, 256, 0, s, &q, &n, &tag); // still running when the context goes
  CK(cuMemFreeHost(pinned));
  if (!tidy) return;
  CK(cuMemFreeAsync(async, s));
  CK(cuStreamSynchronize(s));
  CK(cuMemFree(p));
  CK(cuMemFree(q));
  CK(cuStreamDestroy(s));
  CK(cuModuleUnload(mod));
}

static CUcontext create(void) {
  CUcontext c;
  CK(cuCtxCreate(&c, NULL, 0, device));
  return c;
}

int main(void) {
  open_device();
  unsigned tag = seed() * 1000;
  CUdeviceptr kept;
  unsigned n = 5000, value = 77, words[16];
  CUfunction fill = function("fill");
  CK(cuMemAlloc(&kept, n * 4));
  LAUNCH(fill, (n + 255) / 256, 256, 0, NULL, &kept, &n, &value);
  for (unsigned i = 0; i < rounds(4); i++) {
    CUcontext a = create(), b = create();
    work(a, ++tag, 1);
    work(b, ++tag, 0);
    work(context, ++tag, 1);
    CK(cuCtxDestroy(b)); // untidy: everything of it goes
    CK(cuCtxSetCurrent(context));
    CK(cuMemcpyDtoH(words, kept, sizeof words));
    digest(words, sizeof words);
    work(a, ++tag, 1);
    CK(cuCtxDestroy(a));
    CK(cuCtxSetCurrent(context));
  }
  CK(cuMemFree(kept));
  // The primary context is reset under everybody's feet, and used again.
  work(context, ++tag, 0);
  CK(cuDevicePrimaryCtxReset(device));
  CK(cuDevicePrimaryCtxRetain(&context, device));
  work(context, ++tag, 1);
  size_t free_now, total;
  CK(cuMemGetInfo(&free_now, &total));
  CHECK(free_now > total / 2);
  return finish("contexts");
}
