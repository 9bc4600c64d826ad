// Graphs with nodes that are no work for the SMs: events that are recorded and waited for inside, host functions, batched memory
// operations, copies of memory that only this process has; captured and built by hand, changed, launched by several threads, destroyed
// early. $E2E_PART names one part; without it all run.
#include "client.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { N = 1024, BUFFERS = 4 };
static CUfunction fill, step, combine;
static CUdeviceptr buffer[BUFFERS], flag;
static CUstream s, t;
static unsigned n = N, k3 = 3;

#define KERNEL_NODE(f, ...)                                                                                                  \
  (CUDA_KERNEL_NODE_PARAMS) {                                                                                                \
    .func = (f), .gridDimX = N / 256, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 256, .blockDimY = 1, .blockDimZ = 1,        \
    .kernelParams = (void *[]) { __VA_ARGS__ }                                                                               \
  }
#define COMBINE(stream, out, x, y) LAUNCH(combine, N / 256, 256, 0, stream, &(out), &(x), &(y), &n)

static void reset(void) {
  unsigned by = seed();
  for (int i = 1; i < BUFFERS; i++) CK(cuMemsetD32Async(buffer[i], (unsigned)i, N, s));
  CK(cuMemsetD32Async(flag, 0, 1, s));
  LAUNCH(fill, N / 256, 256, 0, s, &buffer[0], &n, &by);
  CK(cuStreamSynchronize(s));
}

static void show(const char *what) {
  CK(cuCtxSynchronize());
  for (int i = 0; i < BUFFERS; i++) digest_device(buffer[i], N * 4);
  printf("%s %016llx\n", what, (unsigned long long)digest_state);
}

static CUgraphExec instantiate(CUgraph g) {
  CUgraphExec x;
  CK(cuGraphInstantiate(&x, g, 0));
  return x;
}

// ---- events ----

// Recorded at the start, in the middle and at the end, as profilers and torch.cuda.Event(external=True) do; waited for by streams
// outside, and inside for work outside.
static void events(void) {
  CUgraph g;
  CUevent first, middle, last, outside, never;
  float ms = -1;
  reset();
  CK(cuEventCreate(&first, CU_EVENT_DEFAULT));
  CK(cuEventCreate(&middle, CU_EVENT_DISABLE_TIMING));
  CK(cuEventCreate(&last, CU_EVENT_DEFAULT));
  CK(cuEventCreate(&outside, CU_EVENT_DISABLE_TIMING));
  CK(cuEventCreate(&never, CU_EVENT_DISABLE_TIMING));
  CK(cuEventRecord(outside, t));
  CK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  CK(cuEventRecordWithFlags(first, s, CU_EVENT_RECORD_EXTERNAL));
  CK(cuStreamWaitEvent(s, outside, CU_EVENT_WAIT_EXTERNAL));
  CK(cuStreamWaitEvent(s, never, CU_EVENT_WAIT_EXTERNAL));
  COMBINE(s, buffer[1], buffer[0], buffer[2]);
  CK(cuEventRecordWithFlags(middle, s, CU_EVENT_RECORD_EXTERNAL));
  COMBINE(s, buffer[3], buffer[1], buffer[0]);
  CK(cuEventRecordWithFlags(last, s, CU_EVENT_RECORD_EXTERNAL));
  CK(cuStreamEndCapture(s, &g));
  CHECK(cuEventQuery(outside) != CUDA_ERROR_CAPTURED_EVENT);
  CUgraphExec x = instantiate(g);
  CK(cuGraphDestroy(g));
  for (unsigned i = 0; i < rounds(6); i++) {
    LAUNCH(step, N / 256, 256, 0, t, &buffer[0], &n, &k3);
    CK(cuEventRecord(outside, t));
    CK(cuGraphLaunch(x, s)); // behind that step of the other stream
    CK(cuStreamWaitEvent(t, middle, 0));
    CK(cuMemcpyDtoDAsync(buffer[2], buffer[1], N * 4, t)); // behind the middle: the graph's last kernel reads neither
    CK(cuEventSynchronize(middle));
    CK(cuEventSynchronize(last));
    CHECK(cuEventQuery(first) == CUDA_SUCCESS && cuEventQuery(last) == CUDA_SUCCESS);
    CK(cuEventElapsedTime(&ms, first, last));
    CHECK(ms >= 0);
    CK(cuEventRecord(outside, t));
    CK(cuStreamWaitEvent(s, outside, 0));
  }
  show("events");
  // By hand, with other events set later; and an event that is recorded eagerly again between launches.
  CUgraphNode r, k, w;
  CUgraphExec y;
  CK(cuGraphCreate(&g, 0));
  CK(cuGraphAddEventWaitNode(&w, g, NULL, 0, never));
  CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(combine, &buffer[2], &buffer[1], &buffer[3], &n);
  CK(cuGraphAddKernelNode(&k, g, &w, 1, &p));
  CK(cuGraphAddEventRecordNode(&r, g, &k, 1, middle));
  y = instantiate(g);
  CK(cuGraphLaunch(y, s));
  CK(cuStreamWaitEvent(t, middle, 0));
  LAUNCH(step, N / 256, 256, 0, t, &buffer[2], &n, &k3);
  CK(cuEventRecord(outside, t));
  CK(cuGraphExecEventRecordNodeSetEvent(y, r, last));
  CK(cuGraphExecEventWaitNodeSetEvent(y, w, outside));
  CK(cuGraphLaunch(y, s));
  CK(cuEventSynchronize(last));
  digest_device(buffer[2], N * 4);
  CK(cuEventRecord(middle, s));
  CUgraphNodeParams any = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD};
  any.eventRecord.event = first;
  CK(cuGraphExecNodeSetParams(y, r, &any));
  CK(cuGraphLaunch(y, t));
  CK(cuEventSynchronize(first));
  CK(cuEventSynchronize(middle));
  CK(cuGraphExecDestroy(x));
  CK(cuGraphExecDestroy(y));
  CK(cuGraphDestroy(g));
  CK(cuEventDestroy(first));
  CK(cuEventDestroy(middle));
  CK(cuEventDestroy(last));
  CK(cuEventDestroy(outside));
  CK(cuEventDestroy(never));
  show("events by hand");
}

