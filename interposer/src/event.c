// Events. A recorded event is a number in a lane; with timing, the executor also takes a timestamp there. A native event is
// recorded only where the number cannot serve: IPC events, captures, streams without a lane. Source: CUDA driver API, "Event
// Management"; docs/protocol.md section 2 (EVENT, ELAPSED).
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "hooks/hooks_gen.h"
#include "lane.h"
#include "log.h"

#define BUCKETS 4096u
#define NO_SLOT UINT32_MAX

enum recorded { NEVER, FORWARDED, NATIVELY };

struct event {
  _Atomic(CUevent) handle; // NULL: free struct; structs are never freed
  _Atomic(struct event *) next;
  struct event *next_free;
  struct heddle_mutex lock; // guards what follows
  unsigned int flags;
  enum recorded how;
  struct heddle_session *session; // with FORWARDED: the point
  uint32_t lane, seq;
  struct heddle_session *slot_session; // the timestamp slot that this event owns, if any
  uint32_t slot;
};

static struct heddle_mutex table_lock; // guards the chains' shape, free_events and every session's slots
static _Atomic(struct event *) buckets[BUCKETS];
static struct event *free_events;

static _Atomic(struct event *) *bucket_of(CUevent e) {
  return &buckets[((uint64_t)(uintptr_t)e * UINT64_C(0x9e3779b97f4a7c15)) >> 52];
}

// NULL: an event that was made behind our back, or before Heddle was on: native.
static struct event *find(CUevent e) {
  if (e == NULL || atomic_load_explicit(&heddle_detached, memory_order_relaxed) != 0) return NULL;
  for (struct event *v = atomic_load_explicit(bucket_of(e), memory_order_acquire); v != NULL; v = atomic_load_explicit(&v->next, memory_order_acquire))
    if (atomic_load_explicit(&v->handle, memory_order_acquire) == e) return v;
  // A struct that was used again under our feet can have led into another chain.
  struct event *v;
  heddle_mutex_lock(&table_lock);
  for (v = atomic_load_explicit(bucket_of(e), memory_order_relaxed); v != NULL; v = atomic_load_explicit(&v->next, memory_order_relaxed))
    if (atomic_load_explicit(&v->handle, memory_order_relaxed) == e) break;
  heddle_mutex_unlock(&table_lock);
  return v;
}

// One that other processes may record is always the driver's to answer for: it is never NEVER.
static struct event snapshot(struct event *v) {
  heddle_mutex_lock(&v->lock);
  struct event copy;
  copy.flags = v->flags;
  copy.how = v->how;
  copy.session = v->session;
  copy.lane = v->lane;
  copy.seq = v->seq;
  copy.slot_session = v->slot_session;
  copy.slot = v->slot;
  heddle_mutex_unlock(&v->lock);
  return copy;
}

static void recorded_at(struct event *v, enum recorded how, struct heddle_session *s, uint32_t lane, uint32_t seq) {
  heddle_mutex_lock(&v->lock);
  v->how = how;
  v->session = s;
  v->lane = lane;
  v->seq = seq;
  heddle_mutex_unlock(&v->lock);
}

// ---- timestamp slots ----

// A slot of s for event v, kept until the event is destroyed. NO_SLOT when all are in use.
static uint32_t slot_of(struct event *v, struct heddle_session *s) {
  if (v->slot != NO_SLOT && v->slot_session == s) return v->slot;
  struct heddle_shared *h = heddle_shared_of(s);
  uint32_t slot = NO_SLOT;
  heddle_mutex_lock(&table_lock);
  if (h->slot_fresh < HEDDLE_SCRATCH_SLOT) {
    slot = h->slot_fresh++;
  } else if (h->slot_count != 0) {
    // The oldest freed one, once the last record that writes it is done: a late timestamp would be another event's.
    uint32_t oldest = h->slot_free[h->slot_first];
    if (heddle_lane_done(s, h->slot_last[oldest].lane, h->slot_last[oldest].seq)) {
      slot = oldest;
      h->slot_first = (h->slot_first + 1) % HEDDLE_WIRE_EVENT_SLOTS;
      h->slot_count--;
    }
  }
  heddle_mutex_unlock(&table_lock);
  if (slot != NO_SLOT) {
    heddle_mutex_lock(&v->lock);
    v->slot = slot;
    v->slot_session = s;
    heddle_mutex_unlock(&v->lock);
  }
  return slot;
}

