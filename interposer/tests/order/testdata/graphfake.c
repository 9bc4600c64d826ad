// The driver, the daemon and the executor of the tests of graphs.
#include "graphfake.h"

// ---- the driver's graphs ----

uint64_t arguments[3] = {DEVICE_BASE, DEVICE_BASE + 64, 5};
void *parameters[3] = {&arguments[0], &arguments[1], &arguments[2]};

struct graph *graph_new(void) { return calloc(1, sizeof(struct graph)); }
void graph_free(struct graph *g) {
  for (size_t i = 0; i < g->n; i++) free(g->node[i]);
  free(g->node);
  free(g->from);
  free(g->to);
  free(g);
}
struct node *add(struct graph *g, CUgraphNodeType type) {
  struct node *n = calloc(1, sizeof *n);
  if (g->n == g->room) g->node = realloc(g->node, (g->room = 2 * g->room + 8) * sizeof *g->node);
  n->type = type;
  n->kernel = (CUDA_KERNEL_NODE_PARAMS){.func = KERNEL, .gridDimX = 2, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 32, .blockDimY = 1, .blockDimZ = 1,
                                        .kernelParams = parameters};
  n->set = (CUDA_MEMSET_NODE_PARAMS){.dst = DEVICE_BASE, .value = 3, .elementSize = 4, .width = 16, .height = 1};
  n->copy = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = DEVICE_BASE, .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                            .dstDevice = DEVICE_BASE + 4096, .WidthInBytes = 64, .Height = 1, .Depth = 1};
  n->op = (CUstreamBatchMemOpParams){.writeValue = {.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32, .address = DEVICE_BASE, .value = 4}};
  n->memops = (CUDA_BATCH_MEM_OP_NODE_PARAMS){.ctx = CONTEXT, .count = 1, .paramArray = &n->op};
  return g->node[g->n++] = n;
}
void edge(struct graph *g, struct node *from, struct node *to) {
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
static CUresult get_host(CUgraphNode n, CUDA_HOST_NODE_PARAMS *p) { *p = ((struct node *)n)->host; return CUDA_SUCCESS; }
static CUresult get_event(CUgraphNode n, CUevent *e) { *e = ((struct node *)n)->event; return CUDA_SUCCESS; }
static CUresult get_memops(CUgraphNode n, CUDA_BATCH_MEM_OP_NODE_PARAMS *p) { *p = ((struct node *)n)->memops; return CUDA_SUCCESS; }
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

enum { ALONE = 0x900 }; // handles of graphs of one node
static _Atomic uintptr_t execs;
static CUresult instantiate(CUgraphExec *x, CUgraph g, unsigned long long flags) {
  (void)flags;
  if ((uintptr_t)g >= ALONE && (uintptr_t)g < ALONE + 0x100) {
    *x = (CUgraphExec)(uintptr_t)g;
    return CUDA_SUCCESS;
  }
  *x = (CUgraphExec)(0x5000 + 64 * atomic_fetch_add(&execs, 1));
  return CUDA_SUCCESS;
}
static CUresult exec_destroy(CUgraphExec x) { (void)x; return CUDA_SUCCESS; }
_Atomic uint32_t natively;
struct told told[64];
uint32_t ntold;
void (*on_told)(void);
static CUresult tell(char what) {
  execute(); // whatever was published before it
  if (ntold < sizeof told / sizeof *told) told[ntold++] = (struct told){what, launches};
  if (on_told != NULL) on_told();
  return CUDA_SUCCESS;
}
static CUresult graph_launch(CUgraphExec x, CUstream s) {
  (void)s;
  if ((uintptr_t)x >= ALONE && (uintptr_t)x < ALONE + 0x100) return tell('g');
  atomic_fetch_add(&natively, 1);
  return CUDA_SUCCESS;
}
static _Atomic uint32_t alone_graphs;
static CUresult graph_create(CUgraph *g, unsigned flags) { (void)flags; *g = (CUgraph)(uintptr_t)(ALONE + atomic_fetch_add(&alone_graphs, 1)); return CUDA_SUCCESS; }
static CUresult graph_destroy(CUgraph g) { (void)g; return CUDA_SUCCESS; }
static CUresult add_copy(CUgraphNode *n, CUgraph g, const CUgraphNode *d, size_t nd, const CUDA_MEMCPY3D *p, CUcontext c) {
  (void)n, (void)g, (void)d, (void)p;
  CHECK(nd == 0 && c == CONTEXT, "one copy alone");
  return CUDA_SUCCESS;
}
static CUresult add_memset(CUgraphNode *n, CUgraph g, const CUgraphNode *d, size_t nd, const CUDA_MEMSET_NODE_PARAMS *p, CUcontext c) {
  (void)n, (void)g, (void)d, (void)p;
  CHECK(nd == 0 && c == CONTEXT, "one memset alone");
  return CUDA_SUCCESS;
}
static CUresult host_func(CUstream s, CUhostFn f, void *data) { (void)s, (void)f, (void)data; return tell('h'); }
static CUresult batch_memop(CUstream s, unsigned n, CUstreamBatchMemOpParams *p, unsigned flags) { (void)s, (void)n, (void)p, (void)flags; return tell('m'); }
static CUresult set_host(CUgraphExec x, CUgraphNode n, const CUDA_HOST_NODE_PARAMS *p) { (void)x, (void)n, (void)p; return CUDA_SUCCESS; }
static CUresult set_event(CUgraphExec x, CUgraphNode n, CUevent e) { (void)x, (void)n, (void)e; return CUDA_SUCCESS; }
static CUresult set_memops(CUgraphExec x, CUgraphNode n, const CUDA_BATCH_MEM_OP_NODE_PARAMS *p) { (void)x, (void)n, (void)p; return CUDA_SUCCESS; }
static CUresult set_kernel(CUgraphExec x, CUgraphNode n, const CUDA_KERNEL_NODE_PARAMS *p) { (void)x, (void)n, (void)p; return CUDA_SUCCESS; }
static CUresult set_memset(CUgraphExec x, CUgraphNode n, const CUDA_MEMSET_NODE_PARAMS *p, CUcontext c) { (void)x, (void)n, (void)p, (void)c; return CUDA_SUCCESS; }
static CUresult set_copy(CUgraphExec x, CUgraphNode n, const CUDA_MEMCPY3D *p, CUcontext c) { (void)x, (void)n, (void)p, (void)c; return CUDA_SUCCESS; }
static CUresult set_child(CUgraphExec x, CUgraphNode n, CUgraph g) { (void)x, (void)n, (void)g; return CUDA_SUCCESS; }
static CUresult set_any(CUgraphExec x, CUgraphNode n, CUgraphNodeParams *p) { (void)x, (void)n, (void)p; return CUDA_SUCCESS; }
static CUresult set_enabled(CUgraphExec x, CUgraphNode n, unsigned on) { (void)x, (void)n, (void)on; return CUDA_SUCCESS; }
static CUresult exec_update(CUgraphExec x, CUgraph g, CUgraphExecUpdateResultInfo *i) { (void)x, (void)g, (void)i; return CUDA_SUCCESS; }

uint32_t replayed[16];
static CUresult replay_launch(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned sh, CUstream s, void **p, void **e) {
  (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)sh, (void)s, (void)p;
  CHECK(f == KERNEL && *(uint64_t *)e[1] == arguments[0], "a launch of another kernel, or with other parameters");
  replayed[0] += gx;
  return CUDA_SUCCESS;
}
static CUresult replay_memset(CUdeviceptr d, unsigned v, size_t n, CUstream s) { (void)d, (void)n, (void)s; replayed[1] += v; return CUDA_SUCCESS; }

// ---- the daemon ----

struct kept kept[KEPT];
_Atomic uint32_t given, drops, refuse, asked, refuse_known;
static pthread_mutex_t daemon_lock = PTHREAD_MUTEX_INITIALIZER;

static int request(uint16_t type, const void *body, int fd, void *reply) {
  const struct heddle_wire_graph *ask = body;
  pthread_mutex_lock(&daemon_lock);
  int status = HEDDLE_WIRE_STATUS_OK;
  if (type == HEDDLE_WIRE_TYPE_GRAPH_DROP) {
    CHECK(ask->graph_id <= given && kept[ask->graph_id].dropped == 0, "graph %u is dropped twice, or was never given", ask->graph_id);
    kept[ask->graph_id].dropped = heddle_load_acquire64(&fake_session->ring.producer->tail) + 1;
    drops++;
  } else if (type == HEDDLE_WIRE_TYPE_GRAPH && ask->graph_id != 0) {
    CHECK(ask->graph_id <= given && kept[ask->graph_id].dropped == 0 && fd < 0, "a question about graph %u", ask->graph_id);
    asked++;
    if (refuse_known != 0) status = HEDDLE_WIRE_STATUS_REFUSED;
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
uint32_t check_records(uint32_t id, const struct heddle_wire_record **node, uint32_t room) {
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
const void *body(const struct heddle_wire_record *r) {
  return (const unsigned char *)(r + 1) + ((r->ndeps * sizeof(struct heddle_wire_dep) + 15) & ~UINT64_C(15));
}
uint32_t dep(const struct heddle_wire_record *r, uint32_t i) { return ((const struct heddle_wire_dep *)(r + 1))[i].value; }

// ---- the executor ----

static pthread_mutex_t executor_lock = PTHREAD_MUTEX_INITIALIZER;
uint32_t launched[KEPT], launches, last_graph, last_ndeps;
void (*on_record)(const struct heddle_wire_record *r);
struct heddle_wire_dep last_dep;
bool hold_back; // takes records and completes none

void execute(void) {
  pthread_mutex_lock(&executor_lock);
  struct heddle_ring *r = &fake_session->ring;
  uint64_t tail = heddle_load_acquire64(&r->producer->tail), at = r->consumer->read;
  while (at != tail) {
    const struct heddle_wire_record *h = (const struct heddle_wire_record *)(r->data + (at & r->mask));
    at += h->size;
    if (h->kind == HEDDLE_WIRE_KIND_PAD || h->seq == 0 || h->kind == HEDDLE_WIRE_KIND_SIGNAL) continue;
    if (on_record != NULL) on_record(h);
    if (h->kind == HEDDLE_WIRE_KIND_GRAPH) {
      uint32_t id = ((const struct heddle_wire_graph_launch *)body(h))->graph;
      pthread_mutex_lock(&daemon_lock);
      CHECK(id >= 1 && id <= given, "graph %u is launched, which the daemon does not know", id);
      CHECK(kept[id].dropped == 0 || at < kept[id].dropped, "graph %u is launched after it was dropped", id);
      pthread_mutex_unlock(&daemon_lock);
      launched[id]++;
      launches++;
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

CUgraphExec make(struct graph *g) {
  CUgraphExec x = NULL;
  OK(heddle_hook_cuGraphInstantiateWithFlags(&x, (CUgraph)g, 0));
  return x;
}
void go(CUgraphExec x, CUstream s) { OK(heddle_hook_cuGraphLaunch(x, s)); }

const struct heddle_wire_record *record_of(uint32_t id, uint32_t seq) {
  static const struct heddle_wire_record *r[64];
  check_records(id, r, 64);
  return r[seq];
}

void lose(void) { heddle_store_release32(&fake_session->status->state, HEDDLE_WIRE_STATE_CLOSED); }

void expect_native(struct graph *g, enum heddle_native_reason why, const char *what) {
  uint32_t before = fake_native_counts[why], runs = natively, have = given;
  CUgraphExec x = make(g);
  go(x, CU_STREAM_LEGACY);
  CHECK(given == have && natively == runs + 1, "%s: %u graphs given, %u native launches", what, given - have, natively - runs);
  CHECK(fake_native_counts[why] == before + 1, "%s: counted %u times as reason %d", what, fake_native_counts[why] - before, (int)why);
  OK(heddle_hook_cuGraphExecDestroy(x));
}

// ---- an executor of its own thread ----

static _Atomic bool over;
static pthread_t executor_thread;
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
void start_executor(void) {
  fake_sleep = NULL;
  hold_back = false;
  CHECK(pthread_create(&executor_thread, NULL, executor, NULL) == 0, "thread");
}
void stop_executor(void) {
  atomic_store(&over, true);
  pthread_join(executor_thread, NULL);
}

int run_test(int argc, char **argv, const struct test *all, size_t n) {
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
  heddle_real.cuGraphHostNodeGetParams = get_host;
  heddle_real.cuGraphEventRecordNodeGetEvent = heddle_real.cuGraphEventWaitNodeGetEvent = get_event;
  heddle_real.cuGraphBatchMemOpNodeGetParams = get_memops;
  heddle_real.cuGraphCreate = graph_create;
  heddle_real.cuGraphDestroy = graph_destroy;
  heddle_real.cuGraphAddMemcpyNode = add_copy;
  heddle_real.cuGraphAddMemsetNode = add_memset;
  heddle_real.cuLaunchHostFunc = host_func;
  heddle_real.cuStreamBatchMemOp_v2 = batch_memop;
  heddle_real.cuGraphExecHostNodeSetParams = set_host;
  heddle_real.cuGraphExecEventRecordNodeSetEvent = heddle_real.cuGraphExecEventWaitNodeSetEvent = set_event;
  heddle_real.cuGraphExecBatchMemOpNodeSetParams = set_memops;
  heddle_real.cuLaunchKernel = replay_launch;
  heddle_real.cuMemsetD32Async = replay_memset;
  for (size_t i = 0; argc == 2 && i < n; i++)
    if (strcmp(argv[1], all[i].name) == 0) {
      all[i].f();
      printf("%s\n", all[i].name);
      return 0;
    }
  fprintf(stderr, "no such test\n");
  return 2;
}
