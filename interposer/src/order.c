// Native work against forwarded work. A native operation waits, on its real stream, for `done` of what it must follow; a
// forwarded op waits for `ready`, which the real stream writes (submit.c). A wait is enqueued only after every write that it
// depends on, because both happen under the lane's lock and name only what is published already: streams that share a hardware
// connection may delay each other but cannot form a cycle. Source: design.md section 4 "Order".
#include "lane.h"

// ---- what a native operation must follow ----

// Calls f(lane, id, seq) for every forwarded op that the next native operation of a locked lane must follow and the real stream
// does not wait for yet. Stops when f returns false.
static bool each_before_native(struct heddle_lane *lane, bool (*f)(struct heddle_lane *, uint32_t, uint32_t, void *), void *arg) {
  struct heddle_context *c = lane->context;
  struct heddle_session *s = lane->session;
  uint32_t seq = atomic_load_explicit(&lane->seq, memory_order_relaxed);
  if (seq != lane->waited && !heddle_lane_done(s, lane->id, seq) && !f(lane, lane->id, seq, arg)) return false;
  for (uint32_t i = 0; i < lane->ndeps; i++)
    if (!heddle_lane_done(s, lane->deps[i].lane, lane->deps[i].value) && !f(lane, lane->deps[i].lane, lane->deps[i].value, arg)) return false;
  if (lane->legacy) {
    if (lane->legacy_activity_native == c->activity) return true;
    for (struct heddle_lane *b = c->blocking; b != NULL; b = b->next_blocking) {
      uint32_t n = atomic_load_explicit(&b->seq, memory_order_relaxed);
      if (n != b->waited_by_legacy && !heddle_lane_done(s, b->id, n) && !f(lane, b->id, n, arg)) return false;
      for (uint32_t i = 0; i < b->ndeps; i++)
        if (!heddle_lane_done(s, b->deps[i].lane, b->deps[i].value) && !f(lane, b->deps[i].lane, b->deps[i].value, arg)) return false;
    }
  } else if (lane->blocking) {
    struct heddle_lane *l = c->legacy;
    uint32_t n = atomic_load_explicit(&l->seq, memory_order_relaxed);
    if (n != lane->waited_legacy && !heddle_lane_done(s, l->id, n) && !f(lane, l->id, n, arg)) return false;
    for (uint32_t i = 0; i < l->ndeps; i++)
      if (!heddle_lane_done(s, l->deps[i].lane, l->deps[i].value) && !f(lane, l->deps[i].lane, l->deps[i].value, arg)) return false;
  }
  return true;
}

// The real stream now waits for all of it. What the lane owed is covered by its next ready write: native work was begun.
static void waits_enqueued(struct heddle_lane *lane) {
  struct heddle_context *c = lane->context;
  lane->waited = atomic_load_explicit(&lane->seq, memory_order_relaxed);
  lane->ndeps = 0;
  if (lane->legacy) {
    for (struct heddle_lane *b = c->blocking; b != NULL; b = b->next_blocking)
      b->waited_by_legacy = atomic_load_explicit(&b->seq, memory_order_relaxed);
    lane->legacy_activity_native = c->activity;
  } else if (lane->blocking) {
    lane->waited_legacy = atomic_load_explicit(&c->legacy->seq, memory_order_relaxed);
  }
}

CUdeviceptr heddle_word_address(struct heddle_session *s, uint32_t id, size_t offset, CUresult *r) {
  if (s->lanes_device == 0) {
    CUstreamCaptureMode mode = heddle_capture_relax();
    *r = heddle_session_register_words(s);
    heddle_capture_restore(mode);
    if (*r != CUDA_SUCCESS) return 0;
  }
  *r = CUDA_SUCCESS;
  return s->lanes_device + (CUdeviceptr)id * sizeof(struct heddle_wire_lane) + offset;
}

bool heddle_stream_wait_number(struct heddle_lane *lane, struct heddle_session *s, uint32_t id, uint32_t seq, CUresult *r) {
  *r = CUDA_SUCCESS;
  if (heddle_lane_done(s, id, seq)) return true;
  if (!heddle_signal_number(s, id, seq)) return false;
  CUdeviceptr word = heddle_word_address(s, id, offsetof(struct heddle_wire_lane, done), r);
  if (*r != CUDA_SUCCESS) return true;
  heddle_watch(s);
  CUstreamCaptureMode mode = heddle_capture_relax();
  *r = heddle_real.cuStreamWaitValue32_v2(atomic_load_explicit(&lane->handle, memory_order_relaxed), word, seq, CU_STREAM_WAIT_VALUE_GEQ);
  heddle_capture_restore(mode);
  return true;
}

