// From a lane to the ring: what an op must follow, its record, its number. The launch path: no allocation, no system call in
// the good case, and driver calls only where native work must be covered. Source: docs/protocol.md section 2 "Records".
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "lane.h"
#include "log.h"

// ---- errors ----

CUresult heddle_sticky(struct heddle_session *s) {
  int known = atomic_load_explicit(&s->sticky, memory_order_acquire);
  if (__builtin_expect(known != 0, 0)) return (CUresult)known;
  uint32_t error = heddle_load_acquire32(&s->status->error);
  if (__builtin_expect(error == 0, 1) || !heddle_session_live(s)) return CUDA_SUCCESS;
  uint32_t reason = heddle_load_relaxed32(&s->status->error_reason);
  if (error > (uint32_t)CUDA_ERROR_UNKNOWN) error = CUDA_ERROR_UNKNOWN; // not a number of this driver's family
  int none = 0;
  if (atomic_compare_exchange_strong(&s->sticky, &none, (int)error)) {
    static const char *const reasons[] = {"no reason given",
                                          "a fault on the GPU",
                                          "the executor died while an operation that must not be repeated was under way",
                                          "the executor refused a record (a defect of Heddle)",
                                          "an operation did not end",
                                          "the executor that held this program's device globals is gone",
                                          "the driver refused a launch in the executor"};
    // Who brought the executor down, as the daemon found: the name ends inside its field.
    char cause[160] = "";
    uint64_t client = heddle_load_relaxed64(&s->status->cause_client);
    if (reason == HEDDLE_WIRE_REASON_IN_DOUBT && client != 0)
      snprintf(cause, sizeof cause, " (client %llu's kernel %.*s faulted on the GPU at the same time)", (unsigned long long)client,
               (int)sizeof s->status->cause_kernel - 1, (const char *)s->status->cause_kernel);
    heddle_log(HEDDLE_LOG_ERROR, "device %d: CUDA error %u from now on: %s%s", s->device, error,
                     reason < sizeof reasons / sizeof *reasons ? reasons[reason] : reasons[0], cause);
  }
  return (CUresult)atomic_load(&s->sticky);
}

// ---- the ring ----

static uint64_t floor_of(const struct heddle_shared *h) {
  uint64_t low = UINT64_MAX;
  for (uint32_t i = 0; i < HEDDLE_FETCHES; i++)
    if (h->fetch[i] < low) low = h->fetch[i];
  return low;
}

// Takes the ring lock and reserves a record; NULL with nothing locked when the session is lost. A GET also takes a fetch place.
static unsigned char *ring_begin(struct heddle_shared *h, uint16_t kind, uint16_t flags, uint32_t lane, uint32_t seq, uint32_t ready,
                                 const struct heddle_wire_dep *deps, uint32_t ndeps, uint32_t body_bytes, uint64_t *position) {
  struct heddle_session *s = h->session;
  heddle_mutex_lock(&h->ring_lock);
  while (heddle_session_live(s)) {
    uint32_t place = 0;
    if (kind == HEDDLE_WIRE_KIND_GET)
      while (place < HEDDLE_FETCHES && h->fetch[place] != UINT64_MAX) place++;
    int why = -EBUSY;
    if (place < HEDDLE_FETCHES) {
      unsigned char *body = heddle_record_begin(&s->ring, kind, flags, lane, seq, ready, deps, ndeps, body_bytes, position);
      if (body != NULL) {
        if (kind == HEDDLE_WIRE_KIND_GET) {
          h->fetch[place] = *position;
          if (*position < s->ring.floor) s->ring.floor = *position;
        }
        return body;
      }
      why = heddle_ring_wait_space(&s->ring, heddle_record_bytes(ndeps, body_bytes), 100);
      if (why == 0) continue;
    }
    if (why == -EBUSY) { // a payload has to be copied out by the thread that asked for it: let it
      uint32_t serial = atomic_load(&h->fetch_serial);
      atomic_fetch_add(&h->fetch_waiters, 1);
      heddle_mutex_unlock(&h->ring_lock);
      (void)heddle_futex_wait((uint32_t *)&h->fetch_serial, serial, 100);
      atomic_fetch_sub(&h->fetch_waiters, 1);
      if (heddle_session_lost(s)) return NULL;
      heddle_mutex_lock(&h->ring_lock);
    } else if (why != -ETIMEDOUT || heddle_session_lost(s)) {
      if (why != -ETIMEDOUT) heddle_log(HEDDLE_LOG_ERROR, "device %d: the ring is broken (%d); this program goes on natively", s->device, why);
      if (why != -ETIMEDOUT) atomic_store(&h->broken, 1);
      break;
    }
  }
  heddle_mutex_unlock(&h->ring_lock);
  return NULL;
}

