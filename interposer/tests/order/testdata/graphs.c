// Graphs, one behaviour a run: graphs NAME. The driver's graphs are structs of this file, the daemon keeps what it is given, and the
// executor is a function that takes the ring's records when the program sleeps or the test says so.
#include "fake.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../../src/code/code.h"
#include "../../../src/graph/graph.h"

#define OK(call) CHECK((call) == CUDA_SUCCESS, "not CUDA_SUCCESS")
#define KERNEL ((CUfunction)0xf1)
#define CONTEXT ((CUcontext)1)

// ---- the driver's graphs ----

enum { NODES = 512, EDGES = 512 };
struct node {
  CUgraphNodeType type;
  CUDA_KERNEL_NODE_PARAMS kernel;
  CUDA_MEMSET_NODE_PARAMS set;
  CUDA_MEMCPY3D copy;
  CUgraph child;
  unsigned cluster;
  bool cooperative, updatable;
};
struct graph {
  struct node **node;
  struct node **from, **to;
  size_t n, edges, room, edge_room;
};
static uint64_t arguments[3] = {DEVICE_BASE, DEVICE_BASE + 64, 5};
static void *parameters[3] = {&arguments[0], &arguments[1], &arguments[2]};

static struct graph *graph_new(void) { return calloc(1, sizeof(struct graph)); }
static void graph_free(struct graph *g) {
  for (size_t i = 0; i < g->n; i++) free(g->node[i]);
  free(g->node);
  free(g->from);
  free(g->to);
  free(g);
}
static struct node *add(struct graph *g, CUgraphNodeType type) {
  struct node *n = calloc(1, sizeof *n);
  if (g->n == g->room) g->node = realloc(g->node, (g->room = 2 * g->room + 8) * sizeof *g->node);
  n->type = type;
  n->kernel = (CUDA_KERNEL_NODE_PARAMS){.func = KERNEL, .gridDimX = 2, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 32, .blockDimY = 1, .blockDimZ = 1,
                                        .kernelParams = parameters};
  n->set = (CUDA_MEMSET_NODE_PARAMS){.dst = DEVICE_BASE, .value = 3, .elementSize = 4, .width = 16, .height = 1};
  n->copy = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = DEVICE_BASE, .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                            .dstDevice = DEVICE_BASE + 4096, .WidthInBytes = 64, .Height = 1, .Depth = 1};
  return g->node[g->n++] = n;
}
static void edge(struct graph *g, struct node *from, struct node *to) {
  if (g->edges == g->edge_room) {
    g->edge_room = 2 * g->edge_room + 8;
    g->from = realloc(g->from, g->edge_room * sizeof *g->from);
    g->to = realloc(g->to, g->edge_room * sizeof *g->to);
  }
  g->from[g->edges] = from;
  g->to[g->edges++] = to;
}