// ---- host functions ----

struct note {
  unsigned *from, *to, by, calls;
};
static void CUDA_CB change(void *arg) {
  struct note *p = arg;
  p->calls++;
  for (unsigned i = 0; i < N; i++) p->to[i] = p->from[i] * p->by + i;
}

// What the GPU computed, changed on the host, and on with it; in memory that the driver pinned, and in any other.
static void host(void) {
  unsigned *pinned;
  static unsigned pageable[2 * N];
  CK(cuMemHostAlloc((void **)&pinned, 2 * N * 4, 0));
  for (int which = 0; which < 2; which++) {
    unsigned *memory = which == 0 ? pinned : pageable;
    struct note a = {memory, memory + N, 5, 0}, b = {memory, memory + N, 7, 0};
    CUgraph g;
    CUgraphExecUpdateResultInfo info;
    CUgraphExec x = NULL;
    reset();
    for (int version = 0; version < 2; version++) {
      CK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
      COMBINE(s, buffer[1], buffer[0], buffer[2]);
      CK(cuMemcpyDtoHAsync(memory, buffer[1], N * 4, s));
      CK(cuLaunchHostFunc(s, change, version == 0 ? &a : &b));
      CK(cuMemcpyHtoDAsync(buffer[0], memory + N, N * 4, s)); // what the function wrote, not what was there at the launch
      COMBINE(s, buffer[2], buffer[0], buffer[1]);
      CK(cuLaunchHostFunc(s, change, &a)); // the last node
      CK(cuStreamEndCapture(s, &g));
      if (version == 0) {
        x = instantiate(g);
        for (unsigned i = 0; i < rounds(4); i++) CK(cuGraphLaunch(x, s)); // under way during the update
      } else {
        CK(cuGraphExecUpdate(x, g, &info));
        CK(cuGraphLaunch(x, t)); // behind those on the other stream
      }
      CK(cuGraphDestroy(g));
    }
    CK(cuGraphLaunch(x, s));
    CK(cuGraphExecDestroy(x)); // while it is under way
    CK(cuStreamSynchronize(s));
    CHECK(a.calls == 2 * rounds(4) + 2 && b.calls == 2);
    digest(memory, 2 * N * 4);
    show(which == 0 ? "host functions" : "host functions and pageable memory");
  }
  // A function that was set later, and one in a graph within a graph.
  struct note a = {pinned, pinned + N, 3, 0}, b = {pinned + N, pinned, 3, 0};
  CUgraph g, inner;
  CUgraphNode k, f, child;
  CUDA_HOST_NODE_PARAMS h = {change, &a};
  CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(combine, &buffer[2], &buffer[1], &buffer[0], &n);
  CK(cuGraphCreate(&inner, 0));
  CK(cuGraphAddHostNode(&f, inner, NULL, 0, &h));
  CK(cuGraphCreate(&g, 0));
  CK(cuGraphAddKernelNode(&k, g, NULL, 0, &p));
  CK(cuGraphAddChildGraphNode(&child, g, &k, 1, inner));
  p = KERNEL_NODE(combine, &buffer[1], &buffer[2], &buffer[0], &n);
  CK(cuGraphAddKernelNode(&k, g, &child, 1, &p));
  h.userData = &b;
  CK(cuGraphAddHostNode(&f, g, &k, 1, &h));
  CUgraphExec x = instantiate(g);
  CK(cuGraphLaunch(x, s));
  h.userData = &a;
  CK(cuGraphExecHostNodeSetParams(x, f, &h));
  CK(cuGraphLaunch(x, s));
  CK(cuStreamSynchronize(s));
  CHECK(a.calls == 3 && b.calls == 1);
  CK(cuGraphExecDestroy(x));
  CK(cuGraphDestroy(g));
  CK(cuGraphDestroy(inner));
  digest(pinned, 2 * N * 4);
  CK(cuMemFreeHost(pinned));
  show("host functions by hand");
}

