// A client that does what its standard input says, a line at a time, and says where it ran:
//   work SEED TIMES     launches a kernel of many blocks so often, each on what the one before it left
//   cluster SEED TIMES  the same in clusters of sixteen blocks, which a partition of the SMs refuses
//   graph SEED TIMES    the same as one graph
// and prints a digest of what is left, the first and the last SM that a block ran on, and on how many blocks ran.
#include "client.h"

static const char ptx[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    ".visible .entry mix(.param .u64 to, .param .u64 seen, .param .u32 k)\n{\n  .reg .b32 %r<9>;\n  .reg .b64 %rd<8>;\n"
    "  ld.param.u64 %rd1, [to];\n  ld.param.u64 %rd2, [seen];\n  ld.param.u32 %r1, [k];\n"
    "  mov.u32 %r2, %ctaid.x;\n  mov.u32 %r3, %ntid.x;\n  mov.u32 %r4, %tid.x;\n  mad.lo.u32 %r5, %r2, %r3, %r4;\n"
    "  mul.wide.u32 %rd3, %r5, 4;\n  add.s64 %rd4, %rd1, %rd3;\n  ld.global.u32 %r6, [%rd4];\n"
    "  mad.lo.u32 %r6, %r6, 1103515245, %r1;\n  st.global.u32 [%rd4], %r6;\n"
    "  mov.u32 %r7, %smid;\n  mul.wide.u32 %rd5, %r7, 4;\n  add.s64 %rd6, %rd2, %rd5;\n  mov.u32 %r8, 1;\n  st.global.u32 [%rd6], %r8;\n  ret;\n}\n";

enum { BLOCKS = 304, THREADS = 32, SMS = 132 };
static CUdeviceptr to, seen;
static CUfunction mix;
static CUstream stream;

static void clustered(unsigned k) {
  void *a[] = {&to, &seen, &k};
  CUlaunchAttribute at = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, .value.clusterDim = {16, 1, 1}};
  CUlaunchConfig c = {.gridDimX = BLOCKS, .gridDimY = 1, .gridDimZ = 1, .blockDimX = THREADS, .blockDimY = 1, .blockDimZ = 1, .hStream = stream,
                      .attrs = &at, .numAttrs = 1};
  CK(cuLaunchKernelEx(&c, mix, a, NULL));
}

static void graph(unsigned times) {
  CUgraph g;
  CUgraphNode last = NULL;
  CUgraphExec x;
  CK(cuGraphCreate(&g, 0));
  for (unsigned k = 1; k <= times; k++) {
    void *a[] = {&to, &seen, &k};
    CUDA_KERNEL_NODE_PARAMS node = {.func = mix, .gridDimX = BLOCKS, .gridDimY = 1, .gridDimZ = 1, .blockDimX = THREADS, .blockDimY = 1,
                                    .blockDimZ = 1, .kernelParams = a};
    CUgraphNode next;
    CK(cuGraphAddKernelNode(&next, g, &last, last != NULL, &node));
    last = next;
  }
  CK(cuGraphInstantiate(&x, g, 0));
  CK(cuGraphDestroy(g));
  CK(cuGraphLaunch(x, stream));
  CK(cuStreamSynchronize(stream));
  CK(cuGraphExecDestroy(x));
}

int main(void) {
  open_device();
  CUmodule m;
  CK(cuModuleLoadData(&m, ptx));
  CK(cuModuleGetFunction(&mix, m, "mix"));
  CK(cuFuncSetAttribute(mix, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1));
  CK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CK(cuMemAlloc(&to, BLOCKS * THREADS * 4));
  CK(cuMemAlloc(&seen, SMS * 4));
  char line[80], what[16];
  unsigned x, times;
  while (fgets(line, sizeof line, stdin) && sscanf(line, "%15s %u %u", what, &x, &times) == 3) {
    CK(cuMemsetD32Async(to, x, BLOCKS * THREADS, stream));
    CK(cuMemsetD32Async(seen, 0, SMS, stream));
    if (what[0] == 'g') graph(times);
    for (unsigned k = 1; k <= times && what[0] != 'g'; k++) {
      void *a[] = {&to, &seen, &k};
      if (what[0] == 'c') clustered(k);
      else CK(cuLaunchKernel(mix, BLOCKS, 1, 1, THREADS, 1, 1, 0, stream, a, NULL));
    }
    CK(cuStreamSynchronize(stream));
    unsigned on[SMS], n = 0, first = SMS, last = 0;
    CK(cuMemcpyDtoH(on, seen, sizeof on));
    for (unsigned i = 0; i < SMS; i++)
      if (on[i]) {
        n++;
        first = i < first ? i : first;
        last = i;
      }
    digest_state = 0xcbf29ce484222325ull;
    digest_device(to, BLOCKS * THREADS * 4);
    printf("%016llx %u %u %u\n", (unsigned long long)digest_state, first, last, n);
    fflush(stdout);
  }
  return 0;
}
