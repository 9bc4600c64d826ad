// Reads a CUgraph by the driver's own questions. What the driver returns belongs to it and lasts until the node changes, so
// everything is copied. Source: CUDA driver API, cuGraphGetNodes, cuGraphGetEdges_v2, cuGraphKernelNodeGetParams,
// cuGraphKernelNodeGetAttribute, cuGraphMemcpyNodeGetParams, cuGraphMemsetNodeGetParams, cuGraphChildGraphNodeGetGraph.
#include <stdlib.h>
#include <string.h>

#include "inner.h"

#define DEPTH 64 // graphs within graphs; bounds the recursion

// ---- one node ----

static void body_set(struct heddle_node *n, uint16_t kind, const void *first, uint32_t first_bytes, const void *second, uint32_t second_bytes) {
  unsigned char *body = malloc(first_bytes + second_bytes + 1u);
  free(n->body);
  n->body = body;
  n->body_bytes = first_bytes + second_bytes;
  n->kind = kind;
  n->why = body == NULL ? HEDDLE_NATIVE_GRAPH_REFUSED : HEDDLE_NATIVE_NONE;
  n->left = HEDDLE_NATIVE_NONE;
  if (body == NULL) return;
  memcpy(body, first, first_bytes);
  if (second_bytes != 0) memcpy(body + first_bytes, second, second_bytes);
}

// A launch as the driver's description of a node says it; attributes are in *w already.
static __attribute__((noinline)) void set_launch(struct heddle_session *s, CUcontext owner, struct heddle_node *n, const CUDA_KERNEL_NODE_PARAMS *p,
                                                 struct heddle_wire_launch w) {
  unsigned char packed[HEDDLE_PACKED_BYTES]; // so large that it must not stand in the recursion over graphs
  enum heddle_native_reason why = HEDDLE_NATIVE_NONE;
  w.grid_x = p->gridDimX;
  w.grid_y = p->gridDimY;
  w.grid_z = p->gridDimZ;
  w.block_x = p->blockDimX;
  w.block_y = p->blockDimY;
  w.block_z = p->blockDimZ;
  w.shared_bytes = p->sharedMemBytes;
  // The driver tells both; of a kernel that was launched by its own handle the program never saw the context's function.
  bool by_kernel = p->kern != NULL && (p->func == NULL || heddle_code_function(p->func) == NULL);
  struct heddle_launch l = {.function = by_kernel ? (CUfunction)p->kern : p->func, .wire = w, .params = p->kernelParams,
                            .extra = p->kernelParams != NULL ? NULL : p->extra};
  n->function = heddle_launch_encode(s, &l, packed, &why);
  // A kernel of another context may be another device's.
  CUcontext of = n->function == NULL ? NULL : heddle_code_context(n->function);
  if (of == NULL) of = by_kernel ? p->ctx : NULL;
  if (n->function != NULL && of != NULL && of != owner) why = HEDDLE_NATIVE_FOREIGN_MEMORY;
  else if (n->function != NULL) why = HEDDLE_NATIVE_NONE;
  // The launch's attributes stay with the node, whatever becomes of the rest.
  body_set(n, HEDDLE_WIRE_KIND_LAUNCH, &l.wire, sizeof l.wire, packed, why == HEDDLE_NATIVE_NONE ? l.wire.param_bytes : 0);
  if (why != HEDDLE_NATIVE_NONE) n->why = (uint8_t)why;
  if (n->function != NULL) n->generation = atomic_load_explicit(&n->function->generation, memory_order_acquire);
}

void heddle_node_set_kernel(struct heddle_session *s, CUcontext owner, struct heddle_node *n, const CUDA_KERNEL_NODE_PARAMS *p) {
  struct heddle_wire_launch old = {0}, w = {0};
  enum heddle_native_reason why = n->why;
  if (n->body != NULL && n->body_bytes >= sizeof old) memcpy(&old, n->body, sizeof old);
  w.flags = old.flags;
  w.cluster_x = old.cluster_x;
  w.cluster_y = old.cluster_y;
  w.cluster_z = old.cluster_z;
  w.cluster_policy = old.cluster_policy;
  set_launch(s, owner, n, p, w);
  if (why == HEDDLE_NATIVE_ATTRIBUTE) n->why = (uint8_t)why; // attributes of an executable graph cannot be changed
}

