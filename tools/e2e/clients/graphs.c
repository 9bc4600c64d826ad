// CUDA graphs as programs make them: captured on several streams, built by hand, nested, changed in every way there is, launched
// by several threads, destroyed early. $E2E_PART names one part; without it all run.
#include "client.h"

#include <pthread.h>

enum { N = 2048 };
static CUfunction fill, step, combine;
static CUdeviceptr a, b, c, d;
static CUstream s, t;
static unsigned n = N, k3 = 3;

#define KERNEL_NODE(f, ...)                                                                                                  \
  (CUDA_KERNEL_NODE_PARAMS) {                                                                                                \
    .func = (f), .gridDimX = N / 256, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 256, .blockDimY = 1, .blockDimZ = 1,        \
    .kernelParams = (void *[]) { __VA_ARGS__ }                                                                               \
  }

static void reset(void) {
  unsigned by = seed();
  CK(cuMemsetD32Async(b, 0, N, s));
  CK(cuMemsetD32Async(c, 1, N, s));
  CK(cuMemsetD32Async(d, 2, N, s));
  LAUNCH(fill, N / 256, 256, 0, s, &a, &n, &by);
  CK(cuStreamSynchronize(s));
}

static void show(const char *what) {
  CK(cuCtxSynchronize());
  digest_device(a, N * 4);
  digest_device(b, N * 4);
  digest_device(c, N * 4);
  digest_device(d, N * 4);
  printf("%s %016llx\n", what, (unsigned long long)digest_state);
}

static CUgraphExec instantiate(CUgraph g) {
  CUgraphExec x;
  CK(cuGraphInstantiate(&x, g, 0));
  return x;
}

// Two branches on two streams, and copies of memory that both sides have.
static CUgraph capture_fork(unsigned value, unsigned *pinned) {
  CUgraph g;
  CUevent fork, join;
  CK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
  CK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
  CK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  CK(cuMemcpyHtoDAsync(b, pinned, N * 4, s));
  CK(cuEventRecord(fork, s));
  CK(cuStreamWaitEvent(t, fork, 0));
  LAUNCH(combine, N / 256, 256, 0, s, &c, &a, &b, &n);
  CK(cuMemsetD32Async(d, value, N, t));
  LAUNCH(combine, N / 256, 256, 0, t, &d, &b, &a, &n);
  CK(cuEventRecord(join, t));
  CK(cuStreamWaitEvent(s, join, 0));
  LAUNCH(combine, N / 256, 256, 0, s, &b, &c, &d, &n);
  CK(cuMemcpyDtoDAsync(a, b, N * 2, s));
  CK(cuMemcpyDtoHAsync(pinned + N, d, N * 4, s));
  CK(cuStreamEndCapture(s, &g));
  CK(cuEventDestroy(fork));
  CK(cuEventDestroy(join));
  return g;
}

static void captured(void) {
  unsigned *pinned;
  CK(cuMemHostAlloc((void **)&pinned, N * 8, 0));
  for (unsigned i = 0; i < N; i++) pinned[i] = i * 3 + seed();
  reset();
  CUgraph g = capture_fork(7, pinned);
  CUgraphExec x = instantiate(g);
  CK(cuGraphDestroy(g)); // the executable graph stands alone
  CK(cuGraphUpload(x, s));
  for (unsigned i = 0; i < rounds(20); i++) CK(cuGraphLaunch(x, s));
  CK(cuStreamSynchronize(s));
  digest(pinned, N * 8);
  show("captured");
  // The same graph with other parameters, while launches are under way.
  CUgraphExecUpdateResultInfo info;
  for (unsigned i = 0; i < rounds(6); i++) {
    g = capture_fork(100 + i, pinned);
    CK(cuGraphExecUpdate(x, g, &info));
    CK(cuGraphDestroy(g));
    CK(cuGraphLaunch(x, s));
    CK(cuGraphLaunch(x, s));
  }
  CK(cuGraphExecDestroy(x)); // while they are under way
  CK(cuStreamSynchronize(s));
  digest(pinned, N * 8);
  show("updated");
  CK(cuMemFreeHost(pinned));
}

