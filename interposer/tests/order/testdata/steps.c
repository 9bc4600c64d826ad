// Graphs that go in parts with steps of the client's own stream between them, one behaviour a run: steps NAME.
#include "graphfake.h"

#include <sched.h>

static void CUDA_CB nothing(void *arg) { (void)arg; }

static struct node *host_node(struct graph *g) {
  struct node *n = add(g, CU_GRAPH_NODE_TYPE_HOST);
  n->host = (CUDA_HOST_NODE_PARAMS){nothing, NULL};
  return n;
}

static void expect_told(const char *what, const uint32_t *behind, uint32_t n) {
  CHECK(ntold == n, "%u steps, not %u", ntold, n);
  for (uint32_t i = 0; i < n; i++)
    CHECK(told[i].what == what[i] && told[i].behind == behind[i], "step %u is %c behind %u parts, not %c behind %u", i, told[i].what, told[i].behind, what[i], behind[i]);
  ntold = 0;
}

// kernel → host → kernel, and beside it a memset that both parts could take: it goes with the first.
static void cuts(void) {
  struct graph *g = graph_new();
  struct node *k = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *h = host_node(g), *l = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *m = add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  edge(g, k, h);
  edge(g, h, l);
  (void)m;
  CUgraphExec x = make(g);
  CHECK(given == 2 && kept[1].nodes == 2 && kept[2].nodes == 1, "%u graphs of %u and %u nodes", given, kept[1].nodes, kept[2].nodes);
  CHECK(record_of(2, 1)->ndeps == 0, "what is before a part is no dependency in it");
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING), t = fake_stream(CU_STREAM_NON_BLOCKING);
  go(x, s);
  execute();
  expect_told("h", (uint32_t[]){1}, 1);
  CHECK(launches == 2 && launched[1] == 1 && launched[2] == 1 && natively == 0, "%u launches", launches);
  hold_back = true;
  go(x, s);
  execute();
  go(x, t); // behind the whole of it
  execute();
  CHECK(last_ndeps == 0, "the last part follows its own stream only");
  expect_told("hh", (uint32_t[]){3, 5}, 2);
  // One that ends with a step: its end is a number too.
  struct graph *e = graph_new();
  struct node *a = add(e, CU_GRAPH_NODE_TYPE_KERNEL);
  edge(e, a, host_node(e));
  CUgraphExec y = make(e);
  hold_back = false;
  go(y, s);
  go(y, t);
  execute();
  CHECK(last_graph == given && last_ndeps == 1, "the second launch follows %u others", last_ndeps);
  expect_told("hh", (uint32_t[]){7, 8}, 2);
  OK(heddle_hook_cuGraphExecDestroy(x));
  OK(heddle_hook_cuGraphExecDestroy(y));
  CHECK(drops == given, "%u given, %u dropped", given, drops);
  graph_free(g);
  graph_free(e);
}

// Every kind of step, alone in a graph: nothing goes natively as a whole.
static void kinds(void) {
  static const struct { CUgraphNodeType type; char what; enum heddle_native_reason left; } all[] = {
      {CU_GRAPH_NODE_TYPE_HOST, 'h', HEDDLE_NATIVE_NONE},           {CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, 'm', HEDDLE_NATIVE_NONE},
      {CU_GRAPH_NODE_TYPE_MEMSET, 'g', HEDDLE_NATIVE_FOREIGN_MEMORY}, {CU_GRAPH_NODE_TYPE_MEMCPY, 'g', HEDDLE_NATIVE_NONE}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    struct graph *g = graph_new(), *outer = graph_new();
    struct node *n = add(g, all[i].type);
    n->host = (CUDA_HOST_NODE_PARAMS){nothing, NULL};
    n->set.dst = 0x1000;
    n->copy.srcMemoryType = CU_MEMORYTYPE_HOST; // pageable
    n->copy.srcHost = arguments;
    add(outer, CU_GRAPH_NODE_TYPE_GRAPH)->child = (CUgraph)g;
    uint32_t before = fake_native_counts[all[i].left], have = given;
    go(make(g), CU_STREAM_LEGACY);
    go(make(outer), CU_STREAM_LEGACY);
    CHECK(given == have && natively == 0, "%u given, %u native launches", given, natively);
    CHECK(all[i].left == HEDDLE_NATIVE_NONE || fake_native_counts[all[i].left] == before + 2, "counted %u times", fake_native_counts[all[i].left] - before);
    expect_told((char[]){all[i].what, all[i].what}, (uint32_t[]){0, 0}, 2);
    graph_free(g);
    graph_free(outer);
  }
  // Registered memory and arrays as well; an array is counted, because its copy may take SMs.
  struct graph *g = graph_new();
  struct node *n = add(g, CU_GRAPH_NODE_TYPE_MEMCPY);
  n->copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  n->copy.srcHost = fake_registered_host;
  go(make(g), CU_STREAM_LEGACY);
  n->copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
  uint32_t before = fake_native_counts[HEDDLE_NATIVE_FOREIGN_MEMORY];
  go(make(g), CU_STREAM_LEGACY);
  expect_told("gg", (uint32_t[]){0, 0}, 2);
  CHECK(fake_native_counts[HEDDLE_NATIVE_HOST_REGISTERED] == 0 && fake_native_counts[HEDDLE_NATIVE_FOREIGN_MEMORY] == before + 1, "counts");
  n->type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
  n->memops.ctx = (CUcontext)0x99;
  expect_native(g, HEDDLE_NATIVE_GRAPH, "memory operations of another context");
  graph_free(g);
}