void heddle_fetch_release(struct heddle_session *s, uint64_t position) {
  struct heddle_shared *h = heddle_shared_of(s);
  heddle_mutex_lock(&h->ring_lock);
  for (uint32_t i = 0; i < HEDDLE_FETCHES; i++)
    if (h->fetch[i] == position) h->fetch[i] = UINT64_MAX;
  s->ring.floor = floor_of(h);
  heddle_mutex_unlock(&h->ring_lock);
  atomic_fetch_add(&h->fetch_serial, 1);
  if (atomic_load(&h->fetch_waiters) != 0) (void)heddle_futex_wake((uint32_t *)&h->fetch_serial, INT_MAX);
}

static bool record_write(struct heddle_session *s, uint16_t kind, uint32_t lane, uint32_t seq, const void *body, uint32_t bytes, bool publish) {
  struct heddle_shared *h = heddle_shared_of(s);
  uint64_t position;
  unsigned char *at = ring_begin(h, kind, 0, lane, seq, 0, NULL, 0, bytes, &position);
  if (at == NULL) return false;
  if (bytes != 0) memcpy(at, body, bytes);
  if (publish) heddle_ring_publish(&s->ring);
  heddle_mutex_unlock(&h->ring_lock);
  return true;
}

bool heddle_record_write(struct heddle_session *s, uint16_t kind, uint32_t lane, uint32_t seq, const void *body, uint32_t bytes) {
  return record_write(s, kind, lane, seq, body, bytes, true);
}

bool heddle_record_later(struct heddle_session *s, uint16_t kind, const void *body, uint32_t bytes) {
  return record_write(s, kind, 0, 0, body, bytes, false);
}

void heddle_announce(struct heddle_lane *lane) {
  struct heddle_session *s = lane->session;
  uint32_t seq = atomic_load_explicit(&lane->seq, memory_order_relaxed), next = heddle_next_number(seq);
  // Before the first op a program loads its model; while ops are under way the executor knows that it is at work.
  if (seq == 0 || lane->id >= HEDDLE_WIRE_LANES || !heddle_lane_done(s, lane->id, seq) || !heddle_session_live(s)) return;
  if (atomic_exchange_explicit(&lane->announced, next, memory_order_relaxed) == next) return;
  (void)heddle_record_write(s, HEDDLE_WIRE_KIND_UPCOMING, lane->id, 0, NULL, 0); // lost: the next op finds out
}

bool heddle_signal_number(struct heddle_session *s, uint32_t lane, uint32_t seq) {
  struct heddle_shared *h = heddle_shared_of(s);
  if (heddle_lane_done(s, lane, seq)) return true;
  heddle_mutex_lock(&h->ring_lock);
  bool asked = heddle_reached(h->signalled[lane], seq);
  heddle_mutex_unlock(&h->ring_lock);
  if (asked) return true;
  uint64_t position;
  if (ring_begin(h, HEDDLE_WIRE_KIND_SIGNAL, 0, lane, seq, 0, NULL, 0, 0, &position) == NULL) return false;
  if (!heddle_reached(h->signalled[lane], seq)) h->signalled[lane] = seq;
  heddle_ring_publish(&s->ring);
  heddle_mutex_unlock(&h->ring_lock);
  return true;
}