// ---- memory operations ----

static void memops(void) {
  CUgraph g;
  CUgraphNode write, wait, k, set;
  unsigned value = 0;
  reset();
  // A value that another stream writes after the launch, waited for beside a memset.
  CUstreamBatchMemOpParams until = {.waitValue = {.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32, .address = flag, .value = 1, .flags = CU_STREAM_WAIT_VALUE_GEQ}};
  CUstreamBatchMemOpParams done[2] = {{.writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32, .address = buffer[3], .value = 77}},
                                      {.writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32, .address = buffer[3] + 4, .value = 78}}};
  CUDA_BATCH_MEM_OP_NODE_PARAMS batch = {.ctx = context, .count = 1, .paramArray = &until};
  CUDA_MEMSET_NODE_PARAMS m = {.dst = buffer[2], .value = 9, .elementSize = 4, .width = 1, .height = 1};
  CK(cuGraphCreate(&g, 0));
  CK(cuGraphAddBatchMemOpNode(&wait, g, NULL, 0, &batch));
  CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(combine, &buffer[1], &buffer[0], &buffer[2], &n);
  CK(cuGraphAddKernelNode(&k, g, &wait, 1, &p));
  CK(cuGraphAddMemsetNode(&set, g, NULL, 0, &m, context)); // beside the wait, before the kernel
  CK(cuGraphAddDependencies(g, &set, &k, NULL, 1));
  batch = (CUDA_BATCH_MEM_OP_NODE_PARAMS){.ctx = context, .count = 2, .paramArray = done};
  CK(cuGraphAddBatchMemOpNode(&write, g, &k, 1, &batch));
  CUgraphExec x = instantiate(g);
  for (unsigned i = 0; i < rounds(3); i++) {
    CK(cuGraphLaunch(x, s));
    CK(cuStreamWriteValue32(t, flag, 1, 0));
    CK(cuStreamSynchronize(s));
    CK(cuMemcpyDtoH(&value, buffer[3], 4));
    CHECK(value == 77);
    CK(cuMemsetD32Async(buffer[3], i, N, s));
    CK(cuMemsetD32Async(flag, 0, 1, t)); // before the next write of the same stream: cuMemsetD32 itself waits for nothing
    CK(cuStreamSynchronize(s));
    CK(cuStreamSynchronize(t));
  }
  done[0].writeValue.value = 99;
  CK(cuGraphExecBatchMemOpNodeSetParams(x, write, &batch));
  CK(cuStreamWriteValue32(t, flag, 1, 0));
  CK(cuGraphLaunch(x, s));
  CK(cuStreamSynchronize(s));
  CK(cuMemcpyDtoH(&value, buffer[3], 4));
  CHECK(value == 99);
  CK(cuGraphExecDestroy(x));
  CK(cuGraphDestroy(g));
  // Captured, as libraries for symmetric memory do.
  CK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  COMBINE(s, buffer[1], buffer[0], buffer[2]);
  CK(cuStreamWriteValue32(s, buffer[2], 5, 0));
  CK(cuStreamWaitValue32(s, buffer[2], 5, CU_STREAM_WAIT_VALUE_EQ));
  COMBINE(s, buffer[3], buffer[1], buffer[2]);
  CK(cuStreamEndCapture(s, &g));
  x = instantiate(g);
  CK(cuGraphDestroy(g));
  CK(cuGraphLaunch(x, s));
  CK(cuGraphLaunch(x, t));
  CK(cuStreamSynchronize(t));
  CK(cuGraphExecDestroy(x));
  show("memory operations");
}