// A step that waits comes behind the other branches, which may do what it waits for; others come first. In the executor's parts stays
// what has no step before it.
static void branches(void) {
  struct graph *g = graph_new();
  struct node *w = add(g, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP), *h = host_node(g), *k = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *m = add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  struct node *empty = add(g, CU_GRAPH_NODE_TYPE_EMPTY), *last = add(g, CU_GRAPH_NODE_TYPE_KERNEL);
  w->op = (CUstreamBatchMemOpParams){.waitValue = {.operation = CU_STREAM_MEM_OP_WAIT_VALUE_64, .address = DEVICE_BASE, .value64 = 1}};
  edge(g, h, k);
  edge(g, w, empty);
  edge(g, k, empty);
  edge(g, empty, last);
  (void)m;
  CUgraphExec x = make(g);
  CHECK(given == 2 && kept[1].nodes == 2 && kept[2].nodes == 1, "%u graphs of %u and %u nodes", given, kept[1].nodes, kept[2].nodes);
  go(x, CU_STREAM_LEGACY);
  execute();
  expect_told("hm", (uint32_t[]){0, 1}, 2);
  CHECK(launches == 2, "%u launches", launches);
  graph_free(g);
}

// ---- events ----

static uint32_t driver_waits;
static void native_call(const char *what, CUstream stream, CUdeviceptr address, uint32_t value, CUevent event) {
  (void)stream, (void)address, (void)value, (void)event;
  if (strcmp(what, "wait-event") == 0) driver_waits++;
}

static void events(void) {
  struct graph *g = graph_new();
  CUevent e = NULL, f = NULL;
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING), t = fake_stream(CU_STREAM_NON_BLOCKING);
  OK(heddle_hook_cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  OK(heddle_hook_cuEventCreate(&f, CU_EVENT_DISABLE_TIMING));
  struct node *k = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *r = add(g, CU_GRAPH_NODE_TYPE_EVENT_RECORD), *l = add(g, CU_GRAPH_NODE_TYPE_KERNEL);
  r->event = e;
  edge(g, k, r);
  edge(g, r, l);
  CUgraphExec x = make(g);
  hold_back = true;
  go(x, s);
  execute();
  CHECK(given == 2 && launches == 2, "%u graphs, %u launches", given, launches);
  CHECK(heddle_hook_cuEventQuery(e) == CUDA_ERROR_NOT_READY, "the event is recorded with the launch");
  for (uint32_t i = 0; i < 8; i++) heddle_store_release32(&fake_session->lanes[i].done, 1); // the first part
  OK(heddle_hook_cuEventQuery(e));
  // A graph that waits for it follows the first part only.
  struct graph *h = graph_new();
  struct node *w = add(h, CU_GRAPH_NODE_TYPE_WAIT_EVENT);
  w->event = f;
  edge(h, w, add(h, CU_GRAPH_NODE_TYPE_KERNEL));
  OK(heddle_hook_cuEventRecord(f, s));
  go(make(h), t);
  execute();
  CHECK(last_ndeps == 1 && last_dep.value == 2, "it follows %u others, number %u", last_ndeps, last_dep.value);
  // Recorded and waited for by one graph: the driver's. It knows nothing of the record in the executor, so that is waited for before.
  hold_back = false;
  execute();
  for (uint32_t i = 0; i < 8; i++) heddle_store_release32(&fake_session->lanes[i].done, fake_session->lanes[i].issued);
  heddle_store_release64(&fake_session->ring.consumer->head, fake_session->ring.consumer->read);
  add(g, CU_GRAPH_NODE_TYPE_WAIT_EVENT)->event = e;
  expect_native(g, HEDDLE_NATIVE_GRAPH_EVENT, "an event that is recorded and waited for");
  fake_native = native_call;
  OK(heddle_hook_cuStreamWaitEvent(t, e, 0));
  CHECK(driver_waits == 1, "the driver recorded it, so the driver waits for it");
  graph_free(g);
  graph_free(h);
}

