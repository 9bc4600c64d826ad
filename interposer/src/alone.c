// Finishing without an executor: the rule of docs/protocol.md section 3 applied to our own ring. Ops that no executor can have
// begun are run here, in ring order, on a stream of our own; ops in doubt are repeated where that is harmless, otherwise the
// session gets a sticky error. Every lane's `done` reaches its last number, so that native streams that wait for one go on.
// Then everything is native.
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "code/code.h"
#include "graph/graph.h"
#include "lane.h"
#include "log.h"
#include "memory/memory.h"

struct replay {
  struct heddle_session *s;
  CUcontext context;              // current, and owner of .stream; NULL before the first op
  CUstream stream;
  uint32_t last[HEDDLE_WIRE_LANES]; // number up to which a lane is done, or enqueued on .stream
  bool pending;                   // work is enqueued that .last counts and `done` does not say yet
};

// ---- done words ----

static void say_done(struct heddle_session *s, uint32_t id, uint32_t seq) {
  struct heddle_wire_lane *lane = &s->lanes[id];
  if (!heddle_reached(heddle_load_acquire32(&lane->done), seq)) heddle_store_release32(&lane->done, seq);
  heddle_fence();
  if (heddle_load_relaxed32(&lane->waiting) != 0) {
    heddle_store_relaxed32(&lane->waiting, 0);
    (void)heddle_futex_wake(&lane->waiting, INT_MAX);
  }
}

// Waits for what is enqueued, then says so.
static CUresult flush(struct replay *p) {
  CUresult r = p->stream == NULL ? CUDA_SUCCESS : heddle_real.cuStreamSynchronize(p->stream);
  if (r != CUDA_SUCCESS || !p->pending) return r;
  for (uint32_t i = 0; i < HEDDLE_WIRE_LANES; i++) say_done(p->s, i, p->last[i]);
  p->pending = false;
  return r;
}

// Waits until native work has set the lane's ready word. The GPU writes it and wakes nobody, so it is looked at.
static CUresult await_ready(struct replay *p, uint32_t id, uint32_t number) {
  const uint32_t *word = &p->s->lanes[id].ready;
  if (heddle_reached(heddle_load_acquire32(word), number)) return CUDA_SUCCESS;
  CUresult r = flush(p); // that work may wait for what we have enqueued
  for (uint32_t looks = 0; r == CUDA_SUCCESS && !heddle_reached(heddle_load_acquire32(word), number); looks++) {
    if (looks < 1000) { heddle_relax(); continue; }
    struct timespec pause = {0, 50000};
    nanosleep(&pause, NULL);
    if (looks % 256 == 0 && p->stream != NULL) r = heddle_real.cuStreamQuery(p->stream); // a poisoned context writes no words
  }
  return r;
}

// ---- one op, natively ----

static CUresult run_launch(struct replay *p, const struct heddle_wire_launch *w, const void *params) {
  CUfunction f = heddle_code_native(p->s, w->kernel);
  if (f == NULL) return CUDA_ERROR_INVALID_HANDLE;
  CUlaunchAttribute a[3];
  unsigned int n = 0;
  memset(a, 0, sizeof a);
  if ((w->flags & HEDDLE_WIRE_LAUNCH_FLAG_COOPERATIVE) != 0) {
    a[n].id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    a[n++].value.cooperative = 1;
  }
  if ((w->flags & HEDDLE_WIRE_LAUNCH_FLAG_CLUSTER) != 0) {
    a[n].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    a[n].value.clusterDim.x = w->cluster_x;
    a[n].value.clusterDim.y = w->cluster_y;
    a[n++].value.clusterDim.z = w->cluster_z;
  }
  if (w->cluster_policy != 0) {
    a[n].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE;
    a[n++].value.clusterSchedulingPolicyPreference = (CUclusterSchedulingPolicy)w->cluster_policy;
  }
  size_t bytes = w->param_bytes;
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, (void *)(uintptr_t)params, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
  void **given = bytes != 0 ? extra : NULL;
  if (n == 0)
    return heddle_real.cuLaunchKernel(f, w->grid_x, w->grid_y, w->grid_z, w->block_x, w->block_y, w->block_z, w->shared_bytes, p->stream, NULL, given);
  CUlaunchConfig c = {.gridDimX = w->grid_x, .gridDimY = w->grid_y, .gridDimZ = w->grid_z, .blockDimX = w->block_x, .blockDimY = w->block_y,
                      .blockDimZ = w->block_z, .sharedMemBytes = w->shared_bytes, .hStream = p->stream, .attrs = a, .numAttrs = n};
  return heddle_real.cuLaunchKernelEx(&c, f, NULL, given);
}

