// Waiting on the host. Source: docs/protocol.md section 2 "Waiting on the host" and section 3; CUDA driver API,
// cuStreamSynchronize, cuStreamQuery, cuCtxSynchronize.
#include <errno.h>
#include <sched.h>
#include <signal.h>

#include "config.h"
#include "hooks/hooks_gen.h"
#include "lane.h"
#include "patience.h"

// ---- is anybody still serving? ----

static bool process_exists(uint32_t pid) { return pid != 0 && pid <= INT32_MAX && (kill((pid_t)pid, 0) == 0 || errno == EPERM); }

bool heddle_executor_gone(struct heddle_session *s) {
  struct heddle_shared *h = heddle_shared_of(s);
  uint32_t state = heddle_load_acquire32(&s->status->state);
  if (state == HEDDLE_WIRE_STATE_CLOSED || atomic_load(&h->broken) != 0) return true;
  // The socket costs a system call to look at, and polling programs come here often: once in 50 ms is enough.
  uint64_t looked = atomic_load_explicit(&h->looked_ms, memory_order_relaxed), then = (uint64_t)heddle_now_ms();
  if (state == HEDDLE_WIRE_STATE_LIVE && then - looked < 50) return false;
  atomic_store_explicit(&h->looked_ms, then, memory_order_relaxed);
  if (state != HEDDLE_WIRE_STATE_LOST && heddle_session_daemon_alive(s)) {
    atomic_store_explicit(&h->lost_since_ms, 0, memory_order_relaxed);
    return false;
  }
  // A program whose waits are short looks here only while nobody serves: what it noted may be of an earlier loss.
  uint32_t period = heddle_load_relaxed32(&s->status->losses) << 1 | (state == HEDDLE_WIRE_STATE_LOST);
  uint64_t now = then, since = atomic_load(&h->lost_since_ms);
  if (atomic_exchange(&h->lost_period, period) != period || since == 0) {
    atomic_store(&h->lost_since_ms, now);
    return false;
  }
  uint64_t limit = (uint64_t)heddle_config()->reattach_ms;
  if (now - since < limit) return false;
  // An executor that outlives its daemon finishes what it issued and then says CLOSED; a daemon that lives brings the next
  // executor or says CLOSED. Neither may run beside us; but neither may hold us for ever.
  bool may_still_run = state == HEDDLE_WIRE_STATE_LOST ? heddle_session_daemon_alive(s)
                                                       : process_exists(heddle_load_relaxed32(&s->status->executor_pid));
  return !may_still_run || now - since >= 5 * limit;
}

bool heddle_session_lost(struct heddle_session *s) { return !heddle_session_live(s) || heddle_executor_gone(s); }

void heddle_session_given_up(struct heddle_session *s) {
  heddle_order_finish_alone(s);
  heddle_session_close(s, HEDDLE_NATIVE_CLOSED);
}

// ---- one number ----

// Says in lane.waiting that somebody sleeps for seq, or for an earlier number: the word only ever goes down while it is set,
// because the executor wakes everybody when it passes the word, and whoever wants more sets it again.
static uint32_t announce(struct heddle_wire_lane *lane, uint32_t seq) {
  _Atomic uint32_t *word = (_Atomic uint32_t *)&lane->waiting;
  uint32_t now = atomic_load_explicit(word, memory_order_relaxed);
  while (now == 0 || !heddle_reached(seq, now))
    if (atomic_compare_exchange_weak_explicit(word, &now, seq, memory_order_relaxed, memory_order_relaxed)) return seq;
  return now;
}

static _Thread_local struct heddle_patience patience = {PATIENCE_MOST, 0, 0};