void heddle_node_set_memset(struct heddle_session *s, struct heddle_node *n, const CUDA_MEMSET_NODE_PARAMS *p) {
  struct heddle_wire_memset w = {.dst = p->dst, .pitch = p->pitch, .width = p->width, .height = p->height, .element = p->elementSize, .value = p->value};
  enum heddle_native_reason why = HEDDLE_NATIVE_ARGUMENT;
  enum heddle_where where;
  bool plain = (w.element == 1 || w.element == 2 || w.element == 4) && heddle_memset_encode(s, &w, &where, &why) == HEDDLE_OP_OPEN;
  if (plain || why == HEDDLE_NATIVE_ARGUMENT) {
    body_set(n, HEDDLE_WIRE_KIND_MEMSET, &w, sizeof w, NULL, 0);
    if (!plain) n->why = (uint8_t)why;
    return;
  }
  body_set(n, HEDDLE_STEP_MEMSET, p, sizeof *p, NULL, 0);
  n->left = (uint8_t)why;
}

void heddle_node_set_copy(struct heddle_session *s, struct heddle_node *n, const CUDA_MEMCPY3D *p) {
  struct heddle_copy_body b;
  enum heddle_native_reason why = HEDDLE_NATIVE_ARGUMENT;
  bool plain = heddle_copy_encode(s, p, &b, &why);
  if (!plain && b.apart) {
    body_set(n, HEDDLE_STEP_COPY, p, sizeof *p, NULL, 0);
    n->left = b.left ? (uint8_t)why : HEDDLE_NATIVE_NONE;
    return;
  }
  if (!plain) b.kind = HEDDLE_WIRE_KIND_COPY;
  body_set(n, b.kind, &b.copy3d, b.kind == HEDDLE_WIRE_KIND_COPY ? sizeof b.copy : sizeof b.copy3d, NULL, 0);
  if (!plain) n->why = (uint8_t)why;
}

void heddle_node_set_host(struct heddle_node *n, const CUDA_HOST_NODE_PARAMS *p) { body_set(n, HEDDLE_STEP_HOST, p, sizeof *p, NULL, 0); }

void heddle_node_set_event(struct heddle_node *n, enum heddle_step_kind kind, CUevent e) { body_set(n, (uint16_t)kind, &e, sizeof e, NULL, 0); }

void heddle_node_set_memops(CUcontext owner, struct heddle_node *n, const CUDA_BATCH_MEM_OP_NODE_PARAMS *p) {
  const struct heddle_step_memops head = {p->count, p->flags};
  bool known = p->count <= UINT16_MAX && (p->ctx == owner || p->ctx == NULL);
  body_set(n, HEDDLE_STEP_MEMOPS, &head, sizeof head, p->paramArray, known ? p->count * (uint32_t)sizeof *p->paramArray : 0);
  if (!known) n->why = HEDDLE_NATIVE_GRAPH;
}

// The attributes of a kernel node that its launch needs. False: one of them is not forwarded.
static bool attributes(CUgraphNode node, struct heddle_wire_launch *w) {
  // The others that a node can have are for speed only (launch.c), and not asked for.
  static const CUkernelNodeAttrID asked[] = {CU_LAUNCH_ATTRIBUTE_COOPERATIVE, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                                             CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE,
                                             CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION, CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE};
  for (size_t i = 0; heddle_real.cuGraphKernelNodeGetAttribute != NULL && i < sizeof asked / sizeof *asked; i++) {
    CUlaunchAttribute a = {.id = asked[i]};
    memset(&a.value, 0, sizeof a.value);
    // A driver or a device that does not have the attribute answers with an error: no node of it can have been set.
    if (heddle_real.cuGraphKernelNodeGetAttribute(node, asked[i], &a.value) != CUDA_SUCCESS) continue;
    switch (asked[i]) {
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION: // one block, or none, is no cluster
      if ((uint64_t)a.value.clusterDim.x * a.value.clusterDim.y * a.value.clusterDim.z > 1 && !heddle_launch_attribute(w, &a)) return false;
      break;
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
      if ((uint64_t)a.value.preferredClusterDim.x * a.value.preferredClusterDim.y * a.value.preferredClusterDim.z > 1) return false;
      break;
    case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE:
      if (a.value.deviceUpdatableKernelNode.deviceUpdatable != 0) return false;
      break;
    default:
      if (!heddle_launch_attribute(w, &a)) return false;
    }
  }
  return true;
}