static CUresult run_memset(struct replay *p, const struct heddle_wire_memset *w) {
  bool flat = w->height == 1;
  switch (w->element) {
  case 1:
    return flat ? heddle_real.cuMemsetD8Async(w->dst, (unsigned char)w->value, w->width, p->stream)
                : heddle_real.cuMemsetD2D8Async(w->dst, w->pitch, (unsigned char)w->value, w->width, w->height, p->stream);
  case 2:
    return flat ? heddle_real.cuMemsetD16Async(w->dst, (unsigned short)w->value, w->width, p->stream)
                : heddle_real.cuMemsetD2D16Async(w->dst, w->pitch, (unsigned short)w->value, w->width, w->height, p->stream);
  default:
    return flat ? heddle_real.cuMemsetD32Async(w->dst, w->value, w->width, p->stream)
                : heddle_real.cuMemsetD2D32Async(w->dst, w->pitch, w->value, w->width, w->height, p->stream);
  }
}

static CUresult run_copy3d(struct replay *p, const struct heddle_wire_copy3d *w) {
  CUDA_MEMCPY3D c = {.srcXInBytes = w->src_x, .srcY = w->src_y, .srcZ = w->src_z, .srcMemoryType = CU_MEMORYTYPE_UNIFIED, .srcDevice = w->src,
                     .srcPitch = w->src_pitch, .srcHeight = w->src_height, .dstXInBytes = w->dst_x, .dstY = w->dst_y, .dstZ = w->dst_z,
                     .dstMemoryType = CU_MEMORYTYPE_UNIFIED, .dstDevice = w->dst, .dstPitch = w->dst_pitch, .dstHeight = w->dst_height,
                     .WidthInBytes = w->width, .Height = w->height, .Depth = w->depth};
  return heddle_real.cuMemcpy3DAsync_v2(&c, p->stream);
}

// The lane's context becomes current, with a stream of ours in it that neither waits for the client's streams nor is waited for.
static CUresult enter(struct replay *p, uint32_t lane) {
  struct heddle_lane *l = heddle_lane_by_id(p->s, lane);
  CUcontext wanted = l != NULL ? l->context->handle : heddle_context_any(p->s);
  if (wanted == NULL) wanted = heddle_context_any(p->s);
  if (wanted == NULL) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  if (wanted == p->context) return CUDA_SUCCESS;
  CUresult r = flush(p);
  if (p->stream != NULL) (void)heddle_real.cuStreamDestroy_v2(p->stream);
  p->stream = NULL;
  if (r == CUDA_SUCCESS) r = heddle_real.cuCtxSetCurrent(wanted);
  if (r == CUDA_SUCCESS) r = heddle_real.cuStreamCreate(&p->stream, CU_STREAM_NON_BLOCKING);
  p->context = r == CUDA_SUCCESS ? wanted : NULL;
  return r;
}

// What is read here is what this library wrote, in a file that nobody can write any more. False: f never said true.
static bool each_record(const unsigned char *records, uint64_t bytes, bool (*f)(void *arg, const struct heddle_wire_record *r, unsigned char *body), void *arg) {
  for (uint64_t at = 0; at < bytes;) {
    struct heddle_wire_record *r = (struct heddle_wire_record *)(uintptr_t)(records + at);
    if (f(arg, r, (unsigned char *)(r + 1) + ((r->ndeps * sizeof(struct heddle_wire_dep) + 15) & ~UINT64_C(15)))) return true;
    at += r->size;
  }
  return false;
}

