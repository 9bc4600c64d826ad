// Executable graphs: the native one is always there; where the executor can build the same, launches go there. Source: CUDA driver
// API, cuGraphInstantiate, cuGraphLaunch ("ordered behind both any previous work in hStream and any previous launches of
// hGraphExec"), cuGraphUpload, cuGraphExecDestroy.
#include <stdlib.h>
#include <string.h>

#include "../hooks/hooks_gen.h"
#include "../log.h"
#include "heddle_hash.h"
#include "inner.h"

#define BUCKETS 1024u

static struct heddle_mutex table_lock; // guards the chains and every .users; a leaf
static struct heddle_exec *buckets[BUCKETS];
static _Atomic bool user_objects; // some graph keeps objects of the program alive

static struct heddle_exec **bucket_of(CUgraphExec e) { return &buckets[(uint64_t)(uintptr_t)e * UINT64_C(0x9e3779b97f4a7c15) >> 54]; }

struct heddle_exec *heddle_exec_hold(CUgraphExec handle) {
  if (handle == NULL || atomic_load_explicit(&heddle_detached, memory_order_relaxed) != 0) return NULL;
  heddle_mutex_lock(&table_lock);
  struct heddle_exec *x = *bucket_of(handle);
  while (x != NULL && x->handle != handle) x = x->next;
  if (x != NULL) x->users++;
  heddle_mutex_unlock(&table_lock);
  return x;
}

// What the executor has of x. x is locked, or nobody else has it.
static void drop_plans(struct heddle_exec *x) {
  for (uint32_t i = 0; i < HEDDLE_KEPT; i++)
    if (x->kept[i] != NULL) heddle_plan_drop(x->kept[i]);
  memset(x->kept, 0, sizeof x->kept);
  x->current = NULL;
}

void heddle_exec_release(struct heddle_exec *x) {
  if (x == NULL) return;
  heddle_mutex_lock(&table_lock);
  bool last = --x->users == 0;
  heddle_mutex_unlock(&table_lock);
  if (!last) return;
  drop_plans(x);
  heddle_description_free(x->description);
  heddle_graph_events_free(&x->events);
  free(x);
}

// Takes the handle out of the table; the entry is held by the caller instead. NULL: not known.
static struct heddle_exec *take(CUgraphExec handle) {
  heddle_mutex_lock(&table_lock);
  struct heddle_exec **p = bucket_of(handle), *x;
  while (*p != NULL && (*p)->handle != handle) p = &(*p)->next;
  x = *p;
  if (x != NULL) *p = x->next;
  heddle_mutex_unlock(&table_lock);
  return x;
}

void heddle_exec_changed(struct heddle_exec *x) {
  if (x->launches == 1) x->hasty++;
  else if (x->launches > 1) x->hasty = 0;
  x->launches = 0;
  x->changed = x->description != NULL;
}

void heddle_exec_describe(struct heddle_exec *x, struct heddle_description *d, CUgraph graph, enum heddle_native_reason why) {
  heddle_description_free(x->description);
  x->description = d;
  if (d != NULL || graph != NULL) heddle_graph_events_free(&x->events);
  if (d != NULL) heddle_description_events(d, &x->events);
  else if (graph != NULL) heddle_graph_events(graph, &x->events);
  x->why = why;
  heddle_exec_changed(x);
  if (d == NULL) drop_plans(x);
}

// ---- what is to be launched ----