static bool read_kernel(struct heddle_session *s, CUcontext owner, struct heddle_node *n) {
  CUDA_KERNEL_NODE_PARAMS p;
  memset(&p, 0, sizeof p);
  CUresult r = CUDA_ERROR_NOT_FOUND;
  if (heddle_real.cuGraphKernelNodeGetParams_v2 != NULL) r = heddle_real.cuGraphKernelNodeGetParams_v2(n->handle, &p);
  if (r != CUDA_SUCCESS && heddle_real.cuGraphKernelNodeGetParams_v2 == NULL && heddle_real.cuGraphKernelNodeGetParams != NULL) {
    CUDA_KERNEL_NODE_PARAMS_v1 q;
    memset(&q, 0, sizeof q);
    r = heddle_real.cuGraphKernelNodeGetParams(n->handle, &q);
    p = (CUDA_KERNEL_NODE_PARAMS){.func = q.func, .gridDimX = q.gridDimX, .gridDimY = q.gridDimY, .gridDimZ = q.gridDimZ, .blockDimX = q.blockDimX,
                                  .blockDimY = q.blockDimY, .blockDimZ = q.blockDimZ, .sharedMemBytes = q.sharedMemBytes,
                                  .kernelParams = q.kernelParams, .extra = q.extra};
  }
  if (r != CUDA_SUCCESS) return false;
  struct heddle_wire_launch w = {0};
  bool known = attributes(n->handle, &w);
  set_launch(s, owner, n, &p, w);
  if (!known) n->why = HEDDLE_NATIVE_ATTRIBUTE;
  return true;
}

// The event of a node that records it or waits for it; NULL: the driver does not say.
static CUevent event_of(CUgraphNode node, CUgraphNodeType type) {
  CUevent e = NULL;
  bool wait = type == CU_GRAPH_NODE_TYPE_WAIT_EVENT;
  CUresult r = wait ? heddle_real.cuGraphEventWaitNodeGetEvent(node, &e) : heddle_real.cuGraphEventRecordNodeGetEvent(node, &e);
  return r == CUDA_SUCCESS ? e : NULL;
}

static struct heddle_description *describe(struct heddle_session *s, CUcontext owner, CUgraph graph, uint32_t *left, unsigned depth,
                                           enum heddle_native_reason *why);

// False: the graph cannot be mirrored, *why says why.
static bool read_node(struct heddle_session *s, CUcontext owner, struct heddle_node *n, uint32_t *left, unsigned depth, enum heddle_native_reason *why) {
  CUgraphNodeType type;
  *why = HEDDLE_NATIVE_GRAPH;
  n->enabled = true;
  if (heddle_real.cuGraphNodeGetType(n->handle, &type) != CUDA_SUCCESS) return false;
  switch (type) {
  case CU_GRAPH_NODE_TYPE_KERNEL: return read_kernel(s, owner, n);
  case CU_GRAPH_NODE_TYPE_MEMSET: {
    CUDA_MEMSET_NODE_PARAMS p;
    memset(&p, 0, sizeof p);
    if (heddle_real.cuGraphMemsetNodeGetParams(n->handle, &p) != CUDA_SUCCESS) return false;
    heddle_node_set_memset(s, n, &p);
    return true;
  }
  case CU_GRAPH_NODE_TYPE_MEMCPY: {
    CUDA_MEMCPY3D p;
    memset(&p, 0, sizeof p);
    if (heddle_real.cuGraphMemcpyNodeGetParams(n->handle, &p) != CUDA_SUCCESS) return false;
    heddle_node_set_copy(s, n, &p);
    return true;
  }
  case CU_GRAPH_NODE_TYPE_EMPTY: n->kind = HEDDLE_WIRE_KIND_EVENT; return true;
  case CU_GRAPH_NODE_TYPE_GRAPH: {
    CUgraph child = NULL;
    if (heddle_real.cuGraphChildGraphNodeGetGraph(n->handle, &child) != CUDA_SUCCESS) return false;
    n->child = describe(s, owner, child, left, depth + 1, why);
    return n->child != NULL;
  }
  case CU_GRAPH_NODE_TYPE_HOST: {
    CUDA_HOST_NODE_PARAMS p = {0};
    *why = HEDDLE_NATIVE_GRAPH_HOST;
    if (heddle_real.cuGraphHostNodeGetParams(n->handle, &p) != CUDA_SUCCESS) return false;
    heddle_node_set_host(n, &p);
    return true;
  }
  case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
  case CU_GRAPH_NODE_TYPE_EVENT_RECORD: {
    CUevent e = event_of(n->handle, type);
    *why = HEDDLE_NATIVE_GRAPH_EVENT;
    if (e == NULL) return false;
    heddle_node_set_event(n, type == CU_GRAPH_NODE_TYPE_WAIT_EVENT ? HEDDLE_STEP_WAIT : HEDDLE_STEP_RECORD, e);
    return true;
  }
  case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
    CUDA_BATCH_MEM_OP_NODE_PARAMS p;
    memset(&p, 0, sizeof p);
    if (heddle_real.cuGraphBatchMemOpNodeGetParams == NULL || heddle_real.cuGraphBatchMemOpNodeGetParams(n->handle, &p) != CUDA_SUCCESS) return false;
    heddle_node_set_memops(owner, n, &p);
    return true;
  }
  case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
  case CU_GRAPH_NODE_TYPE_MEM_FREE: *why = HEDDLE_NATIVE_GRAPH_MEMORY; return false;
  default: return false; // semaphores, conditions, and what comes after them
  }
}

