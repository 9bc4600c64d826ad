// Graphs, one behaviour a run: graphs NAME. What a description looks like, what is native, and how launches are ordered.
#include "graphfake.h"

// A node of each kind, in an order that the driver's list does not show, one of them behind more than a record can name.
static void records(void) {
  struct graph *g = graph_new(), *inner = graph_new();
  struct node *last = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *wide[200];
  struct node *child = add(g, CU_GRAPH_NODE_TYPE_GRAPH);
  struct node *a = add(inner, CU_GRAPH_NODE_TYPE_MEMSET), *b = add(inner, CU_GRAPH_NODE_TYPE_MEMCPY), *c = add(inner, CU_GRAPH_NODE_TYPE_EMPTY);
  (void)c;
  edge(inner, a, b);
  child->child = (CUgraph)inner;
  for (int i = 0; i < 200; i++) edge(g, wide[i] = add(g, CU_GRAPH_NODE_TYPE_MEMSET), last);
  edge(g, child, wide[0]);
  CUgraphExec x = make(g);
  CHECK(given == 1, "%u graphs were given", given);
  graph_free(g); // the template may go at once
  graph_free(inner);
  const struct heddle_wire_record *r[300];
  uint32_t n = check_records(1, r, 300), memsets = 0, copies = 0, launches = 0, joins = 0, first = 0;
  for (uint32_t i = 1; i <= n; i++) {
    switch (r[i]->kind) {
    case HEDDLE_WIRE_KIND_MEMSET: memsets++; break;
    case HEDDLE_WIRE_KIND_COPY: copies++; CHECK(r[dep(r[i], 0)]->kind == HEDDLE_WIRE_KIND_MEMSET && r[i]->ndeps == 1, "the copy follows the memset"); break;
    case HEDDLE_WIRE_KIND_LAUNCH: launches++; first = i; break;
    default: joins++; CHECK(((const struct heddle_wire_event_mark *)body(r[i]))->slot == HEDDLE_SCRATCH_SLOT, "kind %u", r[i]->kind);
    }
  }
  CHECK(memsets == 201 && copies == 1 && launches == 1, "%u memsets, %u copies, %u launches", memsets, copies, launches);
  CHECK(joins == 2 + 4, "%u joins", joins); // an empty node, the child's end, and four in front of the kernel
  CHECK(first == n && r[n]->ndeps == 4, "the kernel is record %u of %u behind %u", first, n, r[n]->ndeps);
  const struct heddle_wire_launch *w = body(r[n]);
  CHECK(w->kernel == 7 && w->grid_x == 2 && w->block_x == 32 && w->param_bytes == 20 && memcmp(w + 1, arguments, 20) == 0, "the launch");
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(launched[1] == 1 && natively == 0, "launched %u times, natively %u", launched[1], natively);
  OK(heddle_hook_cuGraphExecDestroy(x));
  CHECK(drops == 1, "%u drops", drops);
}

static uint32_t first_kind(uint32_t id) {
  const struct heddle_wire_record *r[8];
  check_records(id, r, 8);
  return r[1]->kind;
}

static void kinds(void) {
  struct graph *g = graph_new();
  CUgraphExec x = make(g);
  CHECK(given == 1 && kept[1].nodes == 1 && first_kind(1) == HEDDLE_WIRE_KIND_EVENT, "an empty graph");
  go(x, CU_STREAM_LEGACY);
  struct node *k = add(g, CU_GRAPH_NODE_TYPE_KERNEL);
  size_t bytes = sizeof arguments;
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, arguments, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
  k->kernel.kernelParams = NULL;
  k->kernel.extra = extra;
  k->kernel.func = NULL;
  k->kernel.kern = (CUkernel)KERNEL;
  k->cluster = 2;
  k->cooperative = true;
  make(g);
  const struct heddle_wire_record *r[8];
  CHECK(given == 2 && check_records(2, r, 8) == 1, "a kernel");
  const struct heddle_wire_launch *w = body(r[1]);
  CHECK(w->flags == (HEDDLE_WIRE_LAUNCH_FLAG_CLUSTER | HEDDLE_WIRE_LAUNCH_FLAG_COOPERATIVE) && w->cluster_x == 2 && w->cluster_y == 1, "its attributes");
  CHECK(memcmp(w + 1, arguments, 20) == 0, "parameters in a buffer");
  k->type = CU_GRAPH_NODE_TYPE_MEMCPY;
  k->copy.Height = 3;
  k->copy.srcPitch = k->copy.dstPitch = 128;
  k->copy.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
  k->copy.dstDevice = (CUdeviceptr)(uintptr_t)fake_shared_host;
  make(g);
  CHECK(given == 3 && first_kind(3) == HEDDLE_WIRE_KIND_COPY3D, "a box to shared host memory");
  graph_free(g);
}