// Brings x->current up to date with the description. x is locked. False: natively, x->why says why.
static bool current(struct heddle_exec *x) {
  struct heddle_session *s = x->session;
  uint32_t changes = atomic_load_explicit(&heddle_code_changes, memory_order_acquire);
  struct heddle_records r;
  if (x->description == NULL) return false;
  if (x->code_changes != changes) {
    CUstreamCaptureMode mode = heddle_capture_relax();
    heddle_description_renew(s, x->description);
    heddle_capture_restore(mode);
    x->code_changes = changes;
    x->changed = true;
  }
  for (uint32_t i = 0; i < HEDDLE_KEPT && x->kept[i] != NULL;) {
    struct heddle_plan *p = x->kept[i];
    if (!heddle_plan_stale(p)) { i++; continue; }
    if (p == x->current) x->changed = true;
    memmove(&x->kept[i], &x->kept[i + 1], (HEDDLE_KEPT - 1 - i) * sizeof x->kept[0]);
    x->kept[HEDDLE_KEPT - 1] = NULL;
    heddle_plan_drop(p);
  }
  if (!x->changed) return x->why == HEDDLE_NATIVE_NONE;
  x->current = NULL;
  x->changed = false;
  x->globals = heddle_description_globals(s, x->description);
  x->stateful = heddle_description_stateful(s, x->description);
  if (!heddle_records_write(x->description, &r, &x->why)) return false;
  uint64_t hash = heddle_hash64(r.at, r.bytes, 0);
  uint32_t at = 0;
  while (at < HEDDLE_KEPT && x->kept[at] != NULL && !heddle_plan_is_of(x->kept[at], &r, hash)) at++;
  struct heddle_plan *p = at < HEDDLE_KEPT ? x->kept[at] : NULL;
  if (p == NULL && x->hasty >= HEDDLE_HASTY && x->launches == 0) {
    x->why = HEDDLE_NATIVE_GRAPH_CHANGES;
    x->changed = true;
  } else if (p != NULL) {
    x->hasty = 0;
  } else {
    p = heddle_plan_make(s, x->context, &r, hash, &x->why);
    if (p != NULL && at == HEDDLE_KEPT) heddle_plan_drop(x->kept[--at]);
    heddle_log(HEDDLE_LOG_DEBUG, "device %d: a graph of %u nodes, %zu bytes: %s (%u steps)", s->device, r.nodes, r.bytes, p != NULL ? "the executor has it" : "natively",
               p != NULL ? p->n : 0);
  }
  free(r.at);
  if (p == NULL) return false;
  memmove(&x->kept[1], &x->kept[0], at * sizeof x->kept[0]);
  x->kept[0] = x->current = p;
  x->why = HEDDLE_NATIVE_NONE;
  return true;
}

// ---- instantiation ----

static void made(CUgraphExec *out, CUgraph graph, unsigned long long flags) {
  struct heddle_context *c = heddle_context_current();
  if (out == NULL || *out == NULL || c == NULL || !heddle_session_live(c->session)) return;
  struct heddle_exec *x = calloc(1, sizeof *x);
  if (x == NULL) return; // unknown, and native
  x->handle = *out;
  x->users = 1;
  x->session = c->session;
  x->context = c->handle;
  x->code_changes = atomic_load_explicit(&heddle_code_changes, memory_order_acquire);
  enum heddle_native_reason why = HEDDLE_NATIVE_GRAPH; // launched from the device it would be the native one's
  struct heddle_description *d = NULL;
  if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) == 0) d = heddle_describe(x->session, x->context, graph, &why);
  heddle_exec_describe(x, d, graph, why);
  if (!current(x)) heddle_log(HEDDLE_LOG_INFO, "device %d: a graph runs natively (reason %d)", c->session->device, (int)x->why);
  heddle_mutex_lock(&table_lock);
  struct heddle_exec **head = bucket_of(x->handle);
  x->next = *head;
  *head = x;
  heddle_mutex_unlock(&table_lock);
}

CUresult heddle_hook_cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize) {
  CUresult r = heddle_real.cuGraphInstantiate(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
  if (r == CUDA_SUCCESS) made(phGraphExec, hGraph, 0);
  return r;
}
CUresult heddle_hook_cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize) {
  CUresult r = heddle_real.cuGraphInstantiate_v2(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
  if (r == CUDA_SUCCESS) made(phGraphExec, hGraph, 0);
  return r;
}
CUresult heddle_hook_cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags) {
  CUresult r = heddle_real.cuGraphInstantiateWithFlags(phGraphExec, hGraph, flags);
  if (r == CUDA_SUCCESS) made(phGraphExec, hGraph, flags);
  return r;
}
CUresult heddle_hook_cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph, CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams, CUstream implicit) {
  CUresult r = heddle_native_cuGraphInstantiateWithParams(phGraphExec, hGraph, instantiateParams, implicit);
  if (r == CUDA_SUCCESS && instantiateParams->result_out == CUDA_GRAPH_INSTANTIATE_SUCCESS) made(phGraphExec, hGraph, instantiateParams->flags);
  return r;
}

// ---- launching ----

// The session is over. Where kernels of the graph see device globals that lived in the executor, the program gets an error.
static int forward_closed(struct heddle_exec *x, enum heddle_native_reason *why) {
  *why = HEDDLE_NATIVE_CLOSED;
  CUresult r = heddle_sticky(x->session);
  if (r != CUDA_SUCCESS) return (int)r;
  return x->globals ? (int)CUDA_ERROR_LAUNCH_FAILED : HEDDLE_OP_NATIVE;
}

static bool captures(CUstream stream) {
  return atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) != 0 && heddle_stream_captures(stream);
}