static CUresult get_nodes(CUgraph h, CUgraphNode *out, size_t *n) {
  const struct graph *g = (struct graph *)h;
  for (size_t i = 0; out != NULL && i < g->n; i++) out[i] = (CUgraphNode)g->node[i];
  *n = g->n;
  return CUDA_SUCCESS;
}
static CUresult get_edges(CUgraph h, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *data, size_t *n) {
  const struct graph *g = (struct graph *)h;
  if (from != NULL && data == NULL) return CUDA_ERROR_LOSSY_QUERY;
  for (size_t i = 0; from != NULL && i < g->edges; i++) {
    from[i] = (CUgraphNode)g->from[i];
    to[i] = (CUgraphNode)g->to[i];
  }
  *n = g->edges;
  return CUDA_SUCCESS;
}
static CUresult get_type(CUgraphNode n, CUgraphNodeType *type) { *type = ((struct node *)n)->type; return CUDA_SUCCESS; }
static CUresult get_kernel(CUgraphNode n, CUDA_KERNEL_NODE_PARAMS *p) { *p = ((struct node *)n)->kernel; return CUDA_SUCCESS; }
static CUresult get_memset(CUgraphNode n, CUDA_MEMSET_NODE_PARAMS *p) { *p = ((struct node *)n)->set; return CUDA_SUCCESS; }
static CUresult get_copy(CUgraphNode n, CUDA_MEMCPY3D *p) { *p = ((struct node *)n)->copy; return CUDA_SUCCESS; }
static CUresult get_child(CUgraphNode n, CUgraph *g) { *g = ((struct node *)n)->child; return CUDA_SUCCESS; }
static CUresult get_attribute(CUgraphNode h, CUkernelNodeAttrID a, CUkernelNodeAttrValue *v) {
  const struct node *n = (struct node *)h;
  if (a == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) v->clusterDim.x = v->clusterDim.y = v->clusterDim.z = 1;
  if (a == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION && n->cluster != 0) v->clusterDim.x = n->cluster;
  if (a == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) v->cooperative = n->cooperative;
  if (a == CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE) v->deviceUpdatableKernelNode.deviceUpdatable = n->updatable;
  return a == CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
static CUresult occupancy(int *blocks, CUfunction f, int threads, size_t shared) { (void)f, (void)threads, (void)shared; *blocks = 4; return CUDA_SUCCESS; }

static _Atomic uintptr_t execs;
static CUresult instantiate(CUgraphExec *x, CUgraph g, unsigned long long flags) {
  (void)g, (void)flags;
  *x = (CUgraphExec)(0x5000 + 64 * atomic_fetch_add(&execs, 1));
  return CUDA_SUCCESS;
}
static CUresult exec_destroy(CUgraphExec x) { (void)x; return CUDA_SUCCESS; }
static _Atomic uint32_t natively;
static CUresult graph_launch(CUgraphExec x, CUstream s) { (void)x, (void)s; atomic_fetch_add(&natively, 1); return CUDA_SUCCESS; }
static CUresult set_kernel(CUgraphExec x, CUgraphNode n, const CUDA_KERNEL_NODE_PARAMS *p) { (void)x, (void)n, (void)p; return CUDA_SUCCESS; }
static CUresult set_memset(CUgraphExec x, CUgraphNode n, const CUDA_MEMSET_NODE_PARAMS *p, CUcontext c) { (void)x, (void)n, (void)p, (void)c; return CUDA_SUCCESS; }
static CUresult set_copy(CUgraphExec x, CUgraphNode n, const CUDA_MEMCPY3D *p, CUcontext c) { (void)x, (void)n, (void)p, (void)c; return CUDA_SUCCESS; }
static CUresult set_child(CUgraphExec x, CUgraphNode n, CUgraph g) { (void)x, (void)n, (void)g; return CUDA_SUCCESS; }
static CUresult set_any(CUgraphExec x, CUgraphNode n, CUgraphNodeParams *p) { (void)x, (void)n, (void)p; return CUDA_SUCCESS; }
static CUresult set_enabled(CUgraphExec x, CUgraphNode n, unsigned on) { (void)x, (void)n, (void)on; return CUDA_SUCCESS; }
static CUresult exec_update(CUgraphExec x, CUgraph g, CUgraphExecUpdateResultInfo *i) { (void)x, (void)g, (void)i; return CUDA_SUCCESS; }

static uint32_t replayed[16];
static CUresult replay_launch(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned sh, CUstream s, void **p, void **e) {
  (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)sh, (void)s, (void)p;
  CHECK(f == KERNEL && *(uint64_t *)e[1] == arguments[0], "a launch of another kernel, or with other parameters");
  replayed[0] += gx;
  return CUDA_SUCCESS;
}
static CUresult replay_memset(CUdeviceptr d, unsigned v, size_t n, CUstream s) { (void)d, (void)n, (void)s; replayed[1] += v; return CUDA_SUCCESS; }

// ---- the daemon ----

enum { KEPT = 8192 };
static struct kept {
  const unsigned char *at;
  uint64_t bytes;
  uint32_t nodes;
  uint64_t dropped; // the ring's tail at that time; 0: it was not
} kept[KEPT];
static _Atomic uint32_t given, drops, refuse;
static pthread_mutex_t daemon_lock = PTHREAD_MUTEX_INITIALIZER;

static int request(uint16_t type, const void *body, int fd, void *reply) {
  const struct heddle_wire_graph *ask = body;
  pthread_mutex_lock(&daemon_lock);
  int status = HEDDLE_WIRE_STATUS_OK;
  if (type == HEDDLE_WIRE_TYPE_GRAPH_DROP) {
    CHECK(ask->graph_id <= given && kept[ask->graph_id].dropped == 0, "graph %u is dropped twice, or was never given", ask->graph_id);
    kept[ask->graph_id].dropped = heddle_load_acquire64(&fake_session->ring.producer->tail) + 1;
    drops++;
  } else if (refuse != 0) {
    status = HEDDLE_WIRE_STATUS_REFUSED;
  } else {
    CHECK(type == HEDDLE_WIRE_TYPE_GRAPH && given + 1 < KEPT, "request %u", type);
    CHECK(fcntl(fd, F_GET_SEALS) == (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), "the file is not sealed");
    CHECK((uint64_t)lseek(fd, 0, SEEK_END) == ask->bytes, "its length");
    const unsigned char *at = mmap(NULL, ask->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(at != MAP_FAILED, "its content");
    kept[++given] = (struct kept){at, ask->bytes, ask->nodes, 0};
    ((struct heddle_wire_graph *)reply)->graph_id = given;
  }
  pthread_mutex_unlock(&daemon_lock);
  return status;
}

// The records of a graph as the contract has them; node[seq] points at record seq.
static uint32_t check_records(uint32_t id, const struct heddle_wire_record **node, uint32_t room) {
  uint32_t n = 0;
  for (uint64_t at = 0; at < kept[id].bytes;) {
    const struct heddle_wire_record *r = (const struct heddle_wire_record *)(kept[id].at + at);
    n++;
    CHECK(r->size % 16 == 0 && r->size <= kept[id].bytes - at && r->seq == n && r->lane == 0 && r->ready == 0 && r->flags == 0 && r->pad0 == 0, "record %u", n);
    CHECK(r->ndeps <= HEDDLE_WIRE_MAX_DEPS, "record %u follows %u", n, r->ndeps);
    for (uint32_t i = 0; i < r->ndeps; i++) {
      const struct heddle_wire_dep *d = (const struct heddle_wire_dep *)(r + 1) + i;
      CHECK(d->lane == 0 && d->value >= 1 && d->value < n, "record %u follows %u of lane %u", n, d->value, d->lane);
    }
    if (n < room) node[n] = r;
    at += r->size;
  }
  CHECK(n == kept[id].nodes, "%u records, not %u", n, kept[id].nodes);
  return n;
}
static const void *body(const struct heddle_wire_record *r) {
  return (const unsigned char *)(r + 1) + ((r->ndeps * sizeof(struct heddle_wire_dep) + 15) & ~UINT64_C(15));
}
static uint32_t dep(const struct heddle_wire_record *r, uint32_t i) { return ((const struct heddle_wire_dep *)(r + 1))[i].value; }

// ---- the executor ----

static pthread_mutex_t executor_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t launched[KEPT], last_graph, last_ndeps;
static struct heddle_wire_dep last_dep;
static bool hold_back; // takes records and completes none

static void execute(void) {
  pthread_mutex_lock(&executor_lock);
  struct heddle_ring *r = &fake_session->ring;
  uint64_t tail = heddle_load_acquire64(&r->producer->tail), at = r->consumer->read;
  while (at != tail) {
    const struct heddle_wire_record *h = (const struct heddle_wire_record *)(r->data + (at & r->mask));
    at += h->size;
    if (h->kind == HEDDLE_WIRE_KIND_PAD || h->seq == 0 || h->kind == HEDDLE_WIRE_KIND_SIGNAL) continue;
    if (h->kind == HEDDLE_WIRE_KIND_GRAPH) {
      uint32_t id = ((const struct heddle_wire_graph_launch *)body(h))->graph;
      pthread_mutex_lock(&daemon_lock);
      CHECK(id >= 1 && id <= given, "graph %u is launched, which the daemon does not know", id);
      CHECK(kept[id].dropped == 0 || at < kept[id].dropped, "graph %u is launched after it was dropped", id);
      pthread_mutex_unlock(&daemon_lock);
      launched[id]++;
      last_graph = id;
      last_ndeps = h->ndeps;
      if (h->ndeps != 0) last_dep = ((const struct heddle_wire_dep *)(h + 1))[0];
    }
    heddle_store_release32(&fake_session->lanes[h->lane].issued, h->seq);
    if (!hold_back) heddle_store_release32(&fake_session->lanes[h->lane].done, h->seq);
  }
  heddle_store_release64(&r->consumer->read, at);
  if (!hold_back) heddle_store_release64(&r->consumer->head, at);
  pthread_mutex_unlock(&executor_lock);
}
static int on_sleep(uint32_t *word, uint32_t expected) {
  (void)word, (void)expected;
  execute();
  return 0;
}

static CUgraphExec make(struct graph *g) {
  CUgraphExec x = NULL;
  OK(heddle_hook_cuGraphInstantiateWithFlags(&x, (CUgraph)g, 0));
  return x;
}
static void go(CUgraphExec x, CUstream s) { OK(heddle_hook_cuGraphLaunch(x, s)); }

// ---- what a description looks like ----

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

// What cannot be mirrored runs natively and says why.
static void expect_native(struct graph *g, enum heddle_native_reason why, const char *what) {
  uint32_t before = fake_native_counts[why], runs = natively, have = given;
  CUgraphExec x = make(g);
  go(x, CU_STREAM_LEGACY);
  CHECK(given == have && natively == runs + 1, "%s: %u graphs given, %u native launches", what, given - have, natively - runs);
  CHECK(fake_native_counts[why] == before + 1, "%s: counted %u times as reason %d", what, fake_native_counts[why] - before, (int)why);
  OK(heddle_hook_cuGraphExecDestroy(x));
}

static void native(void) {
  static const struct { CUgraphNodeType type; enum heddle_native_reason why; } types[] = {
      {CU_GRAPH_NODE_TYPE_HOST, HEDDLE_NATIVE_GRAPH_HOST},         {CU_GRAPH_NODE_TYPE_MEM_ALLOC, HEDDLE_NATIVE_GRAPH_MEMORY},
      {CU_GRAPH_NODE_TYPE_MEM_FREE, HEDDLE_NATIVE_GRAPH_MEMORY},   {CU_GRAPH_NODE_TYPE_WAIT_EVENT, HEDDLE_NATIVE_GRAPH_EVENT},
      {CU_GRAPH_NODE_TYPE_EVENT_RECORD, HEDDLE_NATIVE_GRAPH_EVENT}, {CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL, HEDDLE_NATIVE_GRAPH},
      {CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT, HEDDLE_NATIVE_GRAPH},    {CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, HEDDLE_NATIVE_GRAPH},
      {CU_GRAPH_NODE_TYPE_CONDITIONAL, HEDDLE_NATIVE_GRAPH},       {(CUgraphNodeType)99, HEDDLE_NATIVE_GRAPH}};
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
  n->set.dst = 0x1000;
  expect_native(g, HEDDLE_NATIVE_FOREIGN_MEMORY, "foreign memory");
  n->set.dst = (CUdeviceptr)(uintptr_t)fake_registered_host;
  expect_native(g, HEDDLE_NATIVE_HOST_REGISTERED, "registered memory");
  n->set.dst = FREED_BASE;
  expect_native(g, HEDDLE_NATIVE_ARGUMENT, "freed memory");
  n->type = CU_GRAPH_NODE_TYPE_MEMCPY;
  n->copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  n->copy.srcHost = arguments;
  expect_native(g, HEDDLE_NATIVE_FOREIGN_MEMORY, "pageable memory");
  n->copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
  expect_native(g, HEDDLE_NATIVE_FOREIGN_MEMORY, "an array");
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

// ---- changes ----

static const struct heddle_wire_record *record_of(uint32_t id, uint32_t seq) {
  static const struct heddle_wire_record *r[64];
  check_records(id, r, 64);
  return r[seq];
}

static void changes(void) {
  struct graph *g = graph_new();
  struct node *k = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *m = add(g, CU_GRAPH_NODE_TYPE_MEMSET), *c = add(g, CU_GRAPH_NODE_TYPE_MEMCPY);
  edge(g, k, m);
  edge(g, m, c);
  k->cluster = 2;
  CUgraphExec x = make(g);
  CUDA_KERNEL_NODE_PARAMS p = k->kernel;
  p.gridDimX = 6;
  OK(heddle_hook_cuGraphExecKernelNodeSetParams_v2(x, (CUgraphNode)k, &p));
  CUDA_MEMSET_NODE_PARAMS s = m->set;
  s.value = 9;
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)m, &s, CONTEXT));
  CUDA_MEMCPY3D q = c->copy;
  q.dstDevice += 512;
  OK(heddle_hook_cuGraphExecMemcpyNodeSetParams(x, (CUgraphNode)c, &q, CONTEXT));
  CHECK(given == 1, "a change alone gives nothing");
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 2, "%u given", given);
  const struct heddle_wire_launch *w = body(record_of(2, 1));
  CHECK(w->grid_x == 6 && w->cluster_x == 2 && (w->flags & HEDDLE_WIRE_LAUNCH_FLAG_CLUSTER) != 0, "the kernel keeps its attributes");
  CHECK(((const struct heddle_wire_memset *)body(record_of(2, 2)))->value == 9, "the memset");
  CHECK(((const struct heddle_wire_copy *)body(record_of(2, 3)))->dst == q.dstDevice, "the copy");
  OK(heddle_hook_cuGraphNodeSetEnabled(x, (CUgraphNode)m, 0));
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 3 && record_of(3, 2)->kind == HEDDLE_WIRE_KIND_EVENT && dep(record_of(3, 3), 0) == 2, "a disabled node joins");
  s.value = 10; // while it is disabled
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)m, &s, CONTEXT));
  OK(heddle_hook_cuGraphNodeSetEnabled(x, (CUgraphNode)m, 1));
  CUgraphNodeParams any;
  memset(&any, 0, sizeof any);
  any.type = CU_GRAPH_NODE_TYPE_KERNEL;
  any.kernel = (CUDA_KERNEL_NODE_PARAMS_v3){.func = KERNEL, .gridDimX = 8, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 32, .blockDimY = 1, .blockDimZ = 1, .kernelParams = parameters};
  OK(heddle_hook_cuGraphExecNodeSetParams(x, (CUgraphNode)k, &any));
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 4 && ((const struct heddle_wire_memset *)body(record_of(4, 2)))->value == 10, "enabled again");
  CHECK(((const struct heddle_wire_launch *)body(record_of(4, 1)))->grid_x == 8, "by the call for any node");
  // To something that cannot be mirrored, and back.
  s.dst = 0x1000;
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)m, &s, CONTEXT));
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 4 && natively == 1, "foreign memory");
  s.dst = DEVICE_BASE;
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)m, &s, CONTEXT));
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(natively == 1 && last_graph == 4, "the graph that the executor still has: %u, %u native launches", last_graph, natively);
  // A node that we cannot name: native for good.
  OK(heddle_hook_cuGraphNodeSetEnabled(x, (CUgraphNode)0x99, 0));
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 2 && drops == 4, "%u native launches, %u drops", natively, drops);
  graph_free(g);
}