enum heddle_wait heddle_wait_raw(struct heddle_session *s, uint32_t id, uint32_t seq, uint32_t spin_us) {
  struct heddle_wire_lane *lane = &s->lanes[id];
  if (heddle_lane_done(s, id, seq)) return HEDDLE_REACHED;
  bool adapts = spin_us == HEDDLE_SPIN_ADAPTS;
  uint64_t begin = 0, stay = adapts ? STAY_LEAST : (uint64_t)spin_us * 1000, look_at_peers = 0, alone_until = 0, last = 0;
  for (uint32_t looks = 1; spin_us != 0; looks++) {
    heddle_relax();
    if (heddle_lane_done(s, id, seq)) {
      if (adapts && last - begin >= STAY_LEAST) heddle_patience_waited(&patience, last - begin);
      return HEDDLE_REACHED;
    }
    if (looks % 64 != 0) continue;
    uint64_t now = heddle_now_ns();
    if (begin == 0) {
      begin = now;
      look_at_peers = now + 100000000;
      alone_until = now + patience.ns;
    } else {
      heddle_patience_learn(&patience, now - last, false);
    }
    last = now;
    if (now >= alone_until) {
      (void)sched_yield();
      last = heddle_now_ns();
      heddle_patience_learn(&patience, last - now, true);
    }
    if (heddle_sticky(s) != CUDA_SUCCESS) return HEDDLE_STICKY;
    uint64_t waited = now - begin;
    if (spin_us != HEDDLE_SPIN_FOR_EVER && waited >= stay && (!adapts || waited >= heddle_patience_stay(&patience))) break;
    if (now >= look_at_peers) {
      if (heddle_session_lost(s)) return HEDDLE_LOST;
      look_at_peers = now + 100000000;
    }
  }
  for (;;) {
    uint32_t value = announce(lane, seq);
    heddle_fence(); // `waiting` before `done`; the executor: `done`, fence, `waiting`
    if (heddle_lane_done(s, id, seq)) {
      if (adapts) heddle_patience_waited(&patience, heddle_now_ns() - begin);
      return HEDDLE_REACHED;
    }
    if (heddle_sticky(s) != CUDA_SUCCESS) return HEDDLE_STICKY;
    if (heddle_session_lost(s)) return HEDDLE_LOST;
    (void)heddle_futex_wait(&lane->waiting, value, 100);
  }
}

CUresult heddle_wait_number(struct heddle_session *s, uint32_t id, uint32_t seq, uint32_t spin_us) {
  if (heddle_lane_done(s, id, seq)) return heddle_sticky(s);
  if (!heddle_session_live(s) || !heddle_signal_number(s, id, seq) || heddle_wait_raw(s, id, seq, spin_us) == HEDDLE_LOST)
    heddle_session_given_up(s);
  return heddle_sticky(s);
}

CUresult heddle_wait_host(struct heddle_session *s, uint32_t id, uint32_t seq, uint32_t spin_us) {
  if (heddle_session_live(s)) (void)heddle_signal_wait(s, id, seq); // a session that ends meanwhile: the wait itself notices
  return heddle_wait_number(s, id, seq, spin_us);
}

CUresult heddle_op_publish_and_wait(struct heddle_op *op) {
  struct heddle_session *s = op->lane->session;
  uint32_t id = op->lane->id, spin = op->lane->context->spin_us;
  heddle_op_publish(op);
  return heddle_wait_number(s, id, op->seq, spin);
}

// ---- streams ----

struct undone {
  uint32_t n, native, seq; // seq: the stream's own last number
  struct heddle_wire_dep at[2 * HEDDLE_WIRE_LANES];
};

static void add(struct undone *u, struct heddle_session *s, uint32_t id, uint32_t seq) {
  if (!heddle_lane_done(s, id, seq) && u->n < 2 * HEDDLE_WIRE_LANES) u->at[u->n++] = (struct heddle_wire_dep){id, seq};
}

static void add_lane(struct undone *u, struct heddle_lane *lane) {
  add(u, lane->session, lane->id, atomic_load_explicit(&lane->seq, memory_order_relaxed));
  for (uint32_t i = 0; i < lane->ndeps; i++) add(u, lane->session, lane->deps[i].lane, lane->deps[i].value);
}

// What a synchronisation of the stream waits for; the legacy stream stands for every blocking one. u->native counts its native
// operations so far.
static void collect(struct undone *u, struct heddle_lane *lane) {
  u->n = 0;
  heddle_mutex_lock(lane->lock);
  u->seq = atomic_load_explicit(&lane->seq, memory_order_relaxed);
  add_lane(u, lane);
  if (lane->legacy)
    for (struct heddle_lane *b = lane->context->blocking; b != NULL; b = b->next_blocking) add_lane(u, b);
  u->native = lane->legacy ? atomic_load_explicit(&lane->context->native_serial, memory_order_relaxed) : lane->native_serial;
  heddle_mutex_unlock(lane->lock);
}

// True: the driver alone has to answer (native process, capture, session over: everything forwarded has been run by then).
static bool drivers_own(struct heddle_lane *lane, CUstream stream) {
  if (lane == NULL) return true;
  if (atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) != 0 && heddle_stream_captures(stream)) return true;
  if (heddle_session_live(lane->session)) return false;
  heddle_session_given_up(lane->session);
  return true;
}