// Calls f for every node of the graph that a GRAPH record launches, in an order in which each follows what it depends on, until f
// says true. False: f never did, or the graph is not known and *unknown is set.
static bool each_node(struct heddle_session *s, const unsigned char *body, bool *unknown,
                      bool (*f)(void *arg, const struct heddle_wire_record *r, unsigned char *body), void *arg) {
  uint64_t bytes = 0;
  const unsigned char *records = heddle_graph_records(s, ((const struct heddle_wire_graph_launch *)body)->graph, &bytes);
  *unknown = records == NULL;
  return records != NULL && each_record(records, bytes, f, arg);
}

struct run_nodes {
  struct replay *p;
  CUresult result;
};
static CUresult run_op(struct replay *p, const struct heddle_wire_record *r, unsigned char *body);
static bool run_node(void *arg, const struct heddle_wire_record *r, unsigned char *body) {
  struct run_nodes *n = arg;
  n->result = run_op(n->p, r, body);
  return n->result != CUDA_SUCCESS;
}

// The nodes one by one, not the native executable graph: that one may have been changed since this launch.
static CUresult run_graph(struct replay *p, const unsigned char *body) {
  struct run_nodes n = {p, CUDA_SUCCESS};
  bool unknown;
  (void)each_node(p->s, body, &unknown, run_node, &n);
  return unknown ? CUDA_ERROR_INVALID_HANDLE : n.result;
}

CUresult heddle_alone_graph(struct heddle_session *s, CUstream stream, const unsigned char *records, uint64_t bytes) {
  struct replay p = {.s = s, .stream = stream};
  struct run_nodes n = {&p, CUDA_SUCCESS};
  (void)each_record(records, bytes, run_node, &n);
  return n.result;
}

static CUresult run(struct replay *p, const struct heddle_wire_record *r, unsigned char *body) {
  CUresult e = enter(p, r->lane);
  return e != CUDA_SUCCESS ? e : run_op(p, r, body);
}

static CUresult run_op(struct replay *p, const struct heddle_wire_record *r, unsigned char *body) {
  switch (r->kind) {
  case HEDDLE_WIRE_KIND_GRAPH: return run_graph(p, body);
  case HEDDLE_WIRE_KIND_LAUNCH: return run_launch(p, (const struct heddle_wire_launch *)body, body + sizeof(struct heddle_wire_launch));
  case HEDDLE_WIRE_KIND_MEMSET: return run_memset(p, (const struct heddle_wire_memset *)body);
  case HEDDLE_WIRE_KIND_COPY: {
    const struct heddle_wire_copy *w = (const struct heddle_wire_copy *)body;
    return heddle_real.cuMemcpyAsync(w->dst, w->src, w->bytes, p->stream);
  }
  case HEDDLE_WIRE_KIND_COPY3D: return run_copy3d(p, (const struct heddle_wire_copy3d *)body);
  case HEDDLE_WIRE_KIND_PUT: {
    const struct heddle_wire_inline_copy *w = (const struct heddle_wire_inline_copy *)body;
    return heddle_real.cuMemcpyHtoDAsync_v2(w->address, body + sizeof *w, w->bytes, p->stream);
  }
  case HEDDLE_WIRE_KIND_GET: {
    const struct heddle_wire_inline_copy *w = (const struct heddle_wire_inline_copy *)body;
    return heddle_real.cuMemcpyDtoHAsync_v2(body + sizeof *w, w->address, w->bytes, p->stream);
  }
  default: return CUDA_SUCCESS; // EVENT: the timestamps went with the executor
  }
}

// ---- the rule ----

struct range {
  uint64_t first, bytes;
};
static bool overlap(struct range a, struct range b) {
  return a.bytes != 0 && b.bytes != 0 && a.first < b.first + b.bytes && b.first < a.first + a.bytes;
}

static uint64_t extent3d(uint64_t pitch, uint64_t rows, uint64_t x, uint64_t y, uint64_t z, const struct heddle_wire_copy3d *w) {
  return ((z + w->depth - 1) * rows + y + w->height - 1) * pitch + x + w->width;
}