static void update(void) {
  struct graph *g = graph_new(), *h = graph_new();
  struct node *old = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *new = add(h, CU_GRAPH_NODE_TYPE_KERNEL);
  new->kernel.gridDimX = 5;
  CUgraphExec x = make(g);
  CUgraphExecUpdateResultInfo info;
  hold_back = true;
  go(x, CU_STREAM_LEGACY);
  execute();
  OK(heddle_hook_cuGraphExecUpdate_v2(x, (CUgraph)h, &info));
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(given == 2 && launched[1] == 1 && launched[2] == 1, "launches under way keep the old graph");
  CHECK(((const struct heddle_wire_launch *)body(record_of(2, 1)))->grid_x == 5, "the new one");
  CUDA_KERNEL_NODE_PARAMS p = new->kernel;
  p.gridDimX = 4;
  OK(heddle_hook_cuGraphExecKernelNodeSetParams_v2(x, (CUgraphNode)new, &p));
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 3 && ((const struct heddle_wire_launch *)body(record_of(3, 1)))->grid_x == 4, "a node of the graph given last");
  OK(heddle_hook_cuGraphExecKernelNodeSetParams_v2(x, (CUgraphNode)old, &p)); // which node that is the driver alone knows
  hold_back = false;
  execute();
  heddle_store_release32(&fake_session->lanes[0].done, 3);
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 1, "%u native launches", natively);
  // A graph with a disabled node: whether it stays so after an update the driver alone knows.
  CUgraphExec y = make(h);
  OK(heddle_hook_cuGraphNodeSetEnabled(y, (CUgraphNode)new, 0));
  OK(heddle_hook_cuGraphExecUpdate_v2(y, (CUgraph)h, &info));
  go(y, CU_STREAM_LEGACY);
  CHECK(natively == 2, "%u native launches", natively);
  graph_free(g);
  graph_free(h);
}