// table_lock held.
static void slot_give_back(struct event *v) {
  if (v->slot == NO_SLOT) return;
  struct heddle_shared *h = heddle_shared_of(v->slot_session);
  if (h != NULL && h->session == v->slot_session) {
    h->slot_last[v->slot].lane = v->lane;
    h->slot_last[v->slot].seq = v->seq;
    h->slot_free[(h->slot_first + h->slot_count++) % HEDDLE_WIRE_EVENT_SLOTS] = (uint16_t)v->slot;
  }
  v->slot = NO_SLOT;
}

// ---- life ----

CUresult heddle_hook_cuEventCreate(CUevent *phEvent, unsigned int Flags) {
  CUresult r = heddle_real.cuEventCreate(phEvent, Flags);
  if (r != CUDA_SUCCESS || heddle_context_current() == NULL) return r;
  heddle_mutex_lock(&table_lock);
  struct event *v = free_events;
  if (v != NULL) free_events = v->next_free;
  else v = calloc(1, sizeof *v);
  if (v != NULL) { // without memory the event stays unknown, and native
    v->flags = Flags;
    v->how = (Flags & CU_EVENT_INTERPROCESS) != 0 ? NATIVELY : NEVER;
    v->session = NULL;
    v->lane = v->seq = 0;
    v->slot = NO_SLOT;
    v->slot_session = NULL;
    _Atomic(struct event *) *head = bucket_of(*phEvent);
    atomic_store_explicit(&v->next, atomic_load_explicit(head, memory_order_relaxed), memory_order_relaxed);
    atomic_store_explicit(&v->handle, *phEvent, memory_order_release);
    atomic_store_explicit(head, v, memory_order_release);
  }
  heddle_mutex_unlock(&table_lock);
  return r;
}

CUresult heddle_hook_cuEventDestroy_v2(CUevent hEvent) {
  heddle_mutex_lock(&table_lock);
  for (_Atomic(struct event *) *p = bucket_of(hEvent); hEvent != NULL && atomic_load_explicit(p, memory_order_relaxed) != NULL;) {
    struct event *v = atomic_load_explicit(p, memory_order_relaxed);
    if (atomic_load_explicit(&v->handle, memory_order_relaxed) == hEvent) {
      atomic_store_explicit(p, atomic_load_explicit(&v->next, memory_order_relaxed), memory_order_release);
      atomic_store_explicit(&v->handle, NULL, memory_order_release);
      slot_give_back(v);
      v->next_free = free_events;
      free_events = v;
      break;
    }
    p = &v->next;
  }
  heddle_mutex_unlock(&table_lock);
  return heddle_real.cuEventDestroy_v2(hEvent);
}

// ---- recording ----

// The driver's own event, behind everything that was forwarded.
static CUresult record_natively(struct event *v, CUevent e, CUstream stream, unsigned int flags) {
  CUresult r = HEDDLE_NATIVE_CALL(stream, HEDDLE_NATIVE_ASYNC, HEDDLE_NATIVE_NONE,
                                  flags == 0 ? heddle_real.cuEventRecord(e, stream) : heddle_real.cuEventRecordWithFlags(e, stream, flags));
  if (v != NULL && r == CUDA_SUCCESS) recorded_at(v, NATIVELY, NULL, 0, 0);
  return r;
}

static CUresult record(CUevent e, CUstream stream, unsigned int flags) {
  struct event *v = find(e);
  struct heddle_lane *lane = heddle_lane_of(stream);
  uint32_t seq = 0;
  int opened = HEDDLE_OP_NATIVE;
  bool captures = atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) != 0 && heddle_stream_captures(stream);
  // It becomes a node, and the event stays as it is until that runs.
  if (captures && (flags & CU_EVENT_RECORD_EXTERNAL) != 0) return record_natively(NULL, e, stream, flags);
  if (v == NULL || lane == NULL || flags != 0 || (v->flags & CU_EVENT_INTERPROCESS) != 0 || captures) return record_natively(v, e, stream, flags);
  if ((v->flags & CU_EVENT_DISABLE_TIMING) != 0) {
    opened = heddle_lane_settle(lane, &seq);
  } else if (heddle_session_live(lane->session)) {
    uint32_t slot = slot_of(v, lane->session);
    struct heddle_op op;
    if (slot != NO_SLOT) opened = heddle_op_open(&op, lane, HEDDLE_WIRE_KIND_EVENT, 0, sizeof(struct heddle_wire_event_mark));
    if (opened == HEDDLE_OP_OPEN) {
      *(struct heddle_wire_event_mark *)op.body = (struct heddle_wire_event_mark){.slot = slot};
      seq = op.seq;
      heddle_op_publish(&op);
    }
  }
  if (opened == HEDDLE_OP_NATIVE) return record_natively(v, e, stream, flags);
  if (opened != HEDDLE_OP_OPEN) return (CUresult)opened;
  recorded_at(v, FORWARDED, lane->session, lane->id, seq);
  return CUDA_SUCCESS;
}