static void native(void) {
  static const struct { CUgraphNodeType type; enum heddle_native_reason why; } types[] = {
      {CU_GRAPH_NODE_TYPE_MEM_ALLOC, HEDDLE_NATIVE_GRAPH_MEMORY}, {CU_GRAPH_NODE_TYPE_MEM_FREE, HEDDLE_NATIVE_GRAPH_MEMORY},
      {CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL, HEDDLE_NATIVE_GRAPH}, {CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT, HEDDLE_NATIVE_GRAPH},
      {CU_GRAPH_NODE_TYPE_CONDITIONAL, HEDDLE_NATIVE_GRAPH},      {(CUgraphNodeType)99, HEDDLE_NATIVE_GRAPH}};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    struct graph *g = graph_new(), *outer = graph_new();
    add(g, CU_GRAPH_NODE_TYPE_KERNEL);
    add(g, types[i].type);
    expect_native(g, types[i].why, "a node");
    add(outer, CU_GRAPH_NODE_TYPE_GRAPH)->child = (CUgraph)g;
    expect_native(outer, types[i].why, "a node within a graph within a graph");
    graph_free(g);
    graph_free(outer);
  }
  struct graph *g = graph_new();
  struct node *n = add(g, CU_GRAPH_NODE_TYPE_KERNEL);
  n->updatable = true;
  expect_native(g, HEDDLE_NATIVE_ATTRIBUTE, "a node that the device may change");
  n->updatable = false;
  n->kernel.func = (CUfunction)0xbad;
  expect_native(g, HEDDLE_NATIVE_UNKNOWN_CODE, "an unknown function");
  n->kernel.func = KERNEL;
  n->kernel.blockDimX = 1024;
  expect_native(g, HEDDLE_NATIVE_ARGUMENT, "a block that is too large");
  n->kernel.blockDimX = 32;
  fake_kernel = 0;
  expect_native(g, HEDDLE_NATIVE_REFUSED_CODE, "a kernel that the executor refuses");
  fake_kernel = 7;
  n->type = CU_GRAPH_NODE_TYPE_MEMSET;
  n->set.dst = FREED_BASE;
  expect_native(g, HEDDLE_NATIVE_ARGUMENT, "freed memory");
  n->type = CU_GRAPH_NODE_TYPE_MEMCPY;
  n->copy.srcDevice = FREED_BASE;
  expect_native(g, HEDDLE_NATIVE_ARGUMENT, "a copy of freed memory");
  n->copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  n->copy.srcHost = arguments;
  n->copy.dstDevice = GLOBAL_BASE;
  expect_native(g, HEDDLE_NATIVE_FOREIGN_MEMORY, "a device global, which lives in the executor");
  n->type = CU_GRAPH_NODE_TYPE_KERNEL;
  CUgraphExec x = NULL;
  uint32_t before = fake_native_counts[HEDDLE_NATIVE_GRAPH];
  OK(heddle_hook_cuGraphInstantiateWithFlags(&x, (CUgraph)g, CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH));
  go(x, CU_STREAM_LEGACY);
  go((CUgraphExec)0x77, CU_STREAM_LEGACY); // made behind our back
  CHECK(fake_native_counts[HEDDLE_NATIVE_GRAPH] == before + 2, "for the device, and unknown");
  edge(g, n, n);
  expect_native(g, HEDDLE_NATIVE_GRAPH_REFUSED, "a cycle"); // never instantiated natively
  CHECK(given == 0, "%u graphs were given", given);
  graph_free(g);
}