// ---- one graph ----

// From node handles to their place in the driver's list.
struct places {
  uint32_t mask;
  uint32_t *at; // place + 1; 0: free
};

static uint32_t start_of(const struct places *p, CUgraphNode h) {
  return (uint32_t)((uint64_t)(uintptr_t)h * UINT64_C(0x9e3779b97f4a7c15) >> 32) & p->mask;
}

static bool places_make(struct places *p, const CUgraphNode *handles, uint32_t n) {
  uint32_t size = 16;
  while (size < 2 * n) size *= 2;
  p->mask = size - 1;
  p->at = calloc(size, sizeof *p->at);
  if (p->at == NULL) return false;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t k = start_of(p, handles[i]);
    while (p->at[k] != 0) k = (k + 1) & p->mask;
    p->at[k] = i + 1;
  }
  return true;
}

// UINT32_MAX: not there.
static uint32_t place_of(const struct places *p, const CUgraphNode *handles, CUgraphNode h) {
  for (uint32_t k = start_of(p, h); p->at[k] != 0; k = (k + 1) & p->mask)
    if (handles[p->at[k] - 1] == h) return p->at[k] - 1;
  return UINT32_MAX;
}

struct reading {
  size_t n, edges;
  CUgraphNode *handles, *from, *to;
  struct places places;
  uint32_t *before, *first, *after; // per node: how many predecessors are not placed; first of its successors in .after
  uint32_t *order, *rank;           // place in the driver's list ↔ place in ours
};

static void reading_free(struct reading *r) {
  free(r->handles);
  free(r->from);
  free(r->to);
  free(r->places.at);
  free(r->before);
  free(r->first);
  free(r->after);
  free(r->order);
  free(r->rank);
}

// Nodes and edges as the driver lists them. False: it does not, or no memory.
static bool lists(struct reading *r, CUgraph graph) {
  bool v2 = heddle_real.cuGraphGetEdges_v2 != NULL;
  if (heddle_real.cuGraphGetNodes(graph, NULL, &r->n) != CUDA_SUCCESS || r->n > HEDDLE_WIRE_MAX_GRAPH_NODES) return false;
  CUresult e = v2 ? heddle_real.cuGraphGetEdges_v2(graph, NULL, NULL, NULL, &r->edges) : heddle_real.cuGraphGetEdges(graph, NULL, NULL, &r->edges);
  if (e != CUDA_SUCCESS || r->edges > UINT32_MAX / 16) return false;
  r->handles = calloc(r->n + 1, sizeof *r->handles);
  r->from = calloc(r->edges + 1, sizeof *r->from);
  r->to = calloc(r->edges + 1, sizeof *r->to);
  if (r->handles == NULL || r->from == NULL || r->to == NULL) return false;
  if (r->n != 0 && heddle_real.cuGraphGetNodes(graph, r->handles, &r->n) != CUDA_SUCCESS) return false;
  if (r->edges == 0) return true;
  if (!v2) return heddle_real.cuGraphGetEdges(graph, r->from, r->to, &r->edges) == CUDA_SUCCESS;
  // Programmatic edges let a node begin before its predecessor ends; beginning afterwards is allowed. Without room for their data
  // the driver would refuse to list them.
  CUgraphEdgeData *data = calloc(r->edges, sizeof *data);
  e = data == NULL ? CUDA_ERROR_OUT_OF_MEMORY : heddle_real.cuGraphGetEdges_v2(graph, r->from, r->to, data, &r->edges);
  free(data);
  return e == CUDA_SUCCESS;
}

