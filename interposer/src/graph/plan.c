// How a graph is launched: what the executor has of it, and what the client's own stream does before, between and behind. Nearly every
// graph is one part, and its launch one op. Source: CUDA driver API, cuGraphLaunch, cuLaunchHostFunc, cuStreamBatchMemOp,
// cuGraphAddMemcpyNode.
#include <stdlib.h>
#include <string.h>

#include "../hooks/hooks_gen.h"
#include "../log.h"
#include "inner.h"

// ---- made and dropped ----

// A copy or memset that stays native becomes a graph of its own: as a call it would read pageable memory when it is made.
static CUgraphExec alone(uint16_t kind, const unsigned char *body, CUcontext owner) {
  CUgraph g = NULL;
  CUgraphNode n;
  CUgraphExec x = NULL;
  CUstreamCaptureMode mode = heddle_capture_relax();
  CUresult r = heddle_real.cuGraphCreate(&g, 0);
  if (r == CUDA_SUCCESS) {
    r = kind == HEDDLE_STEP_COPY ? heddle_real.cuGraphAddMemcpyNode(&n, g, NULL, 0, (const CUDA_MEMCPY3D *)body, owner)
                                 : heddle_real.cuGraphAddMemsetNode(&n, g, NULL, 0, (const CUDA_MEMSET_NODE_PARAMS *)body, owner);
    if (r == CUDA_SUCCESS) r = heddle_real.cuGraphInstantiateWithFlags(&x, g, 0);
    (void)heddle_real.cuGraphDestroy(g);
  }
  heddle_capture_restore(mode);
  return r == CUDA_SUCCESS ? x : NULL;
}

void heddle_plan_context_gone(struct heddle_plan *p) {
  for (uint32_t i = 0; i < p->n; i++) p->steps[i].native = NULL;
}

void heddle_plan_drop(struct heddle_plan *p) {
  CUstreamCaptureMode mode = heddle_capture_relax();
  for (uint32_t i = 0; i < p->n; i++) {
    if (p->steps[i].mirror != NULL) heddle_mirror_drop(p->steps[i].mirror);
    if (p->steps[i].native != NULL) (void)heddle_real.cuGraphExecDestroy(p->steps[i].native);
  }
  heddle_capture_restore(mode);
  free(p->own);
  free(p);
}

struct heddle_plan *heddle_plan_make(struct heddle_session *s, CUcontext owner, const struct heddle_records *r, uint64_t hash, enum heddle_native_reason *why) {
  struct heddle_cut c;
  if (!heddle_cut(r, &c, why)) return NULL;
  struct heddle_plan *p = calloc(1, sizeof *p + c.n * sizeof p->steps[0]);
  bool ok = p != NULL;
  *why = HEDDLE_NATIVE_GRAPH_REFUSED;
  if (ok && (c.n > 1 || c.steps[0].kind != 0)) {
    ok = (p->own = malloc(r->bytes)) != NULL;
    if (ok) memcpy(p->own, r->at, r->bytes);
  }
  for (uint32_t i = 0; ok && i < c.n; i++) {
    const struct heddle_cut_step *from = &c.steps[i];
    struct heddle_step *to = &p->steps[p->n++];
    to->kind = from->kind;
    to->left = from->left;
    if (from->kind == 0) {
      ok = (to->mirror = heddle_mirror_make(s, &from->part, why)) != NULL;
      continue;
    }
    to->body = p->own + (from->body - r->at);
    if (from->kind == HEDDLE_STEP_COPY || from->kind == HEDDLE_STEP_MEMSET) ok = (to->native = alone(from->kind, to->body, owner)) != NULL;
  }
  heddle_cut_free(&c);
  if (!ok) {
    if (p != NULL) heddle_plan_drop(p);
    return NULL;
  }
  p->hash = hash;
  p->bytes = r->bytes;
  p->records = p->own != NULL ? p->own : p->steps[0].mirror->records;
  return p;
}

bool heddle_plan_is_of(const struct heddle_plan *p, const struct heddle_records *r, uint64_t hash) {
  return p->hash == hash && p->bytes == r->bytes && memcmp(p->records, r->at, r->bytes) == 0;
}

bool heddle_plan_stale(const struct heddle_plan *p) {
  for (uint32_t i = 0; i < p->n; i++)
    if (p->steps[i].mirror != NULL && heddle_mirror_stale(p->steps[i].mirror)) return true;
  return false;
}

// ---- launched ----