CUresult heddle_hook_cuEventRecord(CUevent hEvent, CUstream hStream) { return record(hEvent, hStream, 0); }
CUresult heddle_hook_cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags) { return record(hEvent, hStream, flags); }

void heddle_event_natively(CUevent e) {
  struct event *v = find(e);
  if (v != NULL) recorded_at(v, NATIVELY, NULL, 0, 0);
}

bool heddle_event_forwarded(CUevent e) {
  struct event *v = find(e);
  return v != NULL && snapshot(v).how == FORWARDED;
}

// Everything of a context: rare enough to wait for the forwarded part here.
static CUresult record_context(CUevent e, CUresult (*drain)(void *), CUresult (*call)(void *, CUevent), void *ctx) {
  CUresult r = drain(ctx);
  if (r == CUDA_SUCCESS) r = call(ctx, e);
  struct event *v = find(e);
  if (v != NULL && r == CUDA_SUCCESS) recorded_at(v, NATIVELY, NULL, 0, 0);
  return r;
}
static CUresult drain_context(void *ctx) {
  struct heddle_context *c = ctx == NULL ? heddle_context_current() : heddle_context_peek(ctx);
  return c == NULL || c->session == NULL ? CUDA_SUCCESS : heddle_order_drain(c->session, c->handle);
}
static CUresult drain_nothing(void *green) { // the streams of a green context are never forwarded
  (void)green;
  return CUDA_SUCCESS;
}
static CUresult call_context(void *ctx, CUevent e) { return heddle_real.cuCtxRecordEvent(ctx, e); }
static CUresult call_green(void *ctx, CUevent e) { return heddle_real.cuGreenCtxRecordEvent(ctx, e); }

CUresult heddle_hook_cuCtxRecordEvent(CUcontext hCtx, CUevent hEvent) { return record_context(hEvent, drain_context, call_context, hCtx); }
CUresult heddle_hook_cuGreenCtxRecordEvent(CUgreenCtx hCtx, CUevent hEvent) { return record_context(hEvent, drain_nothing, call_green, hCtx); }

// ---- asking and waiting ----

// After a fault the driver answers every question about an event with the fault's code, also about one that was never recorded or
// that only the driver knows. Asked of the current context: an event of ours that was not forwarded does not know its own.
static CUresult fault(void) {
  struct heddle_context *c = heddle_context_current();
  return c == NULL ? CUDA_SUCCESS : heddle_sticky(c->session);
}

CUresult heddle_hook_cuEventQuery(CUevent hEvent) {
  struct event *v = find(hEvent);
  struct event at = {.how = NATIVELY};
  if (v != NULL) at = snapshot(v);
  if (at.how != FORWARDED) {
    CUresult sticky = fault();
    return sticky != CUDA_SUCCESS ? sticky : heddle_real.cuEventQuery(hEvent);
  }
  struct heddle_session *s = at.session;
  if (heddle_lane_done(s, at.lane, at.seq)) return heddle_sticky(s);
  CUresult r = heddle_sticky(s);
  if (r != CUDA_SUCCESS) return r;
  if (heddle_session_lost(s) || !heddle_signal_number(s, at.lane, at.seq)) {
    heddle_session_given_up(s); // runs it
    return heddle_sticky(s);
  }
  return CUDA_ERROR_NOT_READY;
}

CUresult heddle_hook_cuEventSynchronize(CUevent hEvent) {
  struct event *v = find(hEvent);
  struct event at = {.how = NATIVELY};
  if (v != NULL) at = snapshot(v);
  if (at.how != FORWARDED) {
    CUresult sticky = fault();
    return sticky != CUDA_SUCCESS ? sticky : heddle_real.cuEventSynchronize(hEvent);
  }
  struct heddle_context *c = heddle_context_current();
  uint32_t spin = (at.flags & CU_EVENT_BLOCKING_SYNC) != 0 ? 0 : c != NULL ? c->spin_us : 20;
  return heddle_wait_host(at.session, at.lane, at.seq, spin);
}