// Launches of one executable graph follow one another, on whichever streams. The lane's next op follows the last one.
static int follow_last(struct heddle_exec *x, struct heddle_lane *lane) {
  struct heddle_session *s = lane->session;
  for (int tries = 0; x->seq != 0 && x->lane != lane->id && !heddle_lane_done(s, x->lane, x->seq); tries++) {
    uint32_t seq;
    if (tries == 2) return (int)heddle_wait_number(s, x->lane, x->seq, 20);
    heddle_mutex_lock(lane->lock);
    bool owed = heddle_lane_owe(lane, x->lane, x->seq);
    heddle_mutex_unlock(lane->lock);
    if (owed) break;
    int settled = heddle_lane_settle(lane, &seq); // one record takes over the full list
    if (settled > 0) return settled;
  }
  return HEDDLE_OP_OPEN;
}

// HEDDLE_OP_OPEN: published. HEDDLE_OP_NATIVE: natively, *why says why. Otherwise a CUresult to return. x is locked.
static int forward(struct heddle_exec *x, struct heddle_lane *lane, CUstream stream, enum heddle_native_reason *why) {
  if (lane == NULL) return HEDDLE_OP_NATIVE;
  if (!heddle_session_live(x->session)) return forward_closed(x, why);
  *why = HEDDLE_NATIVE_CAPTURE; // it becomes a node of the graph that is captured
  if (captures(stream)) return HEDDLE_OP_NATIVE;
  *why = HEDDLE_NATIVE_FOREIGN_MEMORY;
  if (lane->session != x->session) return HEDDLE_OP_NATIVE;
  *why = HEDDLE_NATIVE_LANES;
  if (lane->id == HEDDLE_LANE_NATIVE) return HEDDLE_OP_NATIVE;
  bool ours = current(x);
  *why = x->why;
  if (!heddle_session_live(x->session)) return forward_closed(x, why);
  if (!ours) return HEDDLE_OP_NATIVE;
  *why = HEDDLE_NATIVE_STRAGGLER;
  if (heddle_session_sent(x->session) && !x->stateful) return HEDDLE_OP_NATIVE;
  if (x->native_lane != 0 && x->native_lane != lane->id + 1) {
    // The last launch was native, on another stream: rare enough to wait for here, unless a capture forbids it.
    *why = HEDDLE_NATIVE_GRAPH;
    if (atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) != 0) return HEDDLE_OP_NATIVE;
    CUresult r = heddle_order_drain_all(x->session);
    if (r != CUDA_SUCCESS) return (int)r;
  }
  int r = follow_last(x, lane);
  uint32_t seq = 0;
  if (r != HEDDLE_OP_OPEN) return r;
  r = heddle_plan_launch(x->current, lane, stream, x->globals, &seq, why);
  if (r != HEDDLE_OP_OPEN) return r == HEDDLE_OP_NATIVE && !heddle_session_live(x->session) ? forward_closed(x, why) : r;
  x->lane = lane->id;
  x->seq = seq;
  x->native_lane = seq == 0 ? lane->id + 1 : 0;
  x->launches++;
  return HEDDLE_OP_OPEN;
}

// Before a native launch on the lane (NULL: unknown): it follows the last forwarded one.
static CUresult settle(struct heddle_exec *x, struct heddle_lane *lane) {
  if (x->seq == 0 || (lane != NULL && lane->id == x->lane)) return CUDA_SUCCESS;
  return heddle_wait_number(x->session, x->lane, x->seq, 20);
}

// The events of a graph are recorded, and waited for, by the driver. It knows nothing of those that were recorded in the executor: they are
// waited for before. Those that it does know may be gone for the program.
static CUresult wait_events(const struct heddle_exec *x, CUstream stream) {
  CUresult r = CUDA_SUCCESS;
  for (uint32_t i = 0; i < x->events.nwait && r == CUDA_SUCCESS; i++)
    if (heddle_event_forwarded(x->events.wait[i].event)) r = heddle_hook_cuStreamWaitEvent(stream, x->events.wait[i].event, 0);
  return r;
}

static CUresult launch_natively(CUgraphExec exec, CUstream stream, enum heddle_native_reason why) {
  CUresult r = heddle_code_graph_begin(stream);
  if (r != CUDA_SUCCESS) return r;
  r = HEDDLE_NATIVE_CALL(stream, HEDDLE_NATIVE_ASYNC, why, heddle_real.cuGraphLaunch(exec, stream));
  return heddle_code_graph_end(stream, r);
}