// A graph that stays the driver's: an event counts as its only while a node has it.
static void changed_events(void) {
  struct graph *g = graph_new();
  CUevent e = NULL, f = NULL, gone = NULL, other = NULL;
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  OK(heddle_hook_cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  OK(heddle_hook_cuEventCreate(&f, CU_EVENT_DISABLE_TIMING));
  OK(heddle_hook_cuEventCreate(&gone, CU_EVENT_DISABLE_TIMING));
  OK(heddle_hook_cuEventCreate(&other, CU_EVENT_DISABLE_TIMING));
  struct node *k = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *r = add(g, CU_GRAPH_NODE_TYPE_EVENT_RECORD), *w = add(g, CU_GRAPH_NODE_TYPE_WAIT_EVENT);
  add(g, CU_GRAPH_NODE_TYPE_MEM_ALLOC);
  edge(g, k, r);
  r->event = e;
  w->event = gone;
  CUgraphExec x = make(g);
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 1 && given == 0, "%u native launches, %u given", natively, given);
  OK(heddle_hook_cuGraphExecEventRecordNodeSetEvent(x, (CUgraphNode)r, f));
  OK(heddle_hook_cuGraphExecEventWaitNodeSetEvent(x, (CUgraphNode)w, other));
  OK(heddle_hook_cuEventDestroy_v2(gone));
  hold_back = true;
  OK(heddle_hook_cuMemsetD32Async(DEVICE_BASE, 1, 16, s));
  OK(heddle_hook_cuEventRecord(e, s));
  execute();
  fake_native = native_call;
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 2 && driver_waits == 0, "%u native launches; the driver was asked to wait for %u events that it knows", natively, driver_waits);
  CHECK(heddle_hook_cuEventQuery(e) == CUDA_ERROR_NOT_READY, "the graph does not record it any more, and the memset before it is under way");
  hold_back = false;
  OK(heddle_hook_cuGraphExecDestroy(x));
  graph_free(g);
}

// ---- changes ----