// What an op reads and writes in memory that others see; empty ranges where nothing. Not for launches.
static void touches(const struct heddle_wire_record *r, const unsigned char *body, struct range *reads, struct range *writes) {
  *reads = *writes = (struct range){0, 0};
  switch (r->kind) {
  case HEDDLE_WIRE_KIND_MEMSET: {
    const struct heddle_wire_memset *w = (const struct heddle_wire_memset *)body;
    *writes = (struct range){w->dst, w->pitch * (w->height - 1) + w->width * w->element};
    break;
  }
  case HEDDLE_WIRE_KIND_COPY: {
    const struct heddle_wire_copy *w = (const struct heddle_wire_copy *)body;
    *reads = (struct range){w->src, w->bytes};
    *writes = (struct range){w->dst, w->bytes};
    break;
  }
  case HEDDLE_WIRE_KIND_COPY3D: {
    const struct heddle_wire_copy3d *w = (const struct heddle_wire_copy3d *)body;
    *reads = (struct range){w->src, extent3d(w->src_pitch, w->src_height, w->src_x, w->src_y, w->src_z, w)};
    *writes = (struct range){w->dst, extent3d(w->dst_pitch, w->dst_height, w->dst_x, w->dst_y, w->dst_z, w)};
    break;
  }
  case HEDDLE_WIRE_KIND_PUT: {
    const struct heddle_wire_inline_copy *w = (const struct heddle_wire_inline_copy *)body;
    *writes = (struct range){w->address, w->bytes};
    break;
  }
  case HEDDLE_WIRE_KIND_GET: {
    const struct heddle_wire_inline_copy *w = (const struct heddle_wire_inline_copy *)body;
    *reads = (struct range){w->address, w->bytes};
    break;
  }
  default: break;
  }
}

static bool touches_global(struct heddle_session *s, const struct heddle_wire_record *r, const unsigned char *body);
static bool node_touches_global(void *arg, const struct heddle_wire_record *r, unsigned char *body) { return touches_global(arg, r, body); }

// Device globals lived in the executor that is gone.
static bool touches_global(struct heddle_session *s, const struct heddle_wire_record *r, const unsigned char *body) {
  struct heddle_session *owner;
  uint64_t a = 0, b = 0;
  bool unknown;
  switch (r->kind) {
  case HEDDLE_WIRE_KIND_GRAPH: return each_node(s, body, &unknown, node_touches_global, s) || unknown;
  case HEDDLE_WIRE_KIND_LAUNCH: {
    CUfunction native = heddle_code_native(s, ((const struct heddle_wire_launch *)body)->kernel);
    const struct heddle_function *f = native == NULL ? NULL : heddle_code_function(native);
    return f != NULL && heddle_code_mirrored(s, f);
  }
  case HEDDLE_WIRE_KIND_MEMSET: a = ((const struct heddle_wire_memset *)body)->dst; break;
  case HEDDLE_WIRE_KIND_COPY: a = ((const struct heddle_wire_copy *)body)->dst; b = ((const struct heddle_wire_copy *)body)->src; break;
  case HEDDLE_WIRE_KIND_COPY3D: a = ((const struct heddle_wire_copy3d *)body)->dst; b = ((const struct heddle_wire_copy3d *)body)->src; break;
  case HEDDLE_WIRE_KIND_PUT:
  case HEDDLE_WIRE_KIND_GET: a = ((const struct heddle_wire_inline_copy *)body)->address; break;
  default: return false;
  }
  return heddle_memory_where(a, 1, &owner) == HEDDLE_WHERE_GLOBAL || (b != 0 && heddle_memory_where(b, 1, &owner) == HEDDLE_WHERE_GLOBAL);
}