// An order in which each node follows its predecessors, else by the driver's list. False: none, or no memory.
static bool sort(struct reading *r) {
  uint32_t n = (uint32_t)r->n, m = (uint32_t)r->edges, placed = 0, done = 0;
  r->before = calloc(n + 1, sizeof *r->before);
  r->first = calloc(n + 2, sizeof *r->first);
  r->after = calloc(m + 1, sizeof *r->after);
  r->order = calloc(n + 1, sizeof *r->order);
  r->rank = calloc(n + 1, sizeof *r->rank);
  if (r->before == NULL || r->first == NULL || r->after == NULL || r->order == NULL || r->rank == NULL || !places_make(&r->places, r->handles, n)) return false;
  for (uint32_t i = 0; i < m; i++) {
    uint32_t a = place_of(&r->places, r->handles, r->from[i]), b = place_of(&r->places, r->handles, r->to[i]);
    if (a == UINT32_MAX || b == UINT32_MAX) return false;
    r->first[a + 2]++;
    r->before[b]++;
  }
  for (uint32_t i = 1; i < n + 2; i++) r->first[i] += r->first[i - 1];
  for (uint32_t i = 0; i < m; i++) {
    uint32_t a = place_of(&r->places, r->handles, r->from[i]);
    r->after[r->first[a + 1]++] = place_of(&r->places, r->handles, r->to[i]);
  }
  for (uint32_t i = 0; i < n; i++)
    if (r->before[i] == 0) r->order[placed++] = i;
  for (; done < placed; done++) {
    uint32_t i = r->order[done];
    r->rank[i] = done;
    for (uint32_t k = r->first[i]; k < r->first[i + 1]; k++)
      if (--r->before[r->after[k]] == 0) r->order[placed++] = r->after[k];
  }
  return placed == n;
}

// Nodes in their order, with their predecessors.
static struct heddle_description *arrange(struct reading *r) {
  uint32_t n = (uint32_t)r->n, m = (uint32_t)r->edges;
  struct heddle_description *d = calloc(1, sizeof *d);
  if (d != NULL) {
    d->nodes = calloc(n + 1, sizeof *d->nodes);
    d->deps = calloc(m + 1, sizeof *d->deps);
  }
  if (d == NULL || d->nodes == NULL || d->deps == NULL) {
    heddle_description_free(d);
    return NULL;
  }
  d->n = n;
  for (uint32_t i = 0; i < n; i++) d->nodes[i].handle = r->handles[r->order[i]];
  for (uint32_t i = 0; i < m; i++) d->nodes[r->rank[place_of(&r->places, r->handles, r->to[i])]].ndeps++;
  uint32_t at = 0;
  for (uint32_t i = 0; i < n; i++) {
    d->nodes[i].first_dep = at;
    at += d->nodes[i].ndeps;
    d->nodes[i].ndeps = 0;
  }
  for (uint32_t i = 0; i < m; i++) {
    struct heddle_node *to = &d->nodes[r->rank[place_of(&r->places, r->handles, r->to[i])]];
    d->deps[to->first_dep + to->ndeps++] = r->rank[place_of(&r->places, r->handles, r->from[i])];
  }
  return d;
}