// ---- copies ----

// Memory that only this process has: pageable, and registered by the program.
static void copies(void) {
  static unsigned pageable[N];
  unsigned *registered = aligned_alloc(4096, 2 * N * 4);
  CUgraph g;
  CUgraphNode in, k, out, back;
  reset();
  CK(cuMemHostRegister(registered, 2 * N * 4, 0));
  for (unsigned i = 0; i < 2 * N; i++) registered[i] = i * 7;
  for (unsigned i = 0; i < N; i++) pageable[i] = i * 5;
  CUDA_MEMCPY3D c = {.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = pageable, .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = buffer[0],
                     .WidthInBytes = N * 4, .Height = 1, .Depth = 1};
  CK(cuGraphCreate(&g, 0));
  CK(cuGraphAddMemcpyNode(&in, g, NULL, 0, &c, context));
  CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(combine, &buffer[1], &buffer[0], &buffer[2], &n);
  CK(cuGraphAddKernelNode(&k, g, &in, 1, &p));
  c = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = buffer[1], .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = registered,
                      .srcPitch = 512, .dstPitch = 512, .WidthInBytes = 300, .Height = 4, .Depth = 1};
  CK(cuGraphAddMemcpyNode(&out, g, &k, 1, &c, context));
  c = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = registered, .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = buffer[2],
                      .WidthInBytes = N * 4, .Height = 1, .Depth = 1};
  CK(cuGraphAddMemcpyNode(&back, g, &out, 1, &c, context));
  CUgraphExec x = instantiate(g);
  for (unsigned i = 0; i < rounds(4); i++) {
    CK(cuGraphLaunch(x, s));
    COMBINE(s, buffer[3], buffer[2], buffer[1]);
    CK(cuStreamSynchronize(s));
    pageable[i] += 3; // read when the node runs
  }
  show("copies");
  c.srcHost = registered + N;
  CK(cuGraphExecMemcpyNodeSetParams(x, back, &c, context));
  CK(cuGraphLaunch(x, s));
  CK(cuGraphNodeSetEnabled(x, in, 0));
  CK(cuGraphNodeSetEnabled(x, back, 0));
  CK(cuMemsetD32Async(buffer[2], 4, N, s));
  CK(cuGraphLaunch(x, s));
  CK(cuStreamSynchronize(s));
  digest(registered, 2 * N * 4);
  CK(cuGraphExecDestroy(x));
  CK(cuGraphDestroy(g));
  CK(cuMemHostUnregister(registered));
  free(registered);
  show("copies changed");
}

// ---- everything at once ----

static uint64_t dice_state;
static unsigned dice(unsigned sides) {
  dice_state = dice_state * 6364136223846793005ull + 1442695040888963407ull;
  return (unsigned)(dice_state >> 33) % sides;
}

static unsigned shared_host[N];
static struct note scramble = {shared_host, shared_host, 11, 0};