static void by_hand(void) {
  CUgraph g, inner;
  CUgraphNode set, k1, k2, child, empty, box, first, last, flat_set, flat_copy;
  reset();
  CK(cuGraphCreate(&g, 0));
  CK(cuGraphCreate(&inner, 0));
  CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(combine, &d, &a, &c, &n);
  CUDA_MEMSET_NODE_PARAMS m = {.dst = c + 64, .value = 0x31, .elementSize = 1, .width = 17, .height = 5, .pitch = 128};
  CK(cuGraphAddKernelNode(&first, inner, NULL, 0, &p));
  p = KERNEL_NODE(combine, &c, &d, &a, &n);
  CK(cuGraphAddKernelNode(&last, inner, &first, 1, &p));
  CK(cuGraphAddMemsetNode(&set, g, NULL, 0, &m, context));
  struct { CUdeviceptr out, x, y; unsigned n; } packed = {b, a, c, N};
  size_t bytes = 28;
  p = KERNEL_NODE(combine, NULL);
  p.kernelParams = NULL;
  p.extra = (void *[]){CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
  CK(cuGraphAddKernelNode(&k1, g, &set, 1, &p));
  packed.out = 0; // the node has its own copy
  CK(cuGraphAddChildGraphNode(&child, g, &k1, 1, inner));
  CK(cuGraphAddEmptyNode(&empty, g, (CUgraphNode[]){child, k1}, 2));
  CUDA_MEMCPY3D q = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = c, .srcPitch = 256, .srcXInBytes = 8, .srcHeight = 4,
                     .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = a, .dstPitch = 512, .dstY = 1, .dstHeight = 4,
                     .WidthInBytes = 100, .Height = 3, .Depth = 2};
  CK(cuGraphAddMemcpyNode(&box, g, &empty, 1, &q, context));
  // What is flat can be changed after instantiation, boxes cannot.
  CUDA_MEMSET_NODE_PARAMS fm = {.dst = c + 400, .value = 0x1234, .elementSize = 2, .width = 33, .height = 1};
  CUDA_MEMCPY3D fc = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = d, .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = b + 1024,
                      .WidthInBytes = 300, .Height = 1, .Depth = 1};
  CK(cuGraphAddMemsetNode(&flat_set, g, &box, 1, &fm, context));
  CK(cuGraphAddMemcpyNode(&flat_copy, g, &flat_set, 1, &fc, context));
  p = KERNEL_NODE(combine, &b, &c, &a, &n);
  CK(cuGraphAddKernelNode(&k2, g, &flat_copy, 1, &p));
  CUgraphExec x = instantiate(g);
  for (unsigned i = 0; i < rounds(5); i++) CK(cuGraphLaunch(x, s));
  show("by hand");

  // Every call that changes an executable graph.
  p = KERNEL_NODE(combine, &d, &b, &a, &n);
  CK(cuGraphExecKernelNodeSetParams(x, k2, &p));
  CK(cuGraphLaunch(x, s));
  CK(cuGraphLaunch(x, s));
  fm.value = 0x77;
  CK(cuGraphExecMemsetNodeSetParams(x, flat_set, &fm, context));
  fc.WidthInBytes = 60;
  fc.dstDevice += 64;
  CK(cuGraphExecMemcpyNodeSetParams(x, flat_copy, &fc, context));
  CK(cuGraphLaunch(x, s));
  CK(cuGraphLaunch(x, s));
  show("changed");
  CK(cuGraphNodeSetEnabled(x, set, 0));
  CK(cuGraphNodeSetEnabled(x, k2, 0));
  CK(cuGraphLaunch(x, s));
  CK(cuGraphLaunch(x, s));
  show("disabled");
  CK(cuGraphNodeSetEnabled(x, set, 1));
  CK(cuGraphNodeSetEnabled(x, k2, 1));
  CK(cuGraphLaunch(x, s));
  CUgraphNodeParams any = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
  any.kernel = (CUDA_KERNEL_NODE_PARAMS_v3){.func = step, .gridDimX = 3, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 64, .blockDimY = 1, .blockDimZ = 1,
                                            .kernelParams = (void *[]){&d, &n, &k3}};
  CK(cuGraphExecNodeSetParams(x, k2, &any)); // another kernel
  CK(cuGraphLaunch(x, s));
  CK(cuGraphLaunch(x, s));
  show("another kernel");
  CUgraph other;
  CUgraphNode f2, l2;
  CK(cuGraphCreate(&other, 0));
  p = KERNEL_NODE(combine, &c, &a, &b, &n);
  CK(cuGraphAddKernelNode(&f2, other, NULL, 0, &p));
  CK(cuGraphAddKernelNode(&l2, other, &f2, 1, &p));
  CK(cuGraphExecChildGraphNodeSetParams(x, child, other));
  CK(cuGraphLaunch(x, s));
  CK(cuGraphLaunch(x, s));
  show("another child");
  CK(cuGraphDestroy(other));
  CK(cuGraphDestroy(inner));
  CK(cuGraphDestroy(g));
  CK(cuGraphExecDestroy(x));
}

