// A fault, every call that must report it, then a reset: the process stays lost. Prints the codes that natively it gets.
#include "client.h"

#define SAY(what, call) printf("%-34s %d\n", what, (int)(call))

int main(void) {
  open_device();
  CUfunction fill = function("fill"), wild = function("wild");
  unsigned n = 1024, x = 1, v;
  unsigned long long address = 0x10;
  CUdeviceptr p, q;
  CUstream s;
  CUevent never, plain, timed, after;
  float ms;
  void *args[] = {&address}, *good[] = {&p, &n, &x};
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CK(cuEventCreate(&never, 0));
  CK(cuEventCreate(&plain, CU_EVENT_DISABLE_TIMING));
  CK(cuEventCreate(&timed, 0));
  CK(cuEventCreate(&after, CU_EVENT_DISABLE_TIMING));
  CK(cuMemAlloc(&p, n * 4));
  CK(cuLaunchKernel(fill, 4, 1, 1, 256, 1, 1, 0, s, good, NULL));
  CK(cuEventRecord(plain, s));
  CK(cuEventRecord(timed, s));
  CK(cuStreamSynchronize(s));
  SAY("query before, never recorded", cuEventQuery(never));
  SAY("query before, recorded", cuEventQuery(plain));
  CK(cuLaunchKernel(wild, 1, 1, 1, 1, 1, 1, 0, s, args, NULL));
  SAY("synchronize", cuStreamSynchronize(s));
  SAY("synchronize again", cuStreamSynchronize(s));
  SAY("stream query", cuStreamQuery(s));
  SAY("record", cuEventRecord(after, s));
  SAY("query, never recorded", cuEventQuery(never));
  SAY("query, recorded too late", cuEventQuery(after));
  SAY("query, recorded", cuEventQuery(plain));
  SAY("query, with a time", cuEventQuery(timed));
  SAY("event synchronize", cuEventSynchronize(never));
  SAY("elapsed", cuEventElapsedTime(&ms, timed, timed));
  SAY("elapsed, never recorded", cuEventElapsedTime(&ms, never, never));
  SAY("wait for it", cuStreamWaitEvent(s, never, 0));
  SAY("launch", cuLaunchKernel(fill, 4, 1, 1, 256, 1, 1, 0, s, good, NULL));
  SAY("copy", cuMemcpyDtoH(&v, p, 4));
  SAY("memset", cuMemsetD8(p, 0, 4));
  SAY("allocation", cuMemAlloc(&q, 4096));
  SAY("free", cuMemFree(p));
  SAY("context synchronize", cuCtxSynchronize());
  SAY("retain", cuDevicePrimaryCtxRetain(&context, device));
  for (int i = 0; i < 2; i++) {
    SAY("reset", cuDevicePrimaryCtxReset(device));
    SAY("retain after it", cuDevicePrimaryCtxRetain(&context, device));
    SAY("set current", cuCtxSetCurrent(context));
    SAY("allocation after it", cuMemAlloc(&q, 4096));
    SAY("memset after it", cuMemsetD8(p, 1, 16));
    SAY("copy after it", cuMemcpyDtoH(&v, p, 4));
    SAY("synchronize after it", cuCtxSynchronize());
    SAY("default stream after it", cuStreamSynchronize(0));
    char *text = ptx_text("kernels.ptx");
    SAY("module after it", cuModuleLoadData(&kernels, text));
    free(text);
  }
  return finish("lost");
}