void heddle_lane_native(struct heddle_lane *lane) {
  lane->native_serial++;
  atomic_fetch_add_explicit(&lane->context->native_serial, 1, memory_order_relaxed);
  if (lane->blocking && !lane->legacy) lane->context->activity++;
}

// ---- begin and end ----

struct enqueued {
  CUresult error;
  bool lost;
};
struct waits {
  uint32_t n;
  struct heddle_wire_dep at[2 * HEDDLE_WIRE_LANES];
};

static bool enqueue_wait(struct heddle_lane *lane, uint32_t id, uint32_t seq, void *arg) {
  struct enqueued *w = arg;
  if (!heddle_stream_wait_number(lane, lane->session, id, seq, &w->error)) w->lost = true;
  return !w->lost && w->error == CUDA_SUCCESS;
}

static bool collect_wait(struct heddle_lane *lane, uint32_t id, uint32_t seq, void *arg) {
  struct waits *w = arg;
  (void)lane;
  if (w->n < 2 * HEDDLE_WIRE_LANES) w->at[w->n++] = (struct heddle_wire_dep){id, seq};
  return true;
}

// The calling thread waits for what the next native operation of the lane must follow.
static CUresult wait_before_native(struct heddle_lane *lane) {
  struct waits w;
  w.n = 0;
  heddle_lane_lock(lane);
  uint32_t seq = atomic_load_explicit(&lane->seq, memory_order_relaxed);
  each_before_native(lane, collect_wait, &w);
  heddle_mutex_unlock(lane->lock);
  (void)heddle_signal_wait(lane->session, lane->id, seq);
  for (uint32_t i = 0; i < w.n; i++) {
    CUresult r = heddle_wait_host(lane->session, w.at[i].lane, w.at[i].value, lane->context->spin_us);
    if (r != CUDA_SUCCESS) return r;
  }
  return CUDA_SUCCESS;
}

CUresult heddle_order_begin(struct heddle_order *o, CUstream stream, enum heddle_native_kind kind, enum heddle_native_reason why) {
  o->session = NULL;
  o->lane = NULL;
  o->stream = stream;
  o->kind = kind;
  struct heddle_lane *lane = heddle_lane_of(stream);
  if (lane == NULL) return CUDA_SUCCESS;
  struct heddle_session *s = lane->session;
  CUresult r = heddle_sticky(s);
  if (r != CUDA_SUCCESS) return r;
  if (atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) != 0 && heddle_stream_captures(stream)) {
    heddle_count_native(HEDDLE_NATIVE_CAPTURE);
    return CUDA_SUCCESS;
  }
  if (why != HEDDLE_NATIVE_NONE) heddle_count_native(why);
  if (!heddle_session_live(s)) {
    heddle_session_given_up(s); // returns when the last forwarded op has run
    return heddle_sticky(s);
  }
  if (kind == HEDDLE_NATIVE_BLOCKING) {
    if ((r = wait_before_native(lane)) != CUDA_SUCCESS) return r;
  } else {
    struct enqueued w = {CUDA_SUCCESS, false};
    heddle_lane_lock(lane);
    if (heddle_lane_captures(lane)) { // since we asked: a wait would be captured
      heddle_mutex_unlock(lane->lock);
      heddle_count_native(HEDDLE_NATIVE_CAPTURE);
      return CUDA_SUCCESS;
    }
    each_before_native(lane, enqueue_wait, &w);
    if (w.lost || w.error != CUDA_SUCCESS) {
      heddle_lane_native(lane); // some waits may be enqueued: the next record must not overtake them unseen
      heddle_mutex_unlock(lane->lock);
      if (!w.lost) return w.error;
      heddle_session_given_up(s);
      return heddle_sticky(s);
    }
    waits_enqueued(lane);
  }
  o->session = s;
  o->lane = lane;
  return CUDA_SUCCESS;
}

CUresult heddle_order_end(struct heddle_order *o, CUresult result) {
  struct heddle_lane *lane = o->lane;
  if (lane == NULL) return result;
  if (o->kind == HEDDLE_NATIVE_BLOCKING) heddle_mutex_lock(lane->lock);
  heddle_lane_native(lane);
  heddle_mutex_unlock(lane->lock);
  CUresult sticky = heddle_sticky(o->session);
  return sticky != CUDA_SUCCESS ? sticky : result;
}

// ---- drain and points ----