// *left: how many more nodes may be read, of this graph and those within it.
static struct heddle_description *describe(struct heddle_session *s, CUcontext owner, CUgraph graph, uint32_t *left, unsigned depth,
                                           enum heddle_native_reason *why) {
  struct reading r;
  memset(&r, 0, sizeof r);
  *why = HEDDLE_NATIVE_GRAPH_REFUSED;
  struct heddle_description *d = depth < DEPTH && lists(&r, graph) && r.n <= *left && sort(&r) ? arrange(&r) : NULL;
  reading_free(&r);
  if (d == NULL) return NULL;
  *left -= d->n;
  for (uint32_t i = 0; i < d->n; i++)
    if (!read_node(s, owner, &d->nodes[i], left, depth, why)) {
      heddle_description_free(d);
      return NULL;
    }
  *why = HEDDLE_NATIVE_NONE;
  return d;
}

struct heddle_description *heddle_describe(struct heddle_session *s, CUcontext owner, CUgraph graph, enum heddle_native_reason *why) {
  uint32_t left = HEDDLE_WIRE_MAX_GRAPH_NODES;
  CUstreamCaptureMode mode = heddle_capture_relax(); // another stream may be capturing
  struct heddle_description *d = describe(s, owner, graph, &left, 0, why);
  heddle_capture_restore(mode);
  return d;
}

void heddle_description_free(struct heddle_description *d) {
  if (d == NULL) return;
  for (uint32_t i = 0; i < d->n; i++) {
    free(d->nodes[i].body);
    heddle_description_free(d->nodes[i].child);
  }
  free(d->nodes);
  free(d->deps);
  free(d);
}

// ---- questions ----

struct heddle_node *heddle_description_find(struct heddle_description *d, CUgraphNode handle) {
  for (uint32_t i = 0; i < d->n; i++) {
    uint32_t at = d->last_found + 1 + i; // the one behind the last comes first
    at = at >= d->n ? at % d->n : at;
    if (d->nodes[at].handle != handle) continue;
    d->last_found = at;
    return &d->nodes[at];
  }
  struct heddle_node *found = NULL;
  for (uint32_t i = 0; i < d->n && found == NULL; i++)
    if (d->nodes[i].child != NULL) found = heddle_description_find(d->nodes[i].child, handle);
  return found;
}

void heddle_description_forget_names(struct heddle_description *d) {
  for (uint32_t i = 0; i < d->n; i++) {
    d->nodes[i].handle = NULL;
    if (d->nodes[i].child != NULL) heddle_description_forget_names(d->nodes[i].child);
  }
}

void heddle_description_renew(struct heddle_session *s, struct heddle_description *d) {
  for (uint32_t i = 0; i < d->n; i++) {
    struct heddle_node *n = &d->nodes[i];
    if (n->child != NULL) heddle_description_renew(s, n->child);
    if (n->kind != HEDDLE_WIRE_KIND_LAUNCH || n->why != HEDDLE_NATIVE_NONE) continue;
    enum heddle_native_reason why = HEDDLE_NATIVE_UNKNOWN_CODE;
    uint32_t id = 0;
    if (atomic_load_explicit(&n->function->generation, memory_order_acquire) == n->generation) id = heddle_code_kernel_id(s, n->function, &why);
    if (id == 0) n->why = (uint8_t)why;
    else ((struct heddle_wire_launch *)n->body)->kernel = id;
  }
}

bool heddle_description_any_disabled(const struct heddle_description *d) {
  for (uint32_t i = 0; i < d->n; i++)
    if (!d->nodes[i].enabled || (d->nodes[i].child != NULL && heddle_description_any_disabled(d->nodes[i].child))) return true;
  return false;
}

static bool global_at(uint64_t address) { return heddle_memory_where(address, 1, NULL) == HEDDLE_WHERE_GLOBAL; }

bool heddle_description_globals(struct heddle_session *s, const struct heddle_description *d) {
  bool any = false;
  for (uint32_t i = 0; i < d->n && !any; i++) {
    const struct heddle_node *n = &d->nodes[i];
    if (n->child != NULL) any = heddle_description_globals(s, n->child);
    else if (n->why != HEDDLE_NATIVE_NONE) continue;
    else if (n->kind == HEDDLE_WIRE_KIND_LAUNCH) any = heddle_code_mirrored(s, n->function);
    else if (n->kind == HEDDLE_WIRE_KIND_MEMSET) any = global_at(((const struct heddle_wire_memset *)n->body)->dst);
    else if (n->kind == HEDDLE_WIRE_KIND_COPY) any = global_at(((const struct heddle_wire_copy *)n->body)->dst) || global_at(((const struct heddle_wire_copy *)n->body)->src);
    else if (n->kind == HEDDLE_WIRE_KIND_COPY3D) any = global_at(((const struct heddle_wire_copy3d *)n->body)->dst) || global_at(((const struct heddle_wire_copy3d *)n->body)->src);
  }
  return any;
}