// The record at a position of our ring, or NULL when the bytes are no longer what we wrote (the file is shared).
static struct heddle_wire_record *record_at(const struct heddle_ring *ring, uint64_t position, uint64_t tail, unsigned char **body) {
  uint64_t index = position & ring->mask;
  struct heddle_wire_record *r = (struct heddle_wire_record *)(ring->data + index);
  uint32_t size = r->size;
  if (size < 16 || size % 16 != 0 || size > tail - position || size > ring->size - index) return NULL;
  *body = NULL;
  if (r->kind == HEDDLE_WIRE_KIND_PAD) return r;
  if (size < sizeof *r || r->ndeps > HEDDLE_WIRE_MAX_DEPS || (r->kind != HEDDLE_WIRE_KIND_ELAPSED && r->lane >= HEDDLE_WIRE_LANES)) return NULL;
  uint64_t head = sizeof *r + ((r->ndeps * sizeof(struct heddle_wire_dep) + 15) & ~UINT64_C(15));
  if (head > size) return NULL;
  uint64_t rest = size - head, need = 0;
  *body = (unsigned char *)r + head;
  switch (r->kind) {
  case HEDDLE_WIRE_KIND_LAUNCH: need = sizeof(struct heddle_wire_launch); break;
  case HEDDLE_WIRE_KIND_MEMSET: need = sizeof(struct heddle_wire_memset); break;
  case HEDDLE_WIRE_KIND_COPY: need = sizeof(struct heddle_wire_copy); break;
  case HEDDLE_WIRE_KIND_COPY3D: need = sizeof(struct heddle_wire_copy3d); break;
  case HEDDLE_WIRE_KIND_PUT:
  case HEDDLE_WIRE_KIND_GET: need = sizeof(struct heddle_wire_inline_copy); break;
  case HEDDLE_WIRE_KIND_ELAPSED: need = sizeof(struct heddle_wire_elapsed); break;
  case HEDDLE_WIRE_KIND_GRAPH: need = sizeof(struct heddle_wire_graph_launch); break;
  default: break;
  }
  if (rest < need) return NULL;
  if (r->kind == HEDDLE_WIRE_KIND_LAUNCH && ((struct heddle_wire_launch *)*body)->param_bytes > rest - need) return NULL;
  if (need == sizeof(struct heddle_wire_inline_copy) && (r->kind == HEDDLE_WIRE_KIND_PUT || r->kind == HEDDLE_WIRE_KIND_GET) &&
      ((struct heddle_wire_inline_copy *)*body)->bytes > rest - need)
    return NULL;
  return r;
}

static bool is_op(const struct heddle_wire_record *r) {
  switch (r->kind) {
  case HEDDLE_WIRE_KIND_LAUNCH:
  case HEDDLE_WIRE_KIND_MEMSET:
  case HEDDLE_WIRE_KIND_COPY:
  case HEDDLE_WIRE_KIND_COPY3D:
  case HEDDLE_WIRE_KIND_PUT:
  case HEDDLE_WIRE_KIND_GET:
  case HEDDLE_WIRE_KIND_GRAPH:
  case HEDDLE_WIRE_KIND_EVENT: return true;
  default: return false;
  }
}

#define DOUBTS 4096u // more ops in doubt than any executor's window holds

// Fills known[] (per lane: every op up to this number is done, by its word or because an op that is done depended on it) and says
// whether what is left may be run. A CUresult for the session, or CUDA_SUCCESS.
static CUresult judge(struct heddle_session *s, uint64_t head, uint64_t tail, uint32_t *known) {
  struct { struct range reads, writes; } *doubt = NULL;
  uint64_t *at = NULL;
  uint32_t n = 0, room = 0, doubts = 0;
  CUresult e = CUDA_SUCCESS;
  unsigned char *body;
  for (uint32_t i = 0; i < HEDDLE_WIRE_LANES; i++) known[i] = heddle_load_acquire32(&s->lanes[i].done);
  for (uint64_t position = head; position != tail && e == CUDA_SUCCESS;) {
    struct heddle_wire_record *r = record_at(&s->ring, position, tail, &body);
    if (r == NULL) { e = CUDA_ERROR_LAUNCH_FAILED; break; }
    if (is_op(r)) {
      if (n == room) {
        uint64_t *more = realloc(at, (room = room * 2 + 1024) * sizeof *at);
        if (more == NULL) { e = CUDA_ERROR_OUT_OF_MEMORY; break; }
        at = more;
      }
      at[n++] = position;
    }
    position += r->size;
  }
  // Dependencies name earlier records only, so one way back through the ring finds them all.
  for (uint32_t i = n; i-- > 0 && e == CUDA_SUCCESS;) {
    struct heddle_wire_record *r = record_at(&s->ring, at[i], tail, &body);
    if (r == NULL) { e = CUDA_ERROR_LAUNCH_FAILED; break; }
    const struct heddle_wire_dep *dep = (const struct heddle_wire_dep *)(r + 1);
    if (!heddle_reached(known[r->lane], r->seq)) continue;
    for (uint32_t k = 0; k < r->ndeps; k++)
      if (dep[k].lane < HEDDLE_WIRE_LANES && !heddle_reached(known[dep[k].lane], dep[k].value)) known[dep[k].lane] = dep[k].value;
  }
  if (e == CUDA_SUCCESS && (doubt = calloc(DOUBTS, sizeof *doubt)) == NULL) e = CUDA_ERROR_OUT_OF_MEMORY;
  for (uint32_t i = 0; i < n && e == CUDA_SUCCESS; i++) {
    struct heddle_wire_record *r = record_at(&s->ring, at[i], tail, &body);
    if (r == NULL) { e = CUDA_ERROR_LAUNCH_FAILED; break; }
    if (heddle_reached(known[r->lane], r->seq)) continue;
    bool in_doubt = heddle_reached(heddle_load_acquire32(&s->lanes[r->lane].issued), r->seq);
    if (touches_global(s, r, body) || (in_doubt && (r->kind == HEDDLE_WIRE_KIND_LAUNCH || r->kind == HEDDLE_WIRE_KIND_GRAPH || doubts == DOUBTS))) e = CUDA_ERROR_LAUNCH_FAILED;
    if (!in_doubt || e != CUDA_SUCCESS) continue;
    touches(r, body, &doubt[doubts].reads, &doubt[doubts].writes);
    doubts++;
    // Done again, an op must read what it read the first time: nothing that it or a later op in doubt may have written.
    for (uint32_t k = 0; k < doubts; k++)
      if (overlap(doubt[k].reads, doubt[doubts - 1].writes)) e = CUDA_ERROR_LAUNCH_FAILED;
  }
  free(doubt);
  free(at);
  return e;
}