// HEDDLE_OP_OPEN: published. HEDDLE_OP_NATIVE: *why says why. Otherwise a CUresult.
static int launch_part(struct heddle_mirror *m, struct heddle_lane *lane, uint32_t *seq, enum heddle_native_reason *why) {
  struct heddle_op op;
  int r = heddle_op_open(&op, lane, HEDDLE_WIRE_KIND_GRAPH, 0, sizeof(struct heddle_wire_graph_launch));
  *why = op.why;
  if (r != HEDDLE_OP_OPEN) return r;
  *(struct heddle_wire_graph_launch *)op.body = (struct heddle_wire_graph_launch){.graph = m->id};
  *seq = op.seq;
  heddle_op_publish(&op);
  heddle_mirror_launched(m, lane->id, *seq);
  return HEDDLE_OP_OPEN;
}

static CUresult run_step(const struct heddle_step *t, CUstream stream) {
  enum heddle_native_reason left = (enum heddle_native_reason)t->left;
  switch (t->kind) {
  case HEDDLE_STEP_RECORD: return heddle_hook_cuEventRecord(*(const CUevent *)t->body, stream);
  case HEDDLE_STEP_WAIT: return heddle_hook_cuStreamWaitEvent(stream, *(const CUevent *)t->body, 0);
  case HEDDLE_STEP_HOST: {
    const CUDA_HOST_NODE_PARAMS *h = (const CUDA_HOST_NODE_PARAMS *)t->body;
    return HEDDLE_NATIVE_CALL(stream, HEDDLE_NATIVE_ASYNC, HEDDLE_NATIVE_NONE, heddle_real.cuLaunchHostFunc(stream, h->fn, h->userData));
  }
  case HEDDLE_STEP_MEMOPS: {
    const struct heddle_step_memops *m = (const struct heddle_step_memops *)t->body;
    CUstreamBatchMemOpParams *op = (CUstreamBatchMemOpParams *)(uintptr_t)(m + 1);
    return HEDDLE_NATIVE_CALL(stream, HEDDLE_NATIVE_ASYNC, HEDDLE_NATIVE_NONE, heddle_real.cuStreamBatchMemOp_v2(stream, m->count, op, m->flags));
  }
  default: return HEDDLE_NATIVE_CALL(stream, HEDDLE_NATIVE_ASYNC, left, heddle_real.cuGraphLaunch(t->native, stream));
  }
}

int heddle_plan_launch(struct heddle_plan *p, struct heddle_lane *lane, CUstream stream, bool globals, uint32_t *seq, enum heddle_native_reason *why) {
  struct heddle_session *s = lane->session;
  *why = HEDDLE_NATIVE_GRAPH_REFUSED;
  for (uint32_t i = 0; i < p->n; i++)
    if (p->steps[i].mirror != NULL && !heddle_mirror_launch_room(p->steps[i].mirror)) return HEDDLE_OP_NATIVE;
  if (p->n == 1 && p->steps[0].kind == 0) return launch_part(p->steps[0].mirror, lane, seq, why);
  int r = HEDDLE_OP_OPEN;
  *seq = 0;
  heddle_turn_take(lane);
  if (heddle_lane_captures(lane)) { // since we asked; none begins there until we give the turn
    heddle_turn_give(lane);
    *why = HEDDLE_NATIVE_CAPTURE;
    return HEDDLE_OP_NATIVE;
  }
  for (uint32_t i = 0; i < p->n && r == HEDDLE_OP_OPEN; i++) {
    const struct heddle_step *t = &p->steps[i];
    if (t->kind != 0) {
      r = (int)run_step(t, stream);
      continue;
    }
    r = launch_part(t->mirror, lane, seq, why);
    if (r != HEDDLE_OP_NATIVE || i == 0) continue;
    // The session ended: what was forwarded is finished first, and the rest runs here.
    heddle_session_given_up(s);
    CUresult sticky = heddle_sticky(s);
    r = (int)(sticky != CUDA_SUCCESS ? sticky : globals ? CUDA_ERROR_LAUNCH_FAILED : heddle_alone_graph(s, stream, t->mirror->records, t->mirror->bytes));
  }
  if (r == HEDDLE_OP_OPEN && p->steps[p->n - 1].kind != 0 && (r = heddle_lane_settle(lane, seq)) == HEDDLE_OP_NATIVE) r = HEDDLE_OP_OPEN;
  bool over = !heddle_session_live(s);
  heddle_turn_give(lane);
  if (over) {
    // No number tells when the steps are done, and what the graph keeps for them may be let go of with it.
    *seq = 0;
    CUstreamCaptureMode mode = heddle_capture_relax();
    if (r == HEDDLE_OP_OPEN) r = (int)heddle_real.cuStreamSynchronize(stream);
    heddle_capture_restore(mode);
  }
  return r;
}