bool heddle_signal_wait(struct heddle_session *s, uint32_t lane, uint32_t seq) {
  struct heddle_shared *h = heddle_shared_of(s);
  uint64_t position;
  if (seq == 0 || lane >= HEDDLE_WIRE_LANES) return true; // nothing was ever submitted there
  heddle_mutex_lock(&h->ring_lock);
  bool told = heddle_reached(h->waited[lane], seq);
  heddle_mutex_unlock(&h->ring_lock);
  if (told) return heddle_signal_number(s, lane, seq);
  // A number that is done may be an event's of long ago, which a record must not name any more: what is done now stands for it.
  uint32_t done = heddle_load_acquire32(&s->lanes[lane].done);
  bool over = heddle_reached(done, seq);
  if (ring_begin(h, HEDDLE_WIRE_KIND_SIGNAL, HEDDLE_WIRE_RECORD_FLAG_WAIT, lane, over ? done : seq, 0, NULL, 0, 0, &position) == NULL) return false;
  h->waited[lane] = seq;
  if (!over) {
    if (!heddle_reached(h->signalled[lane], seq)) h->signalled[lane] = seq;
    heddle_ring_publish(&s->ring);
  }
  heddle_mutex_unlock(&h->ring_lock);
  return true;
}

// ---- what an op must follow ----

struct gather {
  struct heddle_lane *lane;
  bool write_ready; // native work that no published record covers
  bool lost;
  CUresult error;
  uint32_t n;
  struct heddle_wire_dep dep[HEDDLE_WIRE_MAX_DEPS];
};

static void depend(struct gather *g, uint32_t id, uint32_t seq) {
  struct heddle_session *s = g->lane->session;
  if (id == g->lane->id || heddle_lane_done(s, id, seq)) return;
  for (uint32_t i = 0; i < g->n; i++)
    if (g->dep[i].lane == id) {
      if (heddle_reached(seq, g->dep[i].value)) g->dep[i].value = seq;
      return;
    }
  if (g->n < HEDDLE_WIRE_MAX_DEPS) {
    g->dep[g->n++] = (struct heddle_wire_dep){id, seq};
    return;
  }
  // More than a record can name: wait for this one here (the executor needs none of our locks to get there).
  if (!heddle_signal_number(s, id, seq)) { g->lost = true; return; }
  enum heddle_wait w = heddle_wait_raw(s, id, seq, g->lane->context->spin_us);
  if (w == HEDDLE_LOST) g->lost = true;
  if (w == HEDDLE_STICKY) g->error = heddle_sticky(s);
}

static void depend_on_owed(struct gather *g, const struct heddle_lane *of) {
  for (uint32_t i = 0; i < of->ndeps; i++) depend(g, of->deps[i].lane, of->deps[i].value);
}

// The lane is locked. Everything that the lane's next op must follow: what it owes, and, between the legacy default stream and
// the blocking streams of its context, each other's work (CUDA driver API, "Stream synchronization behavior").
static void gather(struct gather *g, struct heddle_lane *lane) {
  struct heddle_context *c = lane->context;
  g->lane = lane;
  g->n = 0;
  g->lost = false;
  g->error = CUDA_SUCCESS;
  g->write_ready = lane->native_serial != lane->covered;
  if (lane->ndeps != 0) depend_on_owed(g, lane);
  if (lane->legacy) {
    if (lane->legacy_activity_forward == c->activity) return;
    for (struct heddle_lane *b = c->blocking; b != NULL; b = b->next_blocking) {
      uint32_t seq = atomic_load_explicit(&b->seq, memory_order_relaxed);
      if (seq != b->dep_by_legacy) depend(g, b->id, seq);
      depend_on_owed(g, b);
      if (b->native_serial != b->covered && b->native_serial != b->covered_by_legacy) g->write_ready = true;
    }
  } else if (lane->blocking) {
    struct heddle_lane *l = c->legacy;
    uint32_t seq = atomic_load_explicit(&l->seq, memory_order_relaxed);
    if (seq != lane->dep_legacy) depend(g, l->id, seq);
    if (l->ndeps != 0) depend_on_owed(g, l);
    if (l->native_serial != l->covered && l->native_serial != lane->legacy_covered) g->write_ready = true;
  }
}