static void refused(void) {
  struct graph *g = graph_new();
  struct node *n = add(g, CU_GRAPH_NODE_TYPE_KERNEL);
  refuse = 1;
  expect_native(g, HEDDLE_NATIVE_GRAPH_REFUSED, "refused by the daemon");
  CUgraphExec x = make(g);
  refuse = 0;
  go(x, CU_STREAM_LEGACY); // it is not asked again
  CHECK(given == 0 && natively == 2, "%u given, %u native launches", given, natively);
  CUDA_KERNEL_NODE_PARAMS p = n->kernel;
  p.gridDimX = 9;
  OK(heddle_hook_cuGraphExecKernelNodeSetParams_v2(x, (CUgraphNode)n, &p));
  go(x, CU_STREAM_LEGACY); // but after a change it is
  execute();
  CHECK(given == 1 && natively == 2 && launched[1] == 1, "%u given, %u native launches", given, natively);
  graph_free(g);
}

// Launches of one executable graph follow each other on all streams.
static void order(void) {
  struct graph *g = graph_new();
  struct node *n = add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  CUgraphExec x = make(g);
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING), t = fake_stream(CU_STREAM_NON_BLOCKING);
  hold_back = true;
  go(x, s);
  execute();
  go(x, t);
  execute();
  CHECK(last_ndeps == 1 && last_dep.value == 1, "the second launch follows %u others", last_ndeps);
  go(x, t);
  execute();
  CHECK(last_ndeps == 0, "its own stream needs no word");
  // A native launch waits for a forwarded one on another stream: the sleep lets the executor go on.
  CUDA_MEMSET_NODE_PARAMS p = n->set;
  p.dst = FREED_BASE;
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)n, &p, CONTEXT));
  hold_back = false;
  struct heddle_ring *r = &fake_session->ring;
  for (uint32_t i = 0; i < 8; i++) heddle_store_release32(&fake_session->lanes[i].done, fake_session->lanes[i].issued);
  heddle_store_release64(&r->consumer->head, r->consumer->read);
  go(x, s);
  CHECK(natively == 1, "native");
  p.dst = DEVICE_BASE;
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)n, &p, CONTEXT));
  go(x, t);
  execute();
  CHECK(natively == 1 && last_graph == 1, "forwarded again");
  graph_free(g);
}

// Kernels become others in the executor, or are refused from now on.
static void code(void) {
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_KERNEL);
  CUgraphExec x = make(g);
  go(x, CU_STREAM_LEGACY);
  fake_kernel = 12;
  atomic_fetch_add(&heddle_code_changes, 1);
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 2 && ((const struct heddle_wire_launch *)body(record_of(2, 1)))->kernel == 12, "the new kernel");
  fake_kernel = 0;
  atomic_fetch_add(&heddle_code_changes, 1);
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 2 && natively == 1 && fake_native_counts[HEDDLE_NATIVE_REFUSED_CODE] == 1, "refused");
  graph_free(g);
}

// Device globals went with the executor: the program gets an error, never old values.
static void globals(void) {
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_KERNEL);
  fake_mirrored = 1;
  CUgraphExec x = make(g);
  go(x, CU_STREAM_LEGACY);
  execute();
  lose();
  OK(heddle_order_drain(fake_session, NULL));
  heddle_session_given_up(fake_session);
  CHECK(heddle_hook_cuGraphLaunch(x, CU_STREAM_LEGACY) == CUDA_ERROR_LAUNCH_FAILED && natively == 0, "no error");
  graph_free(g);
}