static void child(void) {
  struct graph *outer = graph_new(), *inner = graph_new(), *other = graph_new();
  struct node *n = add(inner, CU_GRAPH_NODE_TYPE_MEMSET), *c = add(outer, CU_GRAPH_NODE_TYPE_GRAPH);
  add(other, CU_GRAPH_NODE_TYPE_MEMSET)->set.value = 77;
  c->child = (CUgraph)inner;
  CUgraphExec x = make(outer);
  CUDA_MEMSET_NODE_PARAMS s = n->set;
  s.value = 55;
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)n, &s, CONTEXT)); // a node within
  go(x, CU_STREAM_LEGACY);
  CHECK(((const struct heddle_wire_memset *)body(record_of(2, 1)))->value == 55, "a node of the graph within");
  OK(heddle_hook_cuGraphExecChildGraphNodeSetParams(x, (CUgraphNode)c, (CUgraph)other));
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 3 && ((const struct heddle_wire_memset *)body(record_of(3, 1)))->value == 77, "the graph within");
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)n, &s, CONTEXT));
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 1, "a node that nobody names any more");
  graph_free(outer);
  graph_free(inner);
  graph_free(other);
}

// A program that changes between a few sets of addresses finds them all there.
static void alternating(void) {
  struct graph *g = graph_new();
  struct node *n = add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  CUgraphExec x = make(g);
  CUDA_MEMSET_NODE_PARAMS s = n->set;
  for (unsigned i = 0; i < 60; i++) {
    s.value = i % 3;
    OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)n, &s, CONTEXT));
    go(x, CU_STREAM_LEGACY);
    execute();
  }
  CHECK(given == 4 && drops == 0 && natively == 0, "%u given, %u dropped, %u native launches", given, drops, natively);
  OK(heddle_hook_cuGraphExecDestroy(x));
  CHECK(drops == 4, "%u dropped", drops);
  graph_free(g);
}

