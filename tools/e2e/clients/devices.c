// Every device of the machine in one process: memory and kernels on each, copies between them, kernels that reach into a
// peer's memory. On a machine of one device it is just a program.
#include "client.h"

enum { MOST = 8, WORDS = 4096 };

int main(void) {
  open_device();
  int n = 0;
  CK(cuDeviceGetCount(&n));
  if (n > MOST) n = MOST;
  CUcontext ctx[MOST];
  CUmodule mod[MOST];
  CUfunction fill[MOST];
  CUdeviceptr p[MOST], q[MOST], pooled[MOST];
  CUstream s[MOST];
  char *text = ptx_text("kernels.ptx");
  for (int i = 0; i < n; i++) {
    CK(cuDevicePrimaryCtxRetain(&ctx[i], i));
    CK(cuCtxSetCurrent(ctx[i]));
    CK(cuModuleLoadData(&mod[i], text));
    CK(cuModuleGetFunction(&fill[i], mod[i], "fill"));
    CK(cuMemAlloc(&p[i], WORDS * 4)); // before peers have access
    CK(cuStreamCreate(&s[i], CU_STREAM_NON_BLOCKING));
  }
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) {
      if (i == j) continue;
      int can = 0;
      CK(cuDeviceCanAccessPeer(&can, i, j));
      if (!can) { printf("no peers\n"); n = 1; break; }
      CK(cuCtxSetCurrent(ctx[i]));
      CK(cuCtxEnablePeerAccess(ctx[j], 0));
      CHECK(cuCtxEnablePeerAccess(ctx[j], 0) == CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
    }
  for (int i = 0; i < n; i++) {
    CK(cuCtxSetCurrent(ctx[i]));
    CK(cuMemAlloc(&q[i], WORDS * 4)); // … and after
    CK(cuMemAllocAsync(&pooled[i], WORDS * 4, s[i]));
    unsigned words = WORDS, value = 1000u * (unsigned)(i + 1) + seed();
    LAUNCH(fill[i], WORDS / 256, 256, 0, s[i], &p[i], &words, &value);
    CK(cuMemcpyDtoDAsync(pooled[i], p[i], WORDS * 4, s[i]));
    CK(cuStreamSynchronize(s[i]));
  }
  for (unsigned round = 0; round < rounds(5); round++)
    for (int i = 0; i < n; i++) {
      int j = (i + 1) % n;
      unsigned words = WORDS, value = round;
      CK(cuCtxSetCurrent(ctx[i]));
      if (i != j) CK(cuMemcpyPeerAsync(q[i], ctx[i], p[j], ctx[j], WORDS * 4, s[i]));
      else CK(cuMemcpyDtoDAsync(q[i], p[j], WORDS * 4, s[i]));
      CK(cuStreamSynchronize(s[i]));
      digest_device(q[i], WORDS * 4);
      LAUNCH(fill[i], WORDS / 256, 256, 0, s[i], &p[j], &words, &value); // a peer's memory, from here
      CK(cuStreamSynchronize(s[i]));
      CK(cuCtxSetCurrent(ctx[j]));
      digest_device(p[j], WORDS * 4);
    }
  for (int i = 0; i < n; i++) {
    CK(cuCtxSetCurrent(ctx[i]));
    digest_device(pooled[i], WORDS * 4);
    CK(cuMemFreeAsync(pooled[i], s[i]));
    CK(cuMemFree(p[i]));
    CK(cuMemFree(q[i]));
    CK(cuModuleUnload(mod[i]));
    CK(cuStreamDestroy(s[i]));
  }
  free(text);
  return finish("devices");
}