// Sent to its own context a program launches its graphs there, but for those whose kernels have state in the executor.
static void sent(void) {
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_KERNEL);
  for (int stateful = 0; stateful < 2; stateful++) {
    atomic_store(&fake_stateful, stateful);
    CUgraphExec x = make(g);
    uint32_t runs = natively, before = launches, counted = fake_native_counts[HEDDLE_NATIVE_STRAGGLER];
    for (uint32_t own = 0; own < 3; own++) { // there, here, there
      heddle_store_relaxed32(&fake_session->ring.producer->own_context, own % 2);
      go(x, CU_STREAM_LEGACY);
      execute();
    }
    uint32_t away = stateful ? 0 : 1;
    CHECK(natively == runs + away && launches == before + 3 - away && fake_native_counts[HEDDLE_NATIVE_STRAGGLER] == counted + away,
          "%u native launches, %u in the executor", natively - runs, launches - before);
    OK(heddle_hook_cuGraphExecDestroy(x));
  }
  graph_free(g);
}

// Memory that a graph copies goes and comes back at the same address: the executor does not launch the old one any more.
static void memory(void) {
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_MEMCPY);
  CUgraphExec x = make(g);
  go(x, CU_STREAM_LEGACY);
  heddle_graph_memory_gone(fake_session, DEVICE_BASE + 8192, 4096);
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 1, "memory that it does not name");
  heddle_graph_memory_gone(fake_session, DEVICE_BASE + 4096, 4096);
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(given == 2 && drops == 1 && launched[1] == 2 && launched[2] == 1, "%u given, %u dropped", given, drops);
  graph_free(g);
}

// While a stream captures, waiting for everything leaves that stream and the context as a whole alone.
static CUstream capturing, recorded[8];
static bool blocking_captures; // capturing is a blocking stream
static uint32_t nrecorded, contexts;
static CUresult is_capturing(CUstream s, CUstreamCaptureStatus *status) {
  *status = s == capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  return blocking_captures && s == CU_STREAM_LEGACY ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT : CUDA_SUCCESS;
}
static CUresult record_on(CUevent e, CUstream s) { (void)e; recorded[nrecorded++ % 8] = s; return CUDA_SUCCESS; }
static CUresult synchronize_context(void) { contexts++; return CUDA_SUCCESS; }
static CUresult exchange_mode(CUstreamCaptureMode *mode) { (void)mode; return CUDA_SUCCESS; }
static void beside(void) {
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING), t = fake_stream(CU_STREAM_DEFAULT);
  capturing = fake_stream(CU_STREAM_NON_BLOCKING);
  heddle_real.cuStreamIsCapturing = is_capturing;
  heddle_real.cuThreadExchangeStreamCaptureMode = exchange_mode;
  heddle_real.cuEventRecord = record_on;
  heddle_real.cuCtxSynchronize = synchronize_context;
  CUstream all[] = {s, t, capturing};
  for (int i = 0; i < 3; i++) OK(heddle_hook_cuMemsetD8Async(0x1000, 1, 4, all[i])); // native: the lanes are there
  OK(heddle_order_drain_all(fake_session));
  CHECK(contexts == 1 && nrecorded == 0, "the context is waited for as a whole");
  atomic_store(&heddle_hooks_captures, 1);
  OK(heddle_order_drain_all(fake_session));
  CHECK(contexts == 1 && nrecorded == 2, "%u events", nrecorded);
  CHECK((recorded[0] == s && recorded[1] == CU_STREAM_LEGACY) || (recorded[1] == s && recorded[0] == CU_STREAM_LEGACY), "the streams");
  CUstream other = capturing;
  capturing = fake_stream(CU_STREAM_DEFAULT);
  blocking_captures = true;
  nrecorded = 0;
  OK(heddle_order_drain_all(fake_session));
  CHECK(contexts == 1 && nrecorded == 3, "%u events beside a blocking stream that captures", nrecorded); // s, t, other
  for (int i = 0; i < 3; i++) CHECK(recorded[i] == s || recorded[i] == t || recorded[i] == other, "the streams");
  capturing = other;
  blocking_captures = false;
  // A launch into the capture is the driver's alone.
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  CUgraphExec x = make(g);
  go(x, capturing);
  CHECK(natively == 1 && fake_native_counts[HEDDLE_NATIVE_CAPTURE] == 1, "a node of another graph");
  graph_free(g);
}