// Runs what is left, in ring order; p->last is what judge found. *ran counts ops. A CUresult, or CUDA_SUCCESS.
static CUresult run_rest(struct heddle_session *s, uint64_t head, uint64_t tail, struct replay *p, uint32_t *ran) {
  for (uint64_t at = head; at != tail;) {
    unsigned char *body;
    struct heddle_wire_record *r = record_at(&s->ring, at, tail, &body);
    if (r == NULL) return CUDA_ERROR_LAUNCH_FAILED;
    at += r->size;
    if (r->kind == HEDDLE_WIRE_KIND_ELAPSED) {
      uint32_t slot = ((struct heddle_wire_elapsed *)body)->reply;
      if (slot >= HEDDLE_WIRE_REPLIES || heddle_load_acquire32(&s->replies[slot].state) != 1) continue;
      heddle_store_relaxed32(&s->replies[slot].status, CUDA_ERROR_INVALID_HANDLE);
      heddle_store_release32(&s->replies[slot].state, 2);
      (void)heddle_futex_wake(&s->replies[slot].state, INT_MAX);
    }
    if (!is_op(r) || heddle_reached(p->last[r->lane], r->seq)) continue;
    const struct heddle_wire_dep *dep = (const struct heddle_wire_dep *)(r + 1);
    CUresult e = r->ready == 0 ? CUDA_SUCCESS : await_ready(p, r->lane, r->ready);
    for (uint32_t i = 0; i < r->ndeps && e == CUDA_SUCCESS; i++)
      if ((dep[i].lane & HEDDLE_WIRE_DEP_READY) != 0 && (dep[i].lane & ~HEDDLE_WIRE_DEP_READY) < HEDDLE_WIRE_LANES)
        e = await_ready(p, dep[i].lane & ~HEDDLE_WIRE_DEP_READY, dep[i].value);
    if (e == CUDA_SUCCESS) e = run(p, r, body);
    if (e != CUDA_SUCCESS) return e;
    p->last[r->lane] = r->seq;
    p->pending = true;
    ++*ran;
  }
  return flush(p);
}

// ---- the whole ----

static bool all_done(struct heddle_session *s, uint64_t tail) { return heddle_load_acquire64(&s->ring.consumer->head) >= tail; }