CUresult heddle_hook_cuGraphLaunch(CUgraphExec hGraph, CUstream hStream) {
  enum heddle_native_reason why = HEDDLE_NATIVE_GRAPH;
  struct heddle_exec *x = heddle_exec_hold(hGraph);
  if (x == NULL) return launch_natively(hGraph, hStream, why);
  struct heddle_lane *lane = heddle_lane_of(hStream);
  heddle_mutex_lock(&x->lock);
  int r = forward(x, lane, hStream, &why);
  if (r == HEDDLE_OP_NATIVE && why == HEDDLE_NATIVE_CAPTURE) {
    r = (int)launch_natively(hGraph, hStream, why);
  } else if (r == HEDDLE_OP_NATIVE) {
    r = (int)settle(x, lane);
    if (r == CUDA_SUCCESS) r = (int)wait_events(x, hStream);
    if (r == CUDA_SUCCESS) r = (int)launch_natively(hGraph, hStream, why);
    for (uint32_t i = 0; r == CUDA_SUCCESS && i < x->events.nrecord; i++) heddle_event_natively(x->events.record[i].event);
    if (r == CUDA_SUCCESS) {
      x->native_lane = lane == NULL || lane->id == HEDDLE_LANE_NATIVE ? UINT32_MAX : lane->id + 1;
      x->seq = 0;
      x->launches++;
    }
  }
  heddle_mutex_unlock(&x->lock);
  heddle_exec_release(x);
  return (CUresult)r;
}

// Nothing of a graph that the executor launches is uploaded here; it was when it was made there.
CUresult heddle_hook_cuGraphUpload(CUgraphExec hGraph, CUstream hStream) {
  struct heddle_exec *x = heddle_exec_hold(hGraph);
  struct heddle_lane *lane = heddle_lane_of(hStream);
  bool ours = false;
  enum heddle_native_reason why = HEDDLE_NATIVE_GRAPH;
  if (x != NULL && lane != NULL && heddle_session_live(x->session) && lane->session == x->session && !captures(hStream)) {
    heddle_mutex_lock(&x->lock);
    ours = current(x);
    why = x->why;
    heddle_mutex_unlock(&x->lock);
  }
  heddle_exec_release(x);
  if (ours) return heddle_sticky(lane->session);
  return HEDDLE_NATIVE_CALL(hStream, HEDDLE_NATIVE_ASYNC, why, heddle_real.cuGraphUpload(hGraph, hStream));
}

// ---- the end ----

void heddle_exec_before_release(struct heddle_exec *x) {
  // The driver keeps the program's objects for launches that it knows of, and knows nothing of ours.
  if (atomic_load_explicit(&user_objects, memory_order_relaxed) && x->seq != 0) (void)heddle_wait_number(x->session, x->lane, x->seq, 20);
}

CUresult heddle_hook_cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int count, unsigned int flags) {
  atomic_store_explicit(&user_objects, true, memory_order_relaxed);
  return heddle_real.cuGraphRetainUserObject(graph, object, count, flags);
}

CUresult heddle_hook_cuGraphExecDestroy(CUgraphExec hGraphExec) {
  // Before the real call: afterwards another thread may already have got the same handle for a new one.
  struct heddle_exec *x = hGraphExec == NULL || atomic_load(&heddle_detached) != 0 ? NULL : take(hGraphExec);
  if (x != NULL) {
    heddle_mutex_lock(&x->lock);
    heddle_exec_before_release(x);
    heddle_mutex_unlock(&x->lock);
    heddle_exec_release(x);
  }
  return heddle_real.cuGraphExecDestroy(hGraphExec);
}

void heddle_graph_context_gone(CUcontext context) {
  for (uint32_t i = 0; i < BUCKETS; i++) {
    struct heddle_exec *gone = NULL;
    heddle_mutex_lock(&table_lock);
    for (struct heddle_exec **p = &buckets[i]; *p != NULL;) {
      struct heddle_exec *x = *p;
      if (x->context != context) { p = &x->next; continue; }
      *p = x->next;
      x->next = gone;
      gone = x;
    }
    heddle_mutex_unlock(&table_lock);
    while (gone != NULL) {
      struct heddle_exec *next = gone->next;
      heddle_mutex_lock(&gone->lock);
      for (uint32_t k = 0; k < HEDDLE_KEPT; k++)
        if (gone->kept[k] != NULL) heddle_plan_context_gone(gone->kept[k]);
      heddle_mutex_unlock(&gone->lock);
      heddle_exec_release(gone);
      gone = next;
    }
  }
}