bool heddle_lane_owe(struct heddle_lane *lane, uint32_t id, uint32_t seq) {
  if (id == lane->id || id >= HEDDLE_WIRE_LANES || heddle_lane_done(lane->session, id, seq)) return true;
  uint32_t kept = 0;
  bool found = false;
  for (uint32_t i = 0; i < lane->ndeps; i++) {
    struct heddle_wire_dep d = lane->deps[i];
    if (d.lane == id) {
      if (heddle_reached(seq, d.value)) d.value = seq;
      found = true;
    } else if (heddle_lane_done(lane->session, d.lane, d.value)) {
      continue;
    }
    lane->deps[kept++] = d;
  }
  lane->ndeps = kept;
  if (!found && kept == HEDDLE_LANE_DEPS) return false;
  if (!found) lane->deps[lane->ndeps++] = (struct heddle_wire_dep){id, seq};
  if (lane->blocking && !lane->legacy) lane->context->activity++; // legacy's next op owes it too
  return true;
}

// ---- one op ----

// Makes the driver write the lane's next ready number behind all native work that the real stream holds, or follows.
static CUresult write_ready(struct heddle_lane *lane, uint32_t *number) {
  CUresult r = CUDA_SUCCESS;
  CUdeviceptr word = heddle_word_address(lane->session, lane->id, offsetof(struct heddle_wire_lane, ready), &r);
  if (r != CUDA_SUCCESS) return r;
  uint32_t k = heddle_next_number(lane->ready);
  CUstream stream = atomic_load_explicit(&lane->handle, memory_order_relaxed);
  // Before the driver has it: while ready is not that number, the session file is nobody else's, even after our death.
  __atomic_store_n(&lane->session->lanes[lane->id].ready_due, k, __ATOMIC_RELEASE);
  CUstreamCaptureMode mode = heddle_capture_relax();
  r = heddle_real.cuStreamWriteValue32_v2(stream, word, k, CU_STREAM_WRITE_VALUE_DEFAULT);
  heddle_capture_restore(mode);
  if (r == CUDA_SUCCESS) *number = lane->ready = k;
  return r;
}

// The kinds that would run on the SMs of the client's own context, and cost it a switch, if they were not forwarded.
static const uint32_t uses_sms = 1u << HEDDLE_WIRE_KIND_LAUNCH | 1u << HEDDLE_WIRE_KIND_MEMSET | 1u << HEDDLE_WIRE_KIND_COPY | 1u << HEDDLE_WIRE_KIND_COPY3D |
                                 1u << HEDDLE_WIRE_KIND_GRAPH;

int heddle_op_open(struct heddle_op *op, struct heddle_lane *lane, uint16_t kind, uint16_t flags, uint32_t body_bytes) {
  struct heddle_session *s = lane->session;
  struct gather g;
  CUresult r = heddle_sticky(s);
  if (__builtin_expect(r != CUDA_SUCCESS, 0)) return (int)r;
  op->lane = lane;
  op->why = HEDDLE_NATIVE_CLOSED;
  if (__builtin_expect(!heddle_session_live(s), 0)) return HEDDLE_OP_NATIVE;
  if (__builtin_expect(lane->id == HEDDLE_LANE_NATIVE, 0)) {
    op->why = heddle_lane_captures(lane) ? HEDDLE_NATIVE_CAPTURE : HEDDLE_NATIVE_LANES;
    return HEDDLE_OP_NATIVE;
  }
  heddle_lane_lock(lane);
  if (__builtin_expect(heddle_lane_captures(lane), 0)) {
    heddle_mutex_unlock(lane->lock);
    op->why = HEDDLE_NATIVE_CAPTURE;
    return HEDDLE_OP_NATIVE;
  }
  gather(&g, lane);
  uint32_t ready = 0;
  if (__builtin_expect(g.write_ready && g.error == CUDA_SUCCESS && !g.lost, 0)) g.error = write_ready(lane, &ready);
  if (__builtin_expect(g.error != CUDA_SUCCESS, 0)) {
    heddle_mutex_unlock(lane->lock);
    return (int)g.error;
  }
  uint32_t seq = heddle_next_number(atomic_load_explicit(&lane->seq, memory_order_relaxed));
  if ((seq & 0xffffff) == 0) flags |= HEDDLE_WIRE_RECORD_FLAG_WANT_SIGNAL; // so that done never lags by half the number space
  op->body = g.lost ? NULL
                    : ring_begin(heddle_shared_of(s), kind, flags, lane->id, seq, ready, g.dep, g.n, body_bytes, &op->position);
  if (__builtin_expect(op->body == NULL, 0)) {
    heddle_mutex_unlock(lane->lock);
    heddle_session_given_up(s);
    return HEDDLE_OP_NATIVE;
  }
  s->forwarded += uses_sms >> kind & 1;
  op->seq = seq;
  op->ready = ready;
  op->flags = flags;
  return HEDDLE_OP_OPEN;
}