static void changes(void) {
  struct graph *g = graph_new();
  struct node *k = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *h = host_node(g), *c = add(g, CU_GRAPH_NODE_TYPE_MEMCPY), *b = add(g, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
  struct node *r = add(g, CU_GRAPH_NODE_TYPE_EVENT_RECORD);
  CUevent e = NULL, f = NULL;
  OK(heddle_hook_cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  OK(heddle_hook_cuEventCreate(&f, CU_EVENT_DISABLE_TIMING));
  r->event = e;
  edge(g, k, h);
  edge(g, h, c);
  edge(g, c, b);
  edge(g, b, r);
  CUgraphExec x = make(g);
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(given == 2 && launches == 2 && ntold == 2, "%u given, %u launches, %u steps", given, launches, ntold);
  ntold = 0;
  CUDA_HOST_NODE_PARAMS p = {nothing, &p};
  OK(heddle_hook_cuGraphExecHostNodeSetParams(x, (CUgraphNode)h, &p));
  OK(heddle_hook_cuGraphExecEventRecordNodeSetEvent(x, (CUgraphNode)r, f));
  CUstreamBatchMemOpParams op[2] = {b->op, b->op};
  CUDA_BATCH_MEM_OP_NODE_PARAMS m = {.ctx = CONTEXT, .count = 2, .paramArray = op};
  OK(heddle_hook_cuGraphExecBatchMemOpNodeSetParams(x, (CUgraphNode)b, &m));
  CUDA_MEMCPY3D q = c->copy;
  q.dstMemoryType = CU_MEMORYTYPE_HOST; // to pageable memory: a step from now on
  q.dstHost = arguments;
  OK(heddle_hook_cuGraphExecMemcpyNodeSetParams(x, (CUgraphNode)c, &q, CONTEXT));
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(given == 3 && launches == 3, "%u given, %u launches", given, launches);
  expect_told("hgm", (uint32_t[]){3, 3, 3}, 3);
  OK(heddle_hook_cuEventQuery(f));
  OK(heddle_hook_cuGraphNodeSetEnabled(x, (CUgraphNode)c, 0));
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(given == 4 && launches == 4 && ntold == 2, "%u given, %u launches, %u steps", given, launches, ntold);
  ntold = 0;
  CUgraphExecUpdateResultInfo info;
  OK(heddle_hook_cuGraphExecUpdate_v2(x, (CUgraph)g, &info)); // node c may be disabled in the driver's graph: native
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 1 && drops == 4, "%u native launches, %u drops", natively, drops);
  graph_free(g);
}

// The session ends while a launch is half done: the rest of it runs here.
static void lose_and_notice(void) {
  on_told = NULL;
  lose();
  atomic_store(&fake_session->live, 0);
}
static void write_at_once(const char *what, CUstream stream, CUdeviceptr address, uint32_t value, CUevent event) {
  (void)stream, (void)event;
  if (strcmp(what, "write") == 0) heddle_store_release32((uint32_t *)(uintptr_t)address, value);
}
static void closed(void) {
  struct graph *g = graph_new();
  struct node *k = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *h = host_node(g), *l = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *i = host_node(g);
  l->kernel.gridDimX = 3;
  edge(g, k, h);
  edge(g, h, l);
  edge(g, l, i);
  CUgraphExec x = make(g);
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(launches == 2 && replayed[0] == 0, "%u launches", launches);
  ntold = 0;
  fake_native = write_at_once;
  on_told = lose_and_notice;
  go(x, CU_STREAM_LEGACY);
  OK(heddle_order_drain(fake_session, NULL));
  CHECK(launches == 3 && replayed[0] == 3, "%u launches, %u blocks run here", launches, replayed[0]);
  CHECK(ntold == 2, "%u steps", ntold);
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 1, "everything is native from now on");
  graph_free(g);
}

// 100,000 nodes, cut a few times, or more often than pays.
static void bounded(void) {
  for (uint32_t each = 10000; each >= 2; each /= 5000) {
    struct graph *g = graph_new();
    struct node *before = NULL;
    for (uint32_t i = 0; i < 100000; i++) {
      struct node *n = i % each == each - 1 ? host_node(g) : add(g, CU_GRAPH_NODE_TYPE_KERNEL);
      if (before != NULL) edge(g, before, n);
      before = n;
    }
    if (each == 10000) {
      CUgraphExec x = make(g);
      CHECK(given == 10, "%u parts", given);
      go(x, CU_STREAM_LEGACY);
      execute();
      CHECK(launches == 10 && ntold == 10, "%u launches, %u steps", launches, ntold);
      OK(heddle_hook_cuGraphExecDestroy(x));
    } else {
      expect_native(g, HEDDLE_NATIVE_GRAPH_HOST, "as many steps as kernels");
    }
    graph_free(g);
  }
}

// ---- threads ----