// ---- without an executor ----

// A launch that nobody took is run here, node by node, as the graph was then.
static void alone(void) {
  struct graph *g = graph_new();
  struct node *k = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *m = add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  CUgraphExec x = make(g);
  go(x, CU_STREAM_LEGACY); // 2 blocks, value 3
  CUDA_MEMSET_NODE_PARAMS s = m->set;
  s.value = 40;
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)m, &s, CONTEXT));
  go(x, CU_STREAM_LEGACY); // 2 blocks, value 40
  OK(heddle_hook_cuGraphExecDestroy(x));
  (void)k;
  lose();
  OK(heddle_order_drain(fake_session, NULL));
  CHECK(replayed[0] == 4 && replayed[1] == 43, "%u blocks, values %u", replayed[0], replayed[1]);
  x = make(g);
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 1, "everything is native from now on");
  graph_free(g);
}

// A launch that an executor may have begun is never repeated.
static void doubt(void) {
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  CUgraphExec x = make(g);
  hold_back = true;
  go(x, CU_STREAM_LEGACY);
  execute();
  lose();
  CHECK(heddle_order_drain(fake_session, NULL) == CUDA_ERROR_LAUNCH_FAILED && replayed[1] == 0, "repeated");
  graph_free(g);
}

static void large(void) {
  struct graph *g = graph_new();
  struct node *before = NULL;
  enum { N = 100000 };
  for (uint32_t i = 0; i < N; i++) {
    struct node *n = add(g, CU_GRAPH_NODE_TYPE_KERNEL);
    if (before != NULL) edge(g, before, n);
    before = n;
  }
  CUgraphExec x = make(g);
  const struct heddle_wire_record *none[1];
  CHECK(given == 1 && check_records(1, none, 0) == N, "%u nodes", kept[1].nodes);
  for (uint32_t i = 0; i < N; i++) // as XLA does: every node, one after the other
    OK(heddle_hook_cuGraphExecKernelNodeSetParams_v2(x, (CUgraphNode)g->node[i], &g->node[i]->kernel));
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(given == 1 && launched[1] == 1, "the same parameters are the same graph");
  while (g->n <= HEDDLE_WIRE_MAX_GRAPH_NODES) add(g, CU_GRAPH_NODE_TYPE_EMPTY);
  expect_native(g, HEDDLE_NATIVE_GRAPH_REFUSED, "too large");
  graph_free(g);
}

// Edges of different kinds join the same two nodes: one dependency each, and no more room than there are nodes.
static void edges(void) {
  struct graph *g = graph_new();
  struct node *before[4];
  for (int i = 0; i < 4; i++) before[i] = add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  struct node *last = add(g, CU_GRAPH_NODE_TYPE_KERNEL);
  for (int kind = 0; kind < 3; kind++)
    for (int i = 0; i < 4; i++) edge(g, before[i], last);
  CUgraphExec exec = make(g);
  CHECK(given == 1 && kept[1].nodes == 5 && record_of(1, 5)->ndeps == 4, "the kernel follows %u", record_of(1, 5)->ndeps);
  OK(heddle_hook_cuGraphExecDestroy(exec));
  graph_free(g);
}

int main(int argc, char **argv) {
  static const struct test all[] = {{"edges", edges}, {"records", records}, {"kinds", kinds}, {"native", native}, {"refused", refused}, {"order", order}, {"code", code},
                                    {"globals", globals}, {"memory", memory}, {"beside", beside}, {"alone", alone}, {"doubt", doubt}, {"large", large}, {"sent", sent}};
  return run_test(argc, argv, all, sizeof all / sizeof *all);
}