bool heddle_description_stateful(struct heddle_session *s, const struct heddle_description *d) {
  bool any = false;
  for (uint32_t i = 0; i < d->n && !any; i++) {
    const struct heddle_node *n = &d->nodes[i];
    if (n->child != NULL) any = heddle_description_stateful(s, n->child);
    else any = n->why == HEDDLE_NATIVE_NONE && n->kind == HEDDLE_WIRE_KIND_LAUNCH && heddle_code_stateful(s, n->function);
  }
  return any;
}

// ---- events ----

void heddle_graph_event_add(struct heddle_graph_events *e, bool record, struct heddle_graph_event event) {
  struct heddle_graph_event **list = record ? &e->record : &e->wait;
  uint32_t *n = record ? &e->nrecord : &e->nwait;
  struct heddle_graph_event *grown = (*n & (*n - 1)) != 0 ? *list : realloc(*list, (*n == 0 ? 1 : 2 * (size_t)*n) * sizeof *grown);
  if (grown == NULL) return;
  *list = grown;
  grown[(*n)++] = event;
}

void heddle_graph_event_set(struct heddle_graph_events *e, bool record, struct heddle_graph_event event) {
  struct heddle_graph_event *list = record ? e->record : e->wait;
  uint32_t n = record ? e->nrecord : e->nwait;
  for (uint32_t i = 0; i < n; i++)
    if (list[i].node == event.node) {
      list[i] = event;
      return;
    }
  heddle_graph_event_add(e, record, event);
}

void heddle_graph_events_free(struct heddle_graph_events *e) {
  free(e->record);
  free(e->wait);
  memset(e, 0, sizeof *e);
}

void heddle_description_events(const struct heddle_description *d, struct heddle_graph_events *e) {
  for (uint32_t i = 0; i < d->n; i++) {
    const struct heddle_node *n = &d->nodes[i];
    if (n->child != NULL) heddle_description_events(n->child, e);
    if (n->body != NULL && (n->kind == HEDDLE_STEP_RECORD || n->kind == HEDDLE_STEP_WAIT))
      heddle_graph_event_add(e, n->kind == HEDDLE_STEP_RECORD, (struct heddle_graph_event){n->handle, *(const CUevent *)n->body});
  }
}

static void graph_events(CUgraph graph, struct heddle_graph_events *e, unsigned depth) {
  size_t n = 0;
  CUgraphNode *nodes = NULL;
  if (depth < DEPTH && heddle_real.cuGraphGetNodes(graph, NULL, &n) == CUDA_SUCCESS && n != 0) nodes = calloc(n, sizeof *nodes);
  if (nodes != NULL && heddle_real.cuGraphGetNodes(graph, nodes, &n) != CUDA_SUCCESS) n = 0;
  for (size_t i = 0; nodes != NULL && i < n; i++) {
    CUgraphNodeType type;
    CUgraph child = NULL;
    CUevent event;
    if (heddle_real.cuGraphNodeGetType(nodes[i], &type) != CUDA_SUCCESS) continue;
    if (type == CU_GRAPH_NODE_TYPE_GRAPH && heddle_real.cuGraphChildGraphNodeGetGraph(nodes[i], &child) == CUDA_SUCCESS) graph_events(child, e, depth + 1);
    if ((type == CU_GRAPH_NODE_TYPE_EVENT_RECORD || type == CU_GRAPH_NODE_TYPE_WAIT_EVENT) && (event = event_of(nodes[i], type)) != NULL)
      heddle_graph_event_add(e, type == CU_GRAPH_NODE_TYPE_EVENT_RECORD, (struct heddle_graph_event){nodes[i], event});
  }
  free(nodes);
}

void heddle_graph_events(CUgraph graph, struct heddle_graph_events *e) {
  CUstreamCaptureMode mode = heddle_capture_relax();
  graph_events(graph, e, 0);
  heddle_capture_restore(mode);
}