// Nobody's op comes between the parts of a launch, on its stream or on one that orders itself with it.
static struct graph *two;
static CUstream streams[3];
static uint32_t expected; // the part that must come next; 0: whatever
static _Atomic uint32_t whole;
static void watch(const struct heddle_wire_record *r) {
  if (r->kind == HEDDLE_WIRE_KIND_EVENT || r->lane == 2) return; // the third stream is nobody's business
  if (expected != 0) {
    CHECK(r->kind == HEDDLE_WIRE_KIND_GRAPH && ((const struct heddle_wire_graph_launch *)body(r))->graph == expected, "kind %u between two parts", r->kind);
    expected = 0;
    atomic_fetch_add(&whole, 1);
  } else if (r->kind == HEDDLE_WIRE_KIND_GRAPH) {
    expected = ((const struct heddle_wire_graph_launch *)body(r))->graph + 1;
  }
}
enum { TIMES = 300 };
static void *stepper(void *arg) {
  CUgraphExec x = *(CUgraphExec *)arg;
  for (int i = 0; i < TIMES; i++) go(x, streams[i % 2]);
  return NULL;
}
static void *disturber(void *arg) {
  for (int i = 0; i < 2 * TIMES; i++) OK(heddle_hook_cuMemsetD32Async(DEVICE_BASE, 1, 16, streams[((size_t)arg + (size_t)i) % 3]));
  return NULL;
}
static void threads(void) {
  pthread_t t[5];
  CUgraphExec x[3];
  two = graph_new();
  struct node *k = add(two, CU_GRAPH_NODE_TYPE_MEMSET), *h = host_node(two), *l = add(two, CU_GRAPH_NODE_TYPE_MEMSET);
  edge(two, k, h);
  edge(two, h, l);
  l->set.value = 8;
  for (int i = 0; i < 3; i++) x[i] = make(two);
  CHECK(given == 6, "%u parts", given);
  streams[0] = CU_STREAM_LEGACY;
  streams[1] = fake_stream(CU_STREAM_DEFAULT);
  streams[2] = fake_stream(CU_STREAM_NON_BLOCKING);
  for (int i = 0; i < 3; i++) OK(heddle_hook_cuMemsetD32Async(DEVICE_BASE, 1, 16, streams[i])); // lanes 0, 1, 2
  OK(heddle_order_drain(fake_session, NULL));
  on_record = watch;
  start_executor();
  for (size_t i = 0; i < 5; i++) CHECK(pthread_create(&t[i], NULL, i < 3 ? stepper : disturber, i < 3 ? (void *)&x[i] : (void *)i) == 0, "thread");
  for (size_t i = 0; i < 5; i++) pthread_join(t[i], NULL);
  OK(heddle_order_drain(fake_session, NULL));
  stop_executor();
  CHECK(whole == 3 * TIMES && launches == 6 * TIMES, "%u whole launches", whole);
  for (int i = 0; i < 3; i++) OK(heddle_hook_cuGraphExecDestroy(x[i]));
  graph_free(two);
}

// ---- captures ----

// One stream captures at a time. As with the driver the legacy stream is not to be used beside a blocking stream that does.
static _Atomic(CUstream) capturing;
static bool in_capture(CUstream s) {
  CUstream now = atomic_load(&capturing);
  return now != NULL && (now == s || (s == CU_STREAM_LEGACY && now == streams[1]));
}
static CUresult is_capturing(CUstream s, CUstreamCaptureStatus *status) {
  CUstream now = atomic_load(&capturing);
  *status = now == s ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  return now != s && in_capture(s) ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT : CUDA_SUCCESS;
}
static _Atomic uint32_t behind; // launches of parts that were published when the driver heard of the capture; 0: it did not yet
static CUresult begin_capture(CUstream s, CUstreamCaptureMode mode) {
  CHECK(mode == CU_STREAM_CAPTURE_MODE_GLOBAL, "mode %d", (int)mode);
  atomic_store(&capturing, s);
  return CUDA_SUCCESS;
}
static CUresult begin_capture_behind(CUstream s, CUstreamCaptureMode mode) {
  execute();
  atomic_store(&behind, launches);
  return begin_capture(s, mode);
}
static CUresult end_capture(CUstream s, CUgraph *g) {
  (void)g;
  CHECK(atomic_load(&capturing) == s, "no capture");
  atomic_store(&capturing, NULL);
  return CUDA_SUCCESS;
}
static void with_captures(void) {
  heddle_real.cuStreamIsCapturing = is_capturing;
  heddle_real.cuStreamBeginCapture_v2 = begin_capture;
  heddle_real.cuStreamEndCapture = end_capture;
  streams[0] = CU_STREAM_LEGACY;
  streams[1] = fake_stream(CU_STREAM_DEFAULT);
  streams[2] = fake_stream(CU_STREAM_NON_BLOCKING);
}