void heddle_op_publish(struct heddle_op *op) {
  struct heddle_lane *lane = op->lane;
  struct heddle_context *c = lane->context;
  struct heddle_session *s = lane->session;
  struct heddle_shared *h = heddle_shared_of(s);
  if ((op->flags & HEDDLE_WIRE_RECORD_FLAG_WANT_SIGNAL) != 0) {
    h->signalled[lane->id] = op->seq;
    if ((op->flags & HEDDLE_WIRE_RECORD_FLAG_WAIT) != 0) h->waited[lane->id] = op->seq;
  }
  heddle_ring_publish(&s->ring);
  heddle_mutex_unlock(&h->ring_lock);
  // What the record depends on, and covers, need not be named again.
  lane->ndeps = 0;
  if (op->ready != 0) lane->covered = lane->native_serial;
  if (lane->legacy) {
    if (lane->legacy_activity_forward != c->activity) {
      for (struct heddle_lane *b = c->blocking; b != NULL; b = b->next_blocking) {
        b->dep_by_legacy = atomic_load_explicit(&b->seq, memory_order_relaxed);
        if (op->ready != 0) b->covered_by_legacy = b->native_serial;
      }
      lane->legacy_activity_forward = c->activity;
    }
  } else if (lane->blocking) {
    lane->dep_legacy = atomic_load_explicit(&c->legacy->seq, memory_order_relaxed);
    if (op->ready != 0) lane->legacy_covered = c->legacy->native_serial;
    c->activity++;
  }
  atomic_store_explicit(&lane->seq, op->seq, memory_order_release);
  heddle_mutex_unlock(lane->lock);
}

int heddle_lane_settle(struct heddle_lane *lane, uint32_t *seq) {
  struct heddle_session *s = lane->session;
  struct gather g = {0};
  CUresult r = heddle_sticky(s);
  if (r != CUDA_SUCCESS) return (int)r;
  if (!heddle_session_live(s) || lane->id == HEDDLE_LANE_NATIVE) return HEDDLE_OP_NATIVE;
  heddle_mutex_lock(lane->lock);
  gather(&g, lane);
  *seq = atomic_load_explicit(&lane->seq, memory_order_relaxed);
  heddle_mutex_unlock(lane->lock);
  if (g.lost) {
    heddle_session_given_up(s);
    return HEDDLE_OP_NATIVE;
  }
  if (g.error != CUDA_SUCCESS) return (int)g.error;
  if (g.n == 0 && !g.write_ready) return HEDDLE_OP_OPEN;
  struct heddle_op op;
  int opened = heddle_op_open(&op, lane, HEDDLE_WIRE_KIND_EVENT, 0, sizeof(struct heddle_wire_event_mark));
  if (opened != HEDDLE_OP_OPEN) return opened;
  *(struct heddle_wire_event_mark *)op.body = (struct heddle_wire_event_mark){.slot = HEDDLE_SCRATCH_SLOT};
  *seq = op.seq;
  heddle_op_publish(&op);
  return HEDDLE_OP_OPEN;
}