// Random graphs whose nodes follow one another only where they use the same buffer: any order that the edges allow gives the same.
static void mixed(void) {
  enum { NODES = 40, HOST = BUFFERS, RESOURCES };
  CUevent e[4];
  for (int i = 0; i < 4; i++) CK(cuEventCreate(&e[i], i < 2 ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING));
  for (unsigned round = 0; round < rounds(8); round++) {
    CUgraph g;
    CUgraphNode last[RESOURCES], all[NODES];
    bool used[RESOURCES] = {false};
    memset(last, 0, sizeof last);
    dice_state = round + 100 * seed();
    reset();
    for (unsigned i = 0; i < N; i++) shared_host[i] = i;
    CK(cuEventRecord(e[3], t));
    CK(cuGraphCreate(&g, 0));
    for (unsigned i = 0; i < NODES; i++) {
      unsigned kind = dice(8), a = dice(BUFFERS), b = dice(BUFFERS), touched[3] = {a, b, a}, ntouched = 2;
      CUgraphNode deps[4];
      size_t ndeps = 0;
      if (kind == 2 || kind == 3) touched[2] = HOST, touched[0] = a, touched[1] = a, ntouched = 3;
      if (kind == 4) touched[0] = touched[1] = HOST;
      if (kind >= 5) ntouched = 1;
      for (unsigned k = 0; k < ntouched; k++) {
        bool twice = !used[touched[k]];
        for (size_t d = 0; d < ndeps; d++) twice |= deps[d] == last[touched[k]];
        if (!twice) deps[ndeps++] = last[touched[k]];
      }
      CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(combine, &buffer[a], &buffer[b], &buffer[a], &n);
      CUDA_MEMSET_NODE_PARAMS m = {.dst = buffer[a] + 16 * i, .value = i, .elementSize = 4, .width = 8, .height = 1};
      CUDA_MEMCPY3D c = {.WidthInBytes = N * 4, .Height = 1, .Depth = 1};
      c.srcMemoryType = kind == 2 ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
      c.dstMemoryType = kind == 2 ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
      c.srcHost = c.dstHost = shared_host;
      c.srcDevice = c.dstDevice = buffer[a];
      CUDA_HOST_NODE_PARAMS h = {change, &scramble};
      CUstreamBatchMemOpParams op = {.writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32, .address = buffer[a] + 4 * i, .value = i}};
      CUDA_BATCH_MEM_OP_NODE_PARAMS batch = {.ctx = context, .count = 1, .paramArray = &op};
      switch (kind) {
      case 0:
      case 1: CK(cuGraphAddKernelNode(&all[i], g, deps, ndeps, &p)); break;
      case 2:
      case 3: CK(cuGraphAddMemcpyNode(&all[i], g, deps, ndeps, &c, context)); break;
      case 4: CK(cuGraphAddHostNode(&all[i], g, deps, ndeps, &h)); break;
      case 5: CK(cuGraphAddMemsetNode(&all[i], g, deps, ndeps, &m, context)); break;
      case 6: CK(cuGraphAddBatchMemOpNode(&all[i], g, deps, ndeps, &batch)); break;
      default:
        if (dice(2) == 0) CK(cuGraphAddEventRecordNode(&all[i], g, deps, ndeps, e[dice(3)]));
        else CK(cuGraphAddEventWaitNode(&all[i], g, deps, ndeps, e[3]));
      }
      for (unsigned k = 0; k < ntouched; k++) {
        last[touched[k]] = all[i];
        used[touched[k]] = true;
      }
    }
    CUgraphExec x = instantiate(g);
    CK(cuGraphDestroy(g));
    CK(cuGraphLaunch(x, s));
    CK(cuGraphLaunch(x, t));
    CK(cuGraphLaunch(x, round % 2 == 0 ? s : NULL));
    CK(cuGraphExecDestroy(x));
    CK(cuCtxSynchronize());
    digest(shared_host, sizeof shared_host);
    show("mixed");
  }
  for (int i = 0; i < 4; i++) CK(cuEventDestroy(e[i]));
}

// ---- threads ----

// A graph is one thing to whatever else is on its stream: these share memory that each graph writes first and reads last.
struct work {
  CUdeviceptr out;
  unsigned value, times;
  _Atomic unsigned calls;
  CUgraphExec shared;
};
static void CUDA_CB called(void *arg) { atomic_fetch_add((_Atomic unsigned *)arg, 1); }
static _Atomic unsigned shared_calls;
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER; // the driver does not synchronise calls with one executable graph

static void *launcher(void *arg) {
  struct work *w = arg;
  CUgraph g;
  CUgraphNode set, f, add;
  CK(cuCtxSetCurrent(context));
  CUDA_MEMSET_NODE_PARAMS m = {.dst = buffer[3], .value = w->value, .elementSize = 4, .width = N, .height = 1};
  CUDA_HOST_NODE_PARAMS h = {called, &w->calls};
  CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(combine, &w->out, &buffer[3], &w->out, &n);
  CK(cuGraphCreate(&g, 0));
  CK(cuGraphAddMemsetNode(&set, g, NULL, 0, &m, context));
  CK(cuGraphAddHostNode(&f, g, &set, 1, &h));
  CK(cuGraphAddKernelNode(&add, g, &f, 1, &p));
  CUgraphExec x = instantiate(g);
  CK(cuGraphDestroy(g));
  for (unsigned i = 0; i < w->times; i++) {
    CK(cuGraphLaunch(x, s)); // the same stream for all of them
    CK(cuMemsetD32Async(buffer[3], 12345, N, s));
    pthread_mutex_lock(&shared_lock);
    CK(cuGraphLaunch(w->shared, i % 2 == 0 ? s : t));
    pthread_mutex_unlock(&shared_lock);
  }
  CK(cuGraphExecDestroy(x));
  return NULL;
}