// What another thread does in the middle of a launch, and where.
static void (*intrude)(void);
static CUstream intruded;
static CUevent captured_event;
static _Atomic bool intruding;
static pthread_t intruder;
static void begin_there(void) { OK(heddle_hook_cuStreamBeginCapture_v2(intruded, CU_STREAM_CAPTURE_MODE_GLOBAL)); }
static void join_there(void) { OK(heddle_hook_cuStreamWaitEvent(intruded, captured_event, 0)); }
static void joined(const char *what, CUstream stream, CUdeviceptr address, uint32_t value, CUevent event) {
  (void)address, (void)value;
  if (strcmp(what, "wait-event") != 0) return;
  CHECK(stream == intruded && event == captured_event, "another wait");
  execute();
  atomic_store(&behind, launches);
}
static void *intrudes(void *arg) {
  (void)arg;
  atomic_store(&intruding, true);
  intrude();
  return NULL;
}
static void let_intrude(void) {
  on_told = NULL;
  CHECK(pthread_create(&intruder, NULL, intrudes, NULL) == 0, "thread");
  while (!atomic_load(&intruding)) sched_yield();
  for (int i = 0; i < 1000 && atomic_load(&behind) == 0; i++) sched_yield(); // who does not wait for its turn has the time not to
}

// A launch in steps is one thing to a capture too: one that another thread begins in its stream, or has it join, comes behind all of it.
static void captured(void) {
  with_captures();
  heddle_real.cuStreamBeginCapture_v2 = begin_capture_behind;
  struct graph *g = graph_new();
  struct node *k = add(g, CU_GRAPH_NODE_TYPE_MEMSET), *h = host_node(g), *l = add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  edge(g, k, h);
  edge(g, h, l);
  l->set.value = 8;
  CUgraphExec x = make(g);
  const struct { CUstream launch, intruded; void (*intrude)(void); } all[] = {
      {streams[2], streams[2], begin_there}, {streams[0], streams[1], begin_there}, {streams[1], streams[1], begin_there}, {streams[2], streams[2], join_there}};
  for (uint32_t i = 0; i < sizeof all / sizeof *all; i++) {
    CUgraph none = NULL;
    uint32_t before = launches, native = natively, counted = fake_native_counts[HEDDLE_NATIVE_CAPTURE];
    atomic_store(&behind, 0);
    atomic_store(&intruding, false);
    intrude = all[i].intrude;
    intruded = all[i].intruded;
    if (intrude == join_there) {
      OK(heddle_hook_cuEventCreate(&captured_event, CU_EVENT_DISABLE_TIMING));
      heddle_event_natively(captured_event);
      fake_native = joined;
    }
    on_told = let_intrude;
    go(x, all[i].launch);
    pthread_join(intruder, NULL);
    execute();
    CHECK(launches == before + 2 && behind == before + 2, "case %u: %u parts, %u of them before the capture", i, launches - before, behind - before);
    fake_native = NULL;
    if (intrude == join_there) continue;
    // Beside the capture nothing of it goes to the executor, nor in steps; behind it everything does again.
    uint32_t told_before = ntold;
    go(x, intruded);
    execute();
    CHECK(launches == before + 2 && ntold == told_before && natively == native + 1 && fake_native_counts[HEDDLE_NATIVE_CAPTURE] > counted, "case %u: %u parts beside the capture", i, launches - before - 2);
    OK(heddle_hook_cuStreamEndCapture(intruded, &none));
    CHECK(atomic_load(&heddle_hooks_captures) == 0, "%d captures", atomic_load(&heddle_hooks_captures));
    go(x, intruded);
    execute();
    CHECK(launches == before + 4, "case %u: %u parts behind the capture", i, launches - before - 2);
    ntold = 0;
  }
  graph_free(g);
}

// A capture that begins between the question and the call: no wait of ours comes into it.
static uint32_t questions;
static CUresult captures_since(CUstream s, CUstreamCaptureStatus *status) {
  (void)s;
  *status = questions++ == 0 ? CU_STREAM_CAPTURE_STATUS_NONE : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}