void heddle_order_finish_alone(struct heddle_session *s) {
  if (atomic_load_explicit(&heddle_detached, memory_order_relaxed) != 0) return;
  struct heddle_shared *h = heddle_shared_of(s);
  if (h == NULL || h->session != s) return; // no lane was ever made
  if (atomic_load_explicit(&h->alone, memory_order_acquire) == 2) return;
  heddle_mutex_lock(&h->alone_lock);
  if (atomic_load(&h->alone) == 2) {
    heddle_mutex_unlock(&h->alone_lock);
    return;
  }
  atomic_store_explicit(&s->live, 0, memory_order_release);
  heddle_mutex_lock(&h->ring_lock); // whoever was publishing is through; whoever comes now sees live == 0
  uint64_t tail = s->ring.published;
  heddle_mutex_unlock(&h->ring_lock);
  // An executor that still works finishes better than we can, and must not work beside us.
  while (!all_done(s, tail) && !heddle_executor_gone(s)) {
    uint32_t state = heddle_load_acquire32(&s->status->state);
    if (state != HEDDLE_WIRE_STATE_CLOSED) (void)heddle_futex_wait(&s->status->state, state, 20);
  }
  uint32_t error = heddle_load_acquire32(&s->status->error), ran = 0;
  CUresult r = error == 0 ? CUDA_SUCCESS : error <= CUDA_ERROR_UNKNOWN ? (CUresult)error : CUDA_ERROR_UNKNOWN;
  uint64_t head = heddle_load_acquire64(&s->ring.consumer->head);
  if (head > tail || tail - head > s->ring.size) r = CUDA_ERROR_LAUNCH_FAILED; // nonsense: nothing can be said about what ran
  if (r == CUDA_SUCCESS && head != tail) {
    CUcontext before = NULL;
    CUstreamCaptureMode mode = heddle_capture_relax();
    (void)heddle_real.cuCtxGetCurrent(&before);
    struct replay *p = &(struct replay){.s = s, .pending = true};
    r = judge(s, head, tail, p->last);
    if (r != CUDA_SUCCESS) {
      heddle_log(HEDDLE_LOG_ERROR, "device %d: the executor is gone while an operation was under way that must not be repeated, or with "
                                   "this program's device globals: CUDA error %d from now on", s->device, (int)r);
    } else {
      r = run_rest(s, head, tail, p, &ran);
      if (p->stream != NULL) (void)heddle_real.cuStreamDestroy_v2(p->stream);
      if (r != CUDA_SUCCESS) heddle_log(HEDDLE_LOG_ERROR, "device %d: finishing without an executor failed: CUDA error %d", s->device, (int)r);
    }
    (void)heddle_real.cuCtxSetCurrent(before);
    heddle_capture_restore(mode);
  }
  int none = 0;
  if (r != CUDA_SUCCESS) (void)atomic_compare_exchange_strong(&s->sticky, &none, (int)r);
  // Whatever was run or dropped: nobody waits for it any more, on the host or on a stream.
  heddle_lanes_say_done(s, say_done);
  heddle_log(HEDDLE_LOG_WARN, "device %d: no executor serves this process; %u forwarded operations were finished here", s->device, ran);
  atomic_store_explicit(&h->alone, 2, memory_order_release);
  heddle_mutex_unlock(&h->alone_lock);
}

// ---- the watcher ----

static void *watch(void *arg) {
  struct heddle_session *s = arg;
  while (heddle_session_live(s)) {
    uint32_t state = heddle_load_acquire32(&s->status->state);
    if (heddle_session_lost(s)) break;
    // Woken by a change of the state; a daemon that died without one is noticed at the next look.
    (void)heddle_futex_wait(&s->status->state, state, state == HEDDLE_WIRE_STATE_LIVE ? 500 : 50);
  }
  heddle_session_given_up(s);
  return NULL;
}

void heddle_watch(struct heddle_session *s) {
  struct heddle_shared *h = heddle_shared_of(s);
  if (atomic_load_explicit(&h->watched, memory_order_relaxed) != 0 || atomic_exchange(&h->watched, 1) != 0) return;
  // A thread that waits inside the driver for a word that only an executor writes cannot notice that there is none.
  sigset_t all, before;
  pthread_attr_t a;
  pthread_t t;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_init(&a);
  pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
  if (pthread_create(&t, &a, watch, s) != 0) atomic_store(&h->watched, 0);
  pthread_attr_destroy(&a);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}