CUresult heddle_order_drain(struct heddle_session *s, CUcontext ctx) {
  struct heddle_wire_dep undone[HEDDLE_WIRE_LANES];
  struct heddle_context *c = ctx == NULL ? NULL : heddle_context_peek(ctx);
  if (s == NULL || atomic_load_explicit(&heddle_detached, memory_order_relaxed) != 0 || heddle_shared_of(s) == NULL || (ctx != NULL && c == NULL)) return CUDA_SUCCESS; // nothing was ever forwarded
  CUresult r = heddle_sticky(s);
  if (r != CUDA_SUCCESS) return r;
  if (!heddle_session_live(s)) {
    heddle_session_given_up(s);
    return heddle_sticky(s);
  }
  uint32_t n = heddle_lanes_undone(s, c, undone);
  for (uint32_t i = 0; i < n; i++) (void)heddle_signal_number(s, undone[i].lane, undone[i].value); // all asked before the first wait
  uint32_t spin = c != NULL ? c->spin_us : 20;
  for (uint32_t i = 0; i < n && r == CUDA_SUCCESS; i++) r = heddle_wait_number(s, undone[i].lane, undone[i].value, spin);
  return r;
}

// cuCtxSynchronize for a context in which a stream may be capturing, which would make such a capture invalid, in every mode: the
// other streams one by one. The legacy stream stands for the blocking ones, also for other threads' default streams; while one of those
// captures nothing may be asked of the legacy stream, and each other blocking one is waited for itself.
static CUresult synchronize_others(struct heddle_context *c) {
  struct heddle_lane *lanes[HEDDLE_WIRE_LANES];
  uint32_t n = heddle_lanes_of(c, lanes, HEDDLE_WIRE_LANES);
  CUevent e;
  CUresult r = heddle_real.cuEventCreate(&e, CU_EVENT_DISABLE_TIMING);
  if (r != CUDA_SUCCESS) return r;
  bool legacy = !heddle_stream_captures(CU_STREAM_LEGACY);
  for (uint32_t i = 0; i < n && r == CUDA_SUCCESS; i++) {
    struct heddle_lane *lane = lanes[i];
    heddle_mutex_lock(lane->lock); // its stream is not destroyed meanwhile
    CUstream stream = atomic_load_explicit(&lane->handle, memory_order_relaxed);
    bool record = stream != NULL && stream != CU_STREAM_PER_THREAD && lane->context == c &&
                  (lane->legacy ? legacy : !lane->blocking || !legacy) && !heddle_stream_captures(stream);
    if (record) r = heddle_real.cuEventRecord(e, stream);
    heddle_mutex_unlock(lane->lock);
    if (record && r == CUDA_SUCCESS) r = heddle_real.cuEventSynchronize(e);
  }
  (void)heddle_real.cuEventDestroy_v2(e);
  return r;
}

CUresult heddle_order_drain_all(struct heddle_session *s) {
  CUresult r = heddle_order_drain(s, NULL);
  if (r != CUDA_SUCCESS) return r;
  CUstreamCaptureMode mode = heddle_capture_relax();
  struct heddle_context *c = atomic_load_explicit(&heddle_hooks_captures, memory_order_acquire) != 0 ? heddle_context_current() : NULL;
  r = c != NULL ? synchronize_others(c) : heddle_real.cuCtxSynchronize();
  heddle_capture_restore(mode);
  return r;
}

struct heddle_point heddle_order_point(struct heddle_session *s, CUstream stream) {
  struct heddle_point p = {0};
  struct heddle_lane *lane = heddle_lane_of(stream);
  uint32_t seq;
  if (lane == NULL || lane->session != s) return p;
  if (atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) != 0 && heddle_stream_captures(stream)) return p;
  if (heddle_lane_settle(lane, &seq) != HEDDLE_OP_OPEN) return p;
  p.lane = lane->id;
  p.seq = seq;
  p.valid = 1;
  return p;
}

bool heddle_order_reached(struct heddle_session *s, struct heddle_point p) {
  return p.valid != 0 && heddle_lane_done(s, p.lane, p.seq);
}

bool heddle_order_same_lane(struct heddle_session *s, struct heddle_point p, CUstream stream) {
  struct heddle_lane *lane = heddle_lane_of(stream);
  return p.valid != 0 && lane != NULL && lane->session == s && lane->id == p.lane;
}

void heddle_order_signal(struct heddle_session *s, struct heddle_point p) {
  if (p.valid != 0 && heddle_session_live(s)) (void)heddle_signal_number(s, p.lane, p.seq);
}

CUresult heddle_order_wait(struct heddle_session *s, struct heddle_point p) {
  return p.valid != 0 ? heddle_wait_number(s, p.lane, p.seq, 20) : heddle_order_drain_all(s);
}