CUresult heddle_hook_cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags) {
  struct event *v = find(hEvent);
  struct heddle_lane *lane = heddle_lane_of(hStream);
  struct event at = {.how = NATIVELY};
  if (v != NULL) at = snapshot(v);
  if (atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) != 0 && heddle_stream_captures(hStream))
    // A capture may not wait for work outside of it, and the driver does not know about ours; a node that waits later may.
    return at.how == FORWARDED && (Flags & CU_EVENT_WAIT_EXTERNAL) == 0 ? CUDA_ERROR_STREAM_CAPTURE_ISOLATION : heddle_real.cuStreamWaitEvent(hStream, hEvent, Flags);
  if (at.how == NEVER || lane == NULL) {
    if (at.how == FORWARDED) return heddle_wait_number(at.session, at.lane, at.seq, 20); // a native context of another device
    if (lane != NULL && heddle_sticky(lane->session) != CUDA_SUCCESS) return heddle_sticky(lane->session);
    return heddle_real.cuStreamWaitEvent(hStream, hEvent, Flags);
  }
  CUresult r = heddle_sticky(lane->session);
  if (r != CUDA_SUCCESS) return r;
  if (lane->blocking) {
    // A wait is an action: on the legacy stream it follows the blocking streams' work and their later work follows it; on a
    // blocking stream it follows the legacy stream's work ("Stream synchronization behavior"). A number stands for that.
    uint32_t seq;
    int settled = heddle_lane_settle(lane, &seq);
    if (settled > 0) return (CUresult)settled;
  }
  if (at.how == NATIVELY) {
    heddle_lane_lock(lane); // a captured event has the stream join its capture
    r = heddle_real.cuStreamWaitEvent(hStream, hEvent, Flags);
    heddle_lane_native(lane); // the next forwarded op follows it by a ready write
    heddle_mutex_unlock(lane->lock);
    return r;
  }
  if (heddle_lane_done(at.session, at.lane, at.seq)) return heddle_sticky(at.session);
  if (!heddle_session_live(at.session)) {
    heddle_session_given_up(at.session);
    return heddle_sticky(at.session);
  }
  bool lost = false;
  if (at.session == lane->session && lane->id != HEDDLE_LANE_NATIVE) {
    for (int tries = 0; tries < 2; tries++) {
      uint32_t seq;
      heddle_mutex_lock(lane->lock);
      bool owed = heddle_lane_owe(lane, at.lane, at.seq);
      heddle_mutex_unlock(lane->lock);
      if (owed) return CUDA_SUCCESS;
      int settled = heddle_lane_settle(lane, &seq); // one record takes over the full list
      if (settled > 0) return (CUresult)settled;
    }
    return heddle_wait_number(at.session, at.lane, at.seq, 20);
  }
  heddle_lane_lock(lane); // another device's lane, or a stream that is not forwarded: the real stream waits for the word
  lost = !heddle_stream_wait_number(lane, at.session, at.lane, at.seq, &r);
  heddle_lane_native(lane);
  heddle_mutex_unlock(lane->lock);
  if (!lost) return r;
  heddle_session_given_up(at.session);
  return heddle_sticky(at.session);
}

// The context waits for the event: rare; the forwarded part is waited for here.
static CUresult before_context_wait(CUevent e) {
  struct event *v = find(e);
  struct event at = {.how = NATIVELY};
  if (v != NULL) at = snapshot(v);
  return at.how == FORWARDED ? heddle_wait_number(at.session, at.lane, at.seq, 20) : CUDA_SUCCESS;
}

CUresult heddle_hook_cuCtxWaitEvent(CUcontext hCtx, CUevent hEvent) {
  CUresult r = before_context_wait(hEvent);
  struct heddle_context *c = hCtx == NULL ? heddle_context_current() : heddle_context_peek(hCtx);
  if (r != CUDA_SUCCESS) return r;
  if (c == NULL || c->session == NULL || !heddle_session_live(c->session)) return heddle_real.cuCtxWaitEvent(hCtx, hEvent);
  // All streams of the context now wait for native work that no lane knows of: wait for it here.
  CUstreamCaptureMode mode = heddle_capture_relax();
  r = heddle_real.cuEventSynchronize(hEvent);
  heddle_capture_restore(mode);
  return r;
}

CUresult heddle_hook_cuGreenCtxWaitEvent(CUgreenCtx hCtx, CUevent hEvent) {
  CUresult r = before_context_wait(hEvent);
  return r != CUDA_SUCCESS ? r : heddle_real.cuGreenCtxWaitEvent(hCtx, hEvent);
}

// ---- elapsed time ----