static void threads(void) {
  enum { THREADS = 3 };
  pthread_t thread[THREADS];
  struct work w[THREADS];
  CUgraph g;
  CUgraphNode k, f;
  reset();
  CUDA_HOST_NODE_PARAMS h = {called, &shared_calls};
  CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(step, &buffer[2], &n, &k3);
  CK(cuGraphCreate(&g, 0));
  CK(cuGraphAddKernelNode(&k, g, NULL, 0, &p));
  CK(cuGraphAddHostNode(&f, g, &k, 1, &h));
  CUgraphExec shared = instantiate(g);
  CK(cuGraphDestroy(g));
  for (unsigned i = 0; i < THREADS; i++) {
    w[i] = (struct work){.value = i + 1, .times = rounds(8), .shared = shared};
    CK(cuMemAlloc(&w[i].out, N * 4));
    CK(cuMemsetD32Async(w[i].out, i, N, s));
  }
  for (unsigned i = 0; i < THREADS; i++) pthread_create(&thread[i], NULL, launcher, &w[i]);
  for (unsigned i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
  CK(cuGraphExecDestroy(shared));
  CK(cuCtxSynchronize());
  for (unsigned i = 0; i < THREADS; i++) {
    CHECK(w[i].calls == w[i].times);
    digest_device(w[i].out, N * 4);
    CK(cuMemFree(w[i].out));
  }
  CHECK(shared_calls == THREADS * rounds(8));
  CK(cuMemsetD32(buffer[3], 0, N)); // whoever was last
  show("threads");
}

// ---- what stays native ----

// An event that the graph itself records and waits for, and more steps than pay.
static void natively(void) {
  CUgraph g;
  CUgraphNode r, k, w, f;
  CUevent e;
  struct note a = {shared_host, shared_host, 3, 0};
  CUDA_HOST_NODE_PARAMS h = {change, &a};
  reset();
  CK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  CK(cuGraphCreate(&g, 0));
  CUDA_KERNEL_NODE_PARAMS p = KERNEL_NODE(combine, &buffer[1], &buffer[0], &buffer[2], &n);
  CK(cuGraphAddKernelNode(&k, g, NULL, 0, &p));
  CK(cuGraphAddEventRecordNode(&r, g, &k, 1, e));
  CK(cuGraphAddEventWaitNode(&w, g, &r, 1, e));
  CK(cuGraphAddKernelNode(&k, g, &w, 1, &p));
  CUgraphExec x = instantiate(g);
  CK(cuGraphDestroy(g));
  // The event is recorded in the executor, then by the driver.
  LAUNCH(step, N / 256, 256, 0, s, &buffer[0], &n, &k3);
  CK(cuEventRecord(e, s));
  CK(cuGraphLaunch(x, s));
  CK(cuStreamWaitEvent(t, e, 0));
  LAUNCH(step, N / 256, 256, 0, t, &buffer[3], &n, &k3);
  CK(cuEventRecord(e, t));
  CK(cuStreamWaitEvent(s, e, 0));
  CK(cuGraphLaunch(x, s));
  CK(cuEventSynchronize(e));
  CK(cuStreamSynchronize(s));
  CK(cuGraphExecDestroy(x));
  CK(cuEventDestroy(e));
  CK(cuGraphCreate(&g, 0));
  CK(cuGraphAddKernelNode(&k, g, NULL, 0, &p));
  for (unsigned i = 0; i < 100; i++) {
    CK(cuGraphAddHostNode(&f, g, &k, 1, &h));
    CK(cuGraphAddKernelNode(&k, g, &f, 1, &p));
  }
  x = instantiate(g);
  CK(cuGraphDestroy(g));
  CK(cuGraphLaunch(x, s));
  CK(cuStreamSynchronize(s));
  CHECK(a.calls == 100);
  CK(cuGraphExecDestroy(x));
  show("natively");
}

int main(void) {
  static const struct { const char *name; void (*f)(void); } parts[] = {
      {"events", events}, {"host", host}, {"memops", memops}, {"copies", copies}, {"mixed", mixed}, {"threads", threads}, {"natively", natively}};
  open_device();
  fill = function("fill");
  step = function("step");
  combine = function("combine");
  for (int i = 0; i < BUFFERS; i++) CK(cuMemAlloc(&buffer[i], N * 4));
  CK(cuMemAlloc(&flag, 512));
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CK(cuStreamCreate(&t, CU_STREAM_NON_BLOCKING));
  const char *part = getenv("E2E_PART");
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    if (part == NULL || strcmp(part, parts[i].name) == 0) parts[i].f();
  return finish("nodes");
}