CUresult heddle_hook_cuStreamSynchronize(CUstream hStream) {
  struct heddle_lane *lane = heddle_lane_of(hStream);
  CUresult r = lane == NULL ? CUDA_SUCCESS : heddle_sticky(lane->session);
  if (r != CUDA_SUCCESS) return r;
  if (drivers_own(lane, hStream)) return heddle_real.cuStreamSynchronize(hStream);
  struct undone u;
  struct heddle_session *s = lane->session;
  collect(&u, lane);
  (void)heddle_signal_wait(s, lane->id, u.seq);
  for (uint32_t i = 0; i < u.n; i++) (void)heddle_signal_wait(s, u.at[i].lane, u.at[i].value); // all asked before the first wait
  for (uint32_t i = 0; i < u.n && r == CUDA_SUCCESS; i++) r = heddle_wait_number(s, u.at[i].lane, u.at[i].value, lane->context->spin_us);
  if (r != CUDA_SUCCESS || (u.n == 0 && (r = heddle_sticky(s)) != CUDA_SUCCESS)) return r;
  if (atomic_load_explicit(&lane->synced, memory_order_relaxed) != u.native) {
    r = heddle_real.cuStreamSynchronize(hStream);
    if (r == CUDA_SUCCESS) atomic_store_explicit(&lane->synced, u.native, memory_order_relaxed);
  }
  return r;
}

CUresult heddle_hook_cuStreamQuery(CUstream hStream) {
  struct heddle_lane *lane = heddle_lane_of(hStream);
  CUresult r = lane == NULL ? CUDA_SUCCESS : heddle_sticky(lane->session);
  if (r != CUDA_SUCCESS) return r;
  if (drivers_own(lane, hStream)) return heddle_real.cuStreamQuery(hStream);
  struct undone u;
  struct heddle_session *s = lane->session;
  collect(&u, lane);
  for (uint32_t i = 0; i < u.n; i++)
    if (!heddle_signal_number(s, u.at[i].lane, u.at[i].value) || heddle_session_lost(s)) {
      heddle_session_given_up(s);
      return heddle_real.cuStreamQuery(hStream);
    }
  if (u.n != 0) return CUDA_ERROR_NOT_READY;
  if ((r = heddle_sticky(s)) != CUDA_SUCCESS) return r;
  if (atomic_load_explicit(&lane->synced, memory_order_relaxed) != u.native) {
    r = heddle_real.cuStreamQuery(hStream);
    if (r == CUDA_SUCCESS) atomic_store_explicit(&lane->synced, u.native, memory_order_relaxed);
  }
  return r;
}

// ---- contexts ----

// Waits for every forwarded op of a context; *native is true when the driver has to wait too, *serial then for what.
static CUresult context_wait(struct heddle_context *c, bool *native, uint32_t *serial) {
  *serial = atomic_load_explicit(&c->native_serial, memory_order_relaxed);
  *native = true;
  if (heddle_session_live(c->session)) {
    struct heddle_wire_dep last[HEDDLE_WIRE_LANES];
    uint32_t n = heddle_lanes_last(c, last);
    for (uint32_t i = 0; i < n; i++) (void)heddle_signal_wait(c->session, last[i].lane, last[i].value);
  }
  CUresult r = heddle_order_drain(c->session, c->handle);
  if (r == CUDA_SUCCESS && heddle_session_live(c->session))
    *native = atomic_load_explicit(&c->native_synced, memory_order_relaxed) != *serial ||
              atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) != 0;
  return r;
}

CUresult heddle_hook_cuCtxSynchronize(void) {
  struct heddle_context *c = heddle_context_current();
  bool native = true;
  uint32_t serial = 0;
  CUresult r = c == NULL ? CUDA_SUCCESS : context_wait(c, &native, &serial);
  if (r != CUDA_SUCCESS || !native) return r;
  r = heddle_real.cuCtxSynchronize();
  if (c != NULL && r == CUDA_SUCCESS) atomic_store_explicit(&c->native_synced, serial, memory_order_relaxed);
  return r;
}

CUresult heddle_hook_cuCtxSynchronize_v2(CUcontext ctx) {
  struct heddle_context *c = ctx == NULL ? heddle_context_current() : heddle_context_peek(ctx);
  bool native = true;
  uint32_t serial = 0;
  CUresult r = c == NULL || c->session == NULL ? CUDA_SUCCESS : context_wait(c, &native, &serial);
  if (r != CUDA_SUCCESS || !native) return r;
  r = heddle_real.cuCtxSynchronize_v2(ctx);
  if (c != NULL && r == CUDA_SUCCESS) atomic_store_explicit(&c->native_synced, serial, memory_order_relaxed);
  return r;
}