static CUresult ask_elapsed(struct heddle_session *s, uint32_t start, uint32_t end, float *ms) {
  static _Atomic uint64_t busy[HEDDLE_MAX_DEVICES]; // reply slots in use
  _Static_assert(HEDDLE_WIRE_REPLIES == 64, "one bit a slot");
  uint32_t slot = 64;
  while (slot == 64) {
    uint64_t used = atomic_load(&busy[s->device]);
    if (used == UINT64_MAX) { sched_yield(); continue; } // 64 threads ask at once
    uint32_t lowest = (uint32_t)__builtin_ctzll(~used);
    if (atomic_compare_exchange_strong(&busy[s->device], &used, used | UINT64_C(1) << lowest)) slot = lowest;
  }
  struct heddle_wire_reply *reply = &s->replies[slot];
  heddle_store_relaxed32(&reply->state, 1);
  struct heddle_wire_elapsed body = {.start = start, .end = end, .reply = slot};
  bool ok = heddle_record_write(s, HEDDLE_WIRE_KIND_ELAPSED, 0, 0, &body, sizeof body);
  for (uint32_t looks = 0; ok && heddle_load_acquire32(&reply->state) != 2; looks++) {
    if (looks < 2000) { heddle_relax(); continue; }
    if (heddle_sticky(s) != CUDA_SUCCESS || heddle_session_lost(s)) ok = false;
    else (void)heddle_futex_wait(&reply->state, 1, 100);
  }
  CUresult r = CUDA_ERROR_INVALID_HANDLE;
  if (ok) {
    uint32_t status = heddle_load_relaxed32(&reply->status), bits = (uint32_t)heddle_load_relaxed64(&reply->value);
    r = status <= (uint32_t)CUDA_ERROR_UNKNOWN ? (CUresult)status : CUDA_ERROR_UNKNOWN;
    if (r == CUDA_SUCCESS) memcpy(ms, &bits, sizeof bits);
    heddle_store_relaxed32(&reply->state, 0);
  } else if (heddle_session_lost(s)) {
    heddle_session_given_up(s);
  }
  atomic_fetch_and(&busy[s->device], ~(UINT64_C(1) << slot));
  CUresult sticky = heddle_sticky(s);
  return sticky != CUDA_SUCCESS ? sticky : r;
}

CUresult heddle_hook_cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd) {
  struct event *a = find(hStart), *b = find(hEnd);
  struct event from = {.how = NATIVELY}, to = {.how = NATIVELY};
  if (a != NULL) from = snapshot(a);
  if (b != NULL) to = snapshot(b);
  bool timed = ((from.flags | to.flags) & CU_EVENT_DISABLE_TIMING) == 0;
  if (from.how != FORWARDED || to.how != FORWARDED || !timed || pMilliseconds == NULL || from.session != to.session) {
    if (timed && (from.how == FORWARDED) != (to.how == FORWARDED) && from.how != NEVER && to.how != NEVER)
      heddle_log(HEDDLE_LOG_WARN, "cuEventElapsedTime: one event was recorded natively, the other was forwarded; no time can be given");
    CUresult sticky = fault();
    if (sticky != CUDA_SUCCESS) return sticky;
    return heddle_real.cuEventElapsedTime(pMilliseconds, hStart, hEnd); // the driver's own code: not recorded, no timing, …
  }
  struct heddle_session *s = from.session;
  if (!heddle_session_live(s)) {
    heddle_session_given_up(s);
    CUresult r = heddle_sticky(s);
    heddle_log(HEDDLE_LOG_WARN, "cuEventElapsedTime: the executor that took these times is gone");
    return r != CUDA_SUCCESS ? r : CUDA_ERROR_INVALID_HANDLE;
  }
  if (!heddle_lane_done(s, from.lane, from.seq) || !heddle_lane_done(s, to.lane, to.seq)) {
    CUresult r = heddle_hook_cuEventQuery(hStart); // asks for a signal
    CUresult q = heddle_hook_cuEventQuery(hEnd);
    if (r == CUDA_SUCCESS) r = q;
    if (r != CUDA_SUCCESS) return r;
  }
  return ask_elapsed(s, from.slot, to.slot, pMilliseconds);
}

// ---- IPC events: always the driver's own (CU_EVENT_INTERPROCESS is given when they are made) ----

CUresult heddle_hook_cuIpcGetEventHandle(CUipcEventHandle *pHandle, CUevent event) { return heddle_real.cuIpcGetEventHandle(pHandle, event); }
CUresult heddle_hook_cuIpcOpenEventHandle(CUevent *phEvent, CUipcEventHandle handle) { return heddle_real.cuIpcOpenEventHandle(phEvent, handle); }