// A graph by an attribute, by a CUkernel, and of a library.
static void handles(void) {
  CUlibrary library;
  CUkernel k;
  CUgraph g;
  CUgraphNode x1, x2;
  char *text = ptx_text("kernels.ptx");
  reset();
  CK(cuLibraryLoadData(&library, text, NULL, NULL, 0, NULL, NULL, 0));
  free(text);
  CK(cuLibraryGetKernel(&k, library, "combine"));
  CK(cuGraphCreate(&g, 0));
  CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(NULL, &c, &a, &d, &n);
  p.kern = k;
  p.ctx = context;
  CK(cuGraphAddKernelNode(&x1, g, NULL, 0, &p));
  p = KERNEL_NODE(combine, &b, &c, &a, &n);
  CK(cuGraphAddKernelNode(&x2, g, &x1, 1, &p));
  CUkernelNodeAttrValue v = {.cooperative = 1};
  CK(cuGraphKernelNodeSetAttribute(x2, CU_KERNEL_NODE_ATTRIBUTE_COOPERATIVE, &v));
  CUgraphExec x = instantiate(g);
  CK(cuGraphLaunch(x, s));
  CK(cuGraphLaunch(x, s));
  CK(cuStreamSynchronize(s));
  CK(cuGraphExecDestroy(x));
  CK(cuGraphDestroy(g));
  CK(cuLibraryUnload(library));
  show("handles");
}

// Order against everything else: events, the default streams, copies, launches, other streams, and the graph itself.
static void order(void) {
  CUgraph g;
  CUevent before, after;
  static unsigned back[N];
  reset();
  CK(cuEventCreate(&before, 0));
  CK(cuEventCreate(&after, 0));
  CK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
  LAUNCH(combine, N / 256, 256, 0, s, &b, &a, &c, &n);
  LAUNCH(combine, N / 256, 256, 0, s, &c, &b, &a, &n);
  CK(cuStreamEndCapture(s, &g));
  CUgraphExec x = instantiate(g);
  CK(cuGraphDestroy(g));
  for (unsigned i = 0; i < rounds(10); i++) {
    LAUNCH(step, N / 256, 256, 0, s, &a, &n, &k3);
    CK(cuEventRecord(before, s));
    CK(cuStreamWaitEvent(t, before, 0));
    CK(cuGraphLaunch(x, t));
    CK(cuGraphLaunch(x, s)); // behind its launch on the other stream
    CK(cuEventRecord(after, s));
    CK(cuStreamWaitEvent(CU_STREAM_PER_THREAD, after, 0));
    CK(cuGraphLaunch(x, CU_STREAM_PER_THREAD));
    CK(cuGraphLaunch(x, NULL));
    CK(cuMemcpyDtoH(back, c, sizeof back)); // the legacy stream's own order
    digest(back, sizeof back);
    CK(cuMemcpyHtoDAsync(a, back, 64, s));
    CK(cuStreamSynchronize(s));
  }
  CK(cuEventSynchronize(after));
  CK(cuCtxSynchronize());
  // Launched while a stream captures, a graph becomes a part of another one.
  CK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED));
  CK(cuGraphLaunch(x, s));
  LAUNCH(step, N / 256, 256, 0, s, &b, &n, &k3);
  CK(cuGraphLaunch(x, s));
  CK(cuStreamEndCapture(s, &g));
  CUgraphExec y = instantiate(g);
  CK(cuGraphDestroy(g));
  CK(cuGraphExecDestroy(x));
  for (int i = 0; i < 3; i++) CK(cuGraphLaunch(y, t));
  CK(cuStreamSynchronize(t));
  CK(cuGraphExecDestroy(y));
  CK(cuEventDestroy(before));
  CK(cuEventDestroy(after));
  show("order");
}

