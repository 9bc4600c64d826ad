// A client that does what its standard input says, a line at a time:
//   fill SEED TIMES   launches as many fills, then prints a digest of what the last one left
//   long SEED TIMES   the same with steps on a large array, each on what the one before it left; they fill the GPU six times over
//   graph SEED TIMES  launches so often a graph of GRAPH steps, each on what the one before it left, and prints a digest of that
//   rounds SEED TIMES launches a graph of FEW steps so often, another one now and then and in its place, waits each time, and prints a digest
//   graphs SEED TIMES makes so many graphs of a fill and a step, launches each once, destroys it at once, and prints a digest
//   wild              launches a store through a wild pointer, and prints the code that comes of it
// Fills may be repeated: they read nothing.
#include "client.h"

enum { GRAPH = 120, FEW = 3 };
static CUstream stream;

// A graph of a memset, if there is a value for it, and steps 1 to `steps` in a chain.
static CUgraphExec chain(CUfunction step, CUdeviceptr *p, unsigned *n, unsigned value, unsigned steps) {
  CUgraph g;
  CUgraphNode last;
  CUgraphExec x;
  CUcontext here;
  CK(cuCtxGetCurrent(&here));
  CK(cuGraphCreate(&g, 0));
  CUDA_MEMSET_NODE_PARAMS set = {.dst = *p, .value = value, .elementSize = 4, .width = *n, .height = 1};
  CK(cuGraphAddMemsetNode(&last, g, NULL, 0, &set, here));
  for (unsigned k = 1; k <= steps; k++) {
    void *args[] = {p, n, &k};
    CUDA_KERNEL_NODE_PARAMS node = {.func = step, .gridDimX = *n / 256, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 256, .blockDimY = 1, .blockDimZ = 1,
                                    .kernelParams = args};
    CUgraphNode next;
    CK(cuGraphAddKernelNode(&next, g, &last, 1, &node));
    last = next;
  }
  CK(cuGraphInstantiate(&x, g, 0));
  CK(cuGraphDestroy(g));
  return x;
}

static void tell(CUdeviceptr p, unsigned n) {
  CK(cuCtxSynchronize());
  digest_state = 0xcbf29ce484222325ull;
  digest_device(p, n * 4);
  printf("%016llx\n", (unsigned long long)digest_state);
}

int main(void) {
  open_device();
  CK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
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
      tell(p, n);
    } else if (sscanf(line, "long %u %u", &x, &times) == 2) {
      CK(cuMemsetD32Async(large, x, many, 0));
      for (unsigned k = 1; k <= times; k++) LAUNCH(step, BLOCKS, 32, SHARED, 0, &large, &many, &k);
      tell(large, many);
    } else if (sscanf(line, "graph %u %u", &x, &times) == 2) {
      CUgraphExec g = chain(step, &p, &n, x, GRAPH);
      for (unsigned i = 0; i < times; i++) CK(cuGraphLaunch(g, stream));
      tell(p, n);
      CK(cuGraphExecDestroy(g));
    } else if (sscanf(line, "rounds %u %u", &x, &times) == 2) {
      CUgraphExec g = chain(step, &p, &n, x, FEW), other = chain(step, &p, &n, x + 1, FEW);
      for (unsigned i = 0; i < times; i++) {
        CK(cuGraphLaunch(i % 12 == 11 ? other : g, stream));
        CK(cuStreamSynchronize(stream));
        if (i % 48 != 47) continue;
        CK(cuGraphExecDestroy(g)); // and another in its place
        g = chain(step, &p, &n, x + i, FEW);
      }
      tell(p, n);
      CK(cuGraphExecDestroy(g));
      CK(cuGraphExecDestroy(other));
    } else if (sscanf(line, "graphs %u %u", &x, &times) == 2) {
      for (unsigned i = 0; i < times; i++) {
        CUgraphExec g = chain(step, &p, &n, x + i, 1);
        CK(cuGraphLaunch(g, stream));
        CK(cuGraphExecDestroy(g));
      }
      tell(p, n);
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
