// Device globals and constants of an image some of whose kernels are forwarded and some not: launches on registered host memory and
// captured launches run in the program's own context, and must see what the others wrote.
#include "client.h"

enum { N = 256 };
static unsigned registered[4096] __attribute__((aligned(4096)));

int main(void) {
  open_device();
  char *text = ptx_text("globals.ptx");
  CUmodule m;
  CUfunction count, scaled;
  CUdeviceptr counter, scale, p;
  size_t bytes;
  CUstream s;
  CK(cuModuleLoadData(&m, text));
  free(text);
  CK(cuModuleGetFunction(&count, m, "count"));
  CK(cuModuleGetFunction(&scaled, m, "scaled"));
  CK(cuModuleGetGlobal(&counter, &bytes, m, "counter"));
  CK(cuModuleGetGlobal(&scale, &bytes, m, "scale"));
  CHECK(bytes == 16);
  CK(cuMemAlloc(&p, N * 4));
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CK(cuMemHostRegister(registered, sizeof registered, CU_MEMHOSTREGISTER_DEVICEMAP));
  unsigned factors[4], n = N, by, value;
  for (unsigned round = 0; round < rounds(6); round++) {
    for (unsigned i = 0; i < 4; i++) factors[i] = round * 10 + i + seed();
    CK(cuMemcpyHtoDAsync(scale, factors, sizeof factors, s));
    CK(cuMemsetD32Async(p, round + 1, N, s));
    LAUNCH(scaled, 1, N, 0, s, &p, &n);
    by = round + 1;
    LAUNCH(count, 1, 32, 0, s, &by);
    CK(cuStreamSynchronize(s));
    for (unsigned i = 0; i < N; i++) registered[i] = round + 1;
    CUdeviceptr host;
    CK(cuMemHostGetDevicePointer(&host, registered, 0));
    LAUNCH(scaled, 1, N, 0, s, &host, &n); // native, with the same factors
    by = 100;
    LAUNCH(count, 1, 32, 0, s, &by); // forwarded again
    CK(cuMemcpyDtoHAsync(&value, counter, 4, s));
    CK(cuStreamSynchronize(s));
    digest(registered, N * 4);
    digest_device(p, N * 4);
    digest(&value, 4);
    for (unsigned i = 0; i < N; i++) CHECK(registered[i] == (round + 1) * factors[i & 3] + 1);
  }
  printf("counter %u\n", value);

  CUgraph graph;
  CUgraphExec exec;
  CUresult began = cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  if (began == CUDA_ERROR_NOT_SUPPORTED) { // the software GPU has no graphs
    CK(cuMemHostUnregister(registered));
    return finish("hybrid without graphs");
  }
  CK(began);
  LAUNCH(scaled, 1, N, 0, s, &p, &n);
  CK(cuStreamEndCapture(s, &graph));
  CK(cuGraphInstantiate(&exec, graph, 0));
  for (unsigned round = 0; round < rounds(4); round++) {
    CK(cuMemsetD32Async(p, 7, N, s));
    CK(cuGraphLaunch(exec, s)); // the first time with the factors of before the capture
    CK(cuStreamSynchronize(s));
    digest_device(p, N * 4);
    for (unsigned i = 0; i < 4; i++) factors[i] = 1000 * round + i;
    CK(cuMemcpyHtoD(scale, factors, sizeof factors));
    CK(cuCtxSynchronize()); // the copy may return before the device has the bytes, and s does not wait for the null stream
  }
  CK(cuGraphExecDestroy(exec));
  CK(cuGraphDestroy(graph));
  CK(cuMemHostUnregister(registered));
  CK(cuModuleUnload(m));
  return finish("hybrid");
}