struct work {
  CUdeviceptr out;
  unsigned times;
  CUgraphExec shared;
};
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER; // the driver does not synchronise calls with one executable graph
static void *launcher(void *arg) {
  struct work *w = arg;
  CUgraph g;
  CUstream own;
  CK(cuCtxSetCurrent(context));
  CK(cuStreamCreate(&own, CU_STREAM_NON_BLOCKING));
  CUevent e;
  CK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  for (unsigned i = 0; i < w->times; i++) {
    CK(cuStreamBeginCapture(own, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    LAUNCH(step, 1, 256, 0, own, &w->out, &n, &k3);
    CK(cuMemsetD8Async(w->out + 128, (unsigned char)i, 64, own));
    CK(cuStreamEndCapture(own, &g));
    CUgraphExec x = instantiate(g);
    CK(cuGraphDestroy(g));
    CK(cuGraphLaunch(x, own));
    pthread_mutex_lock(&shared_lock);
    CK(cuGraphLaunch(w->shared, own)); // one that others launch too: additions, in whatever order
    pthread_mutex_unlock(&shared_lock);
    CK(cuGraphLaunch(x, own));
    CK(cuGraphExecDestroy(x));
  }
  CK(cuStreamSynchronize(own));
  CK(cuEventDestroy(e));
  CK(cuStreamDestroy(own));
  return NULL;
}

static void threads(void) {
  enum { THREADS = 4 };
  pthread_t thread[THREADS];
  struct work w[THREADS];
  CUgraph g;
  reset();
  CK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  LAUNCH(step, 1, 256, 0, s, &b, &n, &k3);
  CK(cuStreamEndCapture(s, &g));
  CUgraphExec shared = instantiate(g);
  CK(cuGraphDestroy(g));
  for (unsigned i = 0; i < THREADS; i++) {
    CK(cuMemAlloc(&w[i].out, N * 4));
    CK(cuMemsetD32Async(w[i].out, i, N, s));
    w[i].times = rounds(10);
    w[i].shared = shared;
  }
  CK(cuStreamSynchronize(s));
  for (unsigned i = 0; i < THREADS; i++) pthread_create(&thread[i], NULL, launcher, &w[i]);
  for (unsigned i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
  CK(cuGraphExecDestroy(shared));
  for (unsigned i = 0; i < THREADS; i++) {
    digest_device(w[i].out, N * 4);
    CK(cuMemFree(w[i].out));
  }
  show("threads");
}

static unsigned host_calls;
static void CUDA_CB count(void *arg) { host_calls += *(unsigned *)arg; }

// Nodes that the client's own stream runs between parts of a graph, in order with what is forwarded (nodes.c has more of them).
static void apart(void) {
  static unsigned pageable[N];
  unsigned three = 3, value = 0;
  CUgraph g;
  CUgraphNode k, h, e, q;
  CUevent event;
  reset();
  CK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(combine, &b, &a, &c, &n);
  CUDA_HOST_NODE_PARAMS host = {count, &three};
  CK(cuGraphCreate(&g, 0));
  CK(cuGraphAddKernelNode(&k, g, NULL, 0, &p));
  CK(cuGraphAddHostNode(&h, g, &k, 1, &host));
  CUgraphExec x = instantiate(g);
  CK(cuGraphDestroyNode(h));
  CK(cuGraphAddEventRecordNode(&e, g, &k, 1, event));
  CUgraphExec y = instantiate(g);
  CK(cuGraphDestroyNode(e));
  CUDA_MEMCPY3D copy = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = b, .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = pageable,
                        .WidthInBytes = sizeof pageable, .Height = 1, .Depth = 1};
  CK(cuGraphAddMemcpyNode(&q, g, &k, 1, &copy, context));
  CUgraphExec z = instantiate(g);
  CK(cuGraphDestroyNode(q));
  CUstreamBatchMemOpParams op = {.writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32, .address = d, .value = 99}};
  CUDA_BATCH_MEM_OP_NODE_PARAMS batch = {.ctx = context, .count = 1, .paramArray = &op};
  CK(cuGraphAddBatchMemOpNode(&q, g, &k, 1, &batch));
  CUgraphExec v = instantiate(g);
  CK(cuGraphDestroy(g));
  for (unsigned i = 0; i < rounds(3); i++) {
    LAUNCH(step, N / 256, 256, 0, s, &a, &n, &k3); // forwarded
    CK(cuGraphLaunch(x, s));
    LAUNCH(step, N / 256, 256, 0, s, &b, &n, &k3);
    CK(cuGraphLaunch(y, s));
    CK(cuStreamWaitEvent(t, event, 0));
    CK(cuStreamSynchronize(s));
    CK(cuGraphLaunch(z, t));
    CK(cuGraphLaunch(v, t));
    CK(cuStreamSynchronize(t));
    digest(pageable, sizeof pageable);
  }
  // One whose only hindrance is a parameter is forwarded once that is gone, and comes back.
  CK(cuMemcpyDtoH(&value, d, 4));
  CHECK(value == 99 && host_calls == 3 * rounds(3));
  CK(cuGraphExecDestroy(x));
  CK(cuGraphExecDestroy(y));
  CK(cuGraphExecDestroy(z));
  CK(cuGraphExecDestroy(v));
  CK(cuEventDestroy(event));
  show("apart");
}

// As XLA's command buffers do: nodes added by hand, library calls captured into the same graph, nodes changed before launches.
static void command_buffer(void) {
  CUgraph g, same;
  CUgraphNode k1, k2;
  CUstream side, traced;
  CUstreamCaptureStatus status;
  cuuint64_t id;
  CUevent fork, join, outside;
  const CUgraphNode *deps;
  size_t ndeps;
  reset();
  CK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
  CK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
  CK(cuEventCreate(&outside, CU_EVENT_DISABLE_TIMING));
  CK(cuStreamCreateWithPriority(&traced, CU_STREAM_NON_BLOCKING, 0)); // used for nothing before its capture
  CK(cuStreamCreate(&side, CU_STREAM_NON_BLOCKING));
  CK(cuGraphCreate(&g, 0));
  CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(combine, &b, &a, &c, &n);
  CK(cuGraphAddKernelNode(&k1, g, NULL, 0, &p));
  CK(cuEventRecord(outside, s));
  CK(cuStreamBeginCaptureToGraph(traced, g, &k1, NULL, 1, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  CK(cuThreadExchangeStreamCaptureMode(&mode)); // what a library does that loads its code now
  CUmodule lazily;
  CUfunction late, func;
  CUlibrary library;
  CUkernel kernel, combined;
  char *text = ptx_text("kernels.ptx");
  CK(cuModuleLoadData(&lazily, text));
  CK(cuModuleGetFunction(&late, lazily, "combine"));
  CK(cuLibraryLoadData(&library, text, NULL, NULL, 0, NULL, NULL, 0));
  CK(cuLibraryGetKernel(&kernel, library, "dynshared"));
  CK(cuLibraryGetKernel(&combined, library, "combine"));
  CK(cuKernelGetFunction(&func, kernel));
  free(text);
  int bytes = 0;
  CK(cuFuncGetAttribute(&bytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, func));
  CK(cuFuncSetAttribute(func, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 64 << 10));
  CK(cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 96 << 10, kernel, device));
  CUdeviceptr workspace, temporary;
  void *pinned;
  CK(cuMemAlloc(&workspace, N * 4));
  CK(cuMemAlloc(&temporary, 4 << 20));
  CK(cuMemsetD8Async(temporary, 1, 4 << 20, s)); // frees wait for other streams' work, and leave the capture alone
  CK(cuMemFree(temporary));
  CK(cuMemHostAlloc(&pinned, 4 << 20, 0));
  CK(cuMemFreeHost(pinned));
  CK(cuThreadExchangeStreamCaptureMode(&mode));
  CK(cuStreamGetCaptureInfo(traced, &status, &id, NULL, &deps, NULL, &ndeps));
  CHECK(status == CU_STREAM_CAPTURE_STATUS_ACTIVE && ndeps == 1 && deps[0] == k1);
  CK(cuMemsetD8Async(workspace, 0, N * 4, traced));
  CUlaunchAttribute attrs[2] = {{.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, .value.programmaticStreamSerializationAllowed = 1},
                                {.id = CU_LAUNCH_ATTRIBUTE_PRIORITY, .value.priority = 0}};
  CUlaunchConfig config = {.gridDimX = N / 256, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 256, .blockDimY = 1, .blockDimZ = 1, .hStream = traced,
                           .attrs = attrs, .numAttrs = 2};
  CK(cuLaunchKernelEx(&config, late, (void *[]){&workspace, &b, &a, &n}, NULL));
  CK(cuEventRecord(fork, traced));
  CK(cuStreamWaitEvent(side, fork, 0));
  CK(cuMemcpyDtoDAsync(d, workspace, N * 4, side));
  CK(cuLaunchKernel((CUfunction)combined, N / 256, 1, 1, 256, 1, 1, 0, side, (void *[]){&d, &a, &workspace, &n}, NULL)); // by its kernel's handle
  LAUNCH(combine, N / 256, 256, 0, traced, &c, &workspace, &b, &n);
  CK(cuEventRecord(join, side));
  CK(cuStreamWaitEvent(traced, join, 0));
  CK(cuMemsetD32Async(workspace, 5, 16, traced));
  CK(cuStreamIsCapturing(traced, &status));
  CHECK(status == CU_STREAM_CAPTURE_STATUS_ACTIVE);
  CK(cuStreamGetCaptureInfo(traced, &status, &id, NULL, &deps, NULL, &ndeps));
  CUgraphNode ends[4];
  CHECK(ndeps >= 1 && ndeps <= 4);
  memcpy(ends, deps, ndeps * sizeof *ends);
  size_t nends = ndeps;
  CK(cuStreamEndCapture(traced, &same));
  CHECK(same == g);
  p = KERNEL_NODE(combine, &a, &d, &workspace, &n);
  CK(cuGraphAddKernelNode(&k2, g, ends, nends, &p));
  CUgraphExec x = instantiate(g);
  CK(cuStreamWaitEvent(traced, outside, 0));
  for (unsigned i = 0; i < rounds(8); i++) { // addresses alternate between two
    CUdeviceptr out = i % 2 ? b : c;
    p = KERNEL_NODE(combine, &out, &d, &workspace, &n);
    CK(cuGraphExecKernelNodeSetParams(x, k2, &p));
    CK(cuGraphLaunch(x, traced));
  }
  CK(cuStreamSynchronize(traced));
  digest_device(workspace, N * 4);
  CK(cuGraphExecDestroy(x));
  CK(cuGraphDestroy(g));
  CK(cuMemFree(workspace));
  CK(cuModuleUnload(lazily));
  CK(cuLibraryUnload(library));
  CK(cuStreamDestroy(side));
  CK(cuStreamDestroy(traced));
  show("command buffer");
}

// What a capture forbids is the driver's to say, and spoils nothing else.
static void forbidden(void) {
  CUgraph g;
  reset();
  CK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED));
  CK(cuMemsetD32Async(b, 1, N, s));
  CHECK(cuStreamSynchronize(s) == CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  CHECK(cuMemsetD32Async(b, 1, N, s) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  CHECK(cuStreamEndCapture(s, &g) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED && g == NULL);
  LAUNCH(step, N / 256, 256, 0, s, &a, &n, &k3);
  show("forbidden");
}

static void many(void) {
  CUgraph g;
  CUgraphNode last, node;
  reset();
  CK(cuGraphCreate(&g, 0));
  for (unsigned i = 0; i < rounds(400); i++) {
    CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(step, &a, &n, &i);
    p.gridDimX = 1;
    p.blockDimX = 32;
    CK(cuGraphAddKernelNode(&node, g, &last, i != 0, &p));
    last = node;
  }
  CUgraphExec x = instantiate(g);
  CK(cuGraphDestroy(g));
  CK(cuGraphLaunch(x, s));
  CK(cuGraphLaunch(x, s));
  CK(cuStreamSynchronize(s));
  CK(cuGraphExecDestroy(x));
  show("many");
}

int main(void) {
  static const struct { const char *name; void (*f)(void); } parts[] = {
      {"captured", captured}, {"by-hand", by_hand}, {"handles", handles}, {"order", order}, {"threads", threads}, {"apart", apart},
      {"command-buffer", command_buffer}, {"forbidden", forbidden}, {"many", many}};
  open_device();
  fill = function("fill");
  step = function("step");
  combine = function("combine");
  CK(cuMemAlloc(&a, N * 4));
  CK(cuMemAlloc(&b, N * 4));
  CK(cuMemAlloc(&c, N * 4));
  CK(cuMemAlloc(&d, N * 4));
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CK(cuStreamCreate(&t, CU_STREAM_DEFAULT));
  const char *part = getenv("E2E_PART");
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    if (part == NULL || strcmp(part, parts[i].name) == 0) parts[i].f();
  return finish("graphs");
}