// One that is another one at each launch is native, until it stays for two.
static void hasty(void) {
  struct graph *g = graph_new();
  struct node *n = add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  CUgraphExec x = make(g);
  CUDA_MEMSET_NODE_PARAMS s = n->set;
  for (unsigned i = 0; i < 60; i++) {
    s.value = 100 + i;
    OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)n, &s, CONTEXT));
    go(x, CU_STREAM_LEGACY);
    execute();
  }
  uint32_t had = given, ran = natively;
  CHECK(had < 12 && ran > 45 && fake_native_counts[HEDDLE_NATIVE_GRAPH_CHANGES] == ran, "%u given, %u native launches", had, ran);
  for (unsigned i = 0; i < 3; i++) go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(given == had + 1 && launched[given] == 3 && natively == ran, "%u given, launched %u times", given, launched[given]);
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
  p.dst = 0x1000;
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

static void lose(void) { heddle_store_release32(&fake_session->status->state, HEDDLE_WIRE_STATE_CLOSED); }

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

static void drop(void) {
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  hold_back = true;
  CUgraphExec x = make(g);
  uint64_t bytes;
  go(x, CU_STREAM_LEGACY);
  OK(heddle_hook_cuGraphExecDestroy(x)); // while the launch is under way
  CHECK(drops == 1 && heddle_graph_records(fake_session, 1, &bytes) != NULL, "its nodes are needed until the launch is done");
  hold_back = false;
  execute();
  x = make(g);
  CHECK(heddle_graph_records(fake_session, 1, &bytes) == NULL, "they are gone with the next");
  heddle_graph_context_gone(CONTEXT);
  CHECK(drops == 2, "%u drops", drops);
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 1, "the driver judges a graph of a context that is gone");
  for (int i = 0; i < 3000; i++) { // an endless stream of new graphs
    x = make(g);
    go(x, CU_STREAM_LEGACY);
    execute();
    OK(heddle_hook_cuGraphExecDestroy(x));
  }
  CHECK(given == 3002 && drops == 3002 && heddle_graph_records(fake_session, 3001, &bytes) == NULL, "%u given, %u dropped", given, drops);
  CUgraphExec many[HEDDLE_WIRE_MAX_GRAPHS + 1];
  for (uint32_t i = 0; i <= HEDDLE_WIRE_MAX_GRAPHS; i++) many[i] = make(g);
  CHECK(given == 3002 + HEDDLE_WIRE_MAX_GRAPHS, "%u given", given);
  go(many[HEDDLE_WIRE_MAX_GRAPHS], CU_STREAM_LEGACY);
  CHECK(fake_native_counts[HEDDLE_NATIVE_GRAPH_REFUSED] == 1, "one more than a session may have");
  for (uint32_t i = 0; i <= HEDDLE_WIRE_MAX_GRAPHS; i++) OK(heddle_hook_cuGraphExecDestroy(many[i]));
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