static uint32_t waits_enqueued;
static void count_waits(const char *what, CUstream stream, CUdeviceptr address, uint32_t value, CUevent event) {
  (void)stream, (void)address, (void)value, (void)event;
  if (strcmp(what, "wait") == 0) waits_enqueued++;
}
static void captured_since(void) {
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  hold_back = true;
  OK(heddle_hook_cuMemsetD32Async(DEVICE_BASE, 1, 16, s));
  execute();
  fake_native = count_waits;
  heddle_real.cuStreamIsCapturing = captures_since;
  atomic_store(&heddle_hooks_captures, 1);
  OK(heddle_hook_cuMemsetD8Async(0x1000, 1, 16, s));
  CHECK(questions >= 2 && waits_enqueued == 0, "%u questions, %u waits in the capture", questions, waits_enqueued);
  atomic_store(&heddle_hooks_captures, 0);
  OK(heddle_hook_cuMemsetD8Async(0x1000, 1, 16, s));
  CHECK(waits_enqueued == 1, "%u waits behind it", waits_enqueued);
}

// The same with many threads, and with work of both kinds.
static CUresult host_func_outside(CUstream s, CUhostFn f, void *data) {
  (void)f, (void)data;
  CHECK(!in_capture(s), "a step of a launch came into a capture");
  return CUDA_SUCCESS;
}
static void memop_outside(const char *what, CUstream stream, CUdeviceptr address, uint32_t value, CUevent event) {
  (void)event;
  if (strcmp(what, "write") != 0 && strcmp(what, "wait") != 0) return;
  CHECK(!in_capture(stream), "a %s of ours came into a capture", what);
  if (strcmp(what, "write") == 0) heddle_store_release32((uint32_t *)(uintptr_t)address, value);
}
static _Atomic bool stepped;
static void *capturer(void *arg) {
  (void)arg;
  for (int i = 0; !atomic_load(&stepped); i++) {
    CUgraph none = NULL;
    CUstream s = streams[1 + i % 2];
    OK(heddle_hook_cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(heddle_hook_cuMemsetD32Async(DEVICE_BASE, 1, 16, s));
    OK(heddle_hook_cuMemsetD8Async(0x1000, 1, 16, s));
    OK(heddle_hook_cuStreamEndCapture(s, &none));
    sched_yield();
  }
  return NULL;
}
static void *mixer(void *arg) {
  CUgraphExec x = *(CUgraphExec *)arg;
  for (int i = 0; i < TIMES; i++) {
    go(x, streams[i % 3]);
    OK(heddle_hook_cuMemsetD8Async(0x1000, 1, 16, streams[(i + 1) % 3]));
  }
  return NULL;
}
static void capture_threads(void) {
  pthread_t t[3], c;
  CUgraphExec x[3];
  with_captures();
  struct graph *g = graph_new();
  struct node *h = host_node(g), *k = add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  edge(g, h, k);
  edge(g, k, host_node(g));
  heddle_real.cuLaunchHostFunc = host_func_outside;
  fake_native = memop_outside;
  for (int i = 0; i < 3; i++) x[i] = make(g);
  for (int i = 0; i < 3; i++) OK(heddle_hook_cuMemsetD32Async(DEVICE_BASE, 1, 16, streams[i]));
  start_executor();
  CHECK(pthread_create(&c, NULL, capturer, NULL) == 0, "thread");
  for (size_t i = 0; i < 3; i++) CHECK(pthread_create(&t[i], NULL, mixer, &x[i]) == 0, "thread");
  for (size_t i = 0; i < 3; i++) pthread_join(t[i], NULL);
  atomic_store(&stepped, true);
  pthread_join(c, NULL);
  OK(heddle_order_drain(fake_session, NULL));
  stop_executor();
  CHECK(heddle_session_live(fake_session) && atomic_load(&heddle_hooks_captures) == 0, "the session ended, or a capture did not");
  CHECK(launches + atomic_load(&natively) == 3 * TIMES, "%u launches in steps and %u whole ones", launches, atomic_load(&natively));
  graph_free(g);
}

int main(int argc, char **argv) {
  static const struct test all[] = {{"cuts", cuts}, {"kinds", kinds}, {"branches", branches}, {"events", events}, {"changed", changed_events}, {"changes", changes},
                                    {"closed", closed}, {"bounded", bounded}, {"threads", threads}, {"captured", captured}, {"captured-since", captured_since},
                                    {"capture-threads", capture_threads}};
  return run_test(argc, argv, all, sizeof all / sizeof *all);
}