// What the program gave to a graph to keep is let go of when no launch needs it any more.
static CUresult retain(CUgraph g, CUuserObject o, unsigned n, unsigned f) { (void)g, (void)o, (void)n, (void)f; return CUDA_SUCCESS; }
static CUresult destroy_at_rest(CUgraphExec x) {
  (void)x;
  CHECK(launched[1] == 1, "the launch is still under way");
  return CUDA_SUCCESS;
}
static CUresult update_at_rest(CUgraphExec x, CUgraph g, CUgraphExecUpdateResultInfo *i) {
  (void)g, (void)i;
  return destroy_at_rest(x);
}
static void objects(void) {
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  heddle_real.cuGraphRetainUserObject = retain;
  heddle_real.cuGraphExecUpdate_v2 = update_at_rest;
  heddle_real.cuGraphExecDestroy = destroy_at_rest;
  OK(heddle_hook_cuGraphRetainUserObject((CUgraph)g, NULL, 1, 0));
  CUgraphExec x = make(g), y = make(g);
  CUgraphExecUpdateResultInfo info;
  go(x, CU_STREAM_LEGACY);
  OK(heddle_hook_cuGraphExecUpdate_v2(x, (CUgraph)g, &info));
  launched[1] = 0;
  go(x, CU_STREAM_LEGACY);
  OK(heddle_hook_cuGraphExecDestroy(x));
  OK(heddle_hook_cuGraphExecDestroy(y)); // never launched
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

// Launches of one graph by several threads, while others change it, make and destroy graphs of their own, and the executor works.
static _Atomic bool over;
static struct graph *shared_graph;
static CUgraphExec shared_exec;
static void *launcher(void *arg) {
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  (void)arg;
  for (int i = 0; i < 2000; i++) go(shared_exec, s);
  return NULL;
}
static void *changer(void *arg) {
  CUDA_MEMSET_NODE_PARAMS s = shared_graph->node[0]->set;
  (void)arg;
  for (unsigned i = 0; i < 300; i++) {
    s.value = i % 7;
    OK(heddle_hook_cuGraphExecMemsetNodeSetParams(shared_exec, (CUgraphNode)shared_graph->node[0], &s, CONTEXT));
  }
  return NULL;
}
static void *maker(void *arg) {
  (void)arg;
  for (int i = 0; i < 300; i++) {
    CUgraphExec x = make(shared_graph);
    go(x, CU_STREAM_LEGACY);
    OK(heddle_hook_cuGraphExecDestroy(x));
  }
  return NULL;
}
static void *executor(void *arg) {
  (void)arg;
  while (!atomic_load(&over)) {
    execute();
    struct heddle_ring *r = &fake_session->ring;
    heddle_add32(&r->consumer->space_bell, 1);
    (void)heddle_futex_wake(&r->consumer->space_bell, 100);
  }
  return NULL;
}
static void threads(void) {
  pthread_t t[6], e;
  fake_sleep = NULL;
  shared_graph = graph_new();
  add(shared_graph, CU_GRAPH_NODE_TYPE_MEMSET);
  shared_exec = make(shared_graph);
  hold_back = false;
  CHECK(pthread_create(&e, NULL, executor, NULL) == 0, "thread");
  for (int i = 0; i < 6; i++) CHECK(pthread_create(&t[i], NULL, i < 3 ? launcher : i < 4 ? changer : maker, NULL) == 0, "thread");
  for (int i = 0; i < 6; i++) pthread_join(t[i], NULL);
  OK(heddle_hook_cuGraphExecDestroy(shared_exec));
  OK(heddle_order_drain(fake_session, NULL));
  atomic_store(&over, true);
  pthread_join(e, NULL);
  CHECK(drops == given, "%u given, %u dropped", given, drops);
  graph_free(shared_graph);
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
  static const struct { const char *name; void (*f)(void); } all[] = {
      {"edges", edges}, {"records", records}, {"kinds", kinds}, {"native", native}, {"refused", refused}, {"changes", changes}, {"update", update},
      {"child", child}, {"alternating", alternating}, {"hasty", hasty}, {"order", order}, {"code", code}, {"globals", globals},
      {"drop", drop}, {"memory", memory}, {"objects", objects}, {"beside", beside}, {"alone", alone}, {"doubt", doubt}, {"large", large}, {"threads", threads}};
  fake_start(1 << 20);
  fake_request = request;
  fake_sleep = on_sleep;
  heddle_real.cuGraphGetNodes = get_nodes;
  heddle_real.cuGraphGetEdges_v2 = get_edges;
  heddle_real.cuGraphNodeGetType = get_type;
  heddle_real.cuGraphKernelNodeGetParams_v2 = get_kernel;
  heddle_real.cuGraphKernelNodeGetAttribute = get_attribute;
  heddle_real.cuGraphMemsetNodeGetParams = get_memset;
  heddle_real.cuGraphMemcpyNodeGetParams = get_copy;
  heddle_real.cuGraphChildGraphNodeGetGraph = get_child;
  heddle_real.cuGraphInstantiateWithFlags = instantiate;
  heddle_real.cuGraphExecDestroy = exec_destroy;
  heddle_real.cuGraphLaunch = graph_launch;
  heddle_real.cuGraphExecKernelNodeSetParams_v2 = set_kernel;
  heddle_real.cuGraphExecMemsetNodeSetParams = set_memset;
  heddle_real.cuGraphExecMemcpyNodeSetParams = set_copy;
  heddle_real.cuGraphExecChildGraphNodeSetParams = set_child;
  heddle_real.cuGraphExecNodeSetParams = set_any;
  heddle_real.cuGraphNodeSetEnabled = set_enabled;
  heddle_real.cuGraphExecUpdate_v2 = exec_update;
  heddle_real.cuOccupancyMaxActiveBlocksPerMultiprocessor = occupancy;
  heddle_real.cuLaunchKernel = replay_launch;
  heddle_real.cuMemsetD32Async = replay_memset;
  for (size_t i = 0; argc == 2 && i < sizeof all / sizeof *all; i++)
    if (strcmp(argv[1], all[i].name) == 0) {
      all[i].f();
      printf("%s\n", all[i].name);
      return 0;
    }
  fprintf(stderr, "no such test\n");
  return 2;
}
