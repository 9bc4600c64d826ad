// The registry: contexts, and the lane of every stream. Lookups are lock-free; making, retiring and forgetting are rare.
// Source: design.md section 4 "Order"; docs/protocol.md section 2 (LANE_OPEN, LANE_RETIRE, numbers that continue).
#include "lane.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"

#define BUCKETS 1024u
#define CONTEXTS 64u
// CU_CTX_SCHED_AUTO, where the driver itself spins for ever while it finds cores enough: as long as most requests' last wait, so
// that waking a sleeper (some 50 us) is not part of their latency; on a small machine the executor needs the cores more.
#define SMALL_SPIN_US 100u
#define SMALL_MACHINE 8

static struct heddle_mutex registry;
static _Atomic(struct heddle_lane *) buckets[BUCKETS];
static struct heddle_lane *every_lane; // guarded by registry; never shrinks
static struct heddle_context contexts[CONTEXTS];
static struct heddle_shared *shared[HEDDLE_MAX_DEVICES];
static _Atomic uint32_t generation = 1; // bumped when a context is forgotten: thread caches are stale then
_Atomic int heddle_detached;

static _Thread_local struct {
  uint32_t generation;
  CUcontext handle;
  struct heddle_context *context;
  struct heddle_lane *per_thread; // lane of CU_STREAM_PER_THREAD in that context
} cache;

static void forked(void) { atomic_store(&heddle_detached, 1); }
static pthread_key_t thread_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void lane_retire_locked(struct heddle_lane *lane);

// A thread ends: its per-thread default streams are over.
static void thread_gone(void *self) {
  if (atomic_load(&heddle_detached) != 0) return;
  heddle_mutex_lock(&registry);
  for (struct heddle_lane *l = every_lane; l != NULL; l = l->next_of_process)
    if (l->owner == self && atomic_load_explicit(&l->handle, memory_order_relaxed) != NULL) lane_retire_locked(l);
  heddle_mutex_unlock(&registry);
  free(self);
}
static void prepare(void) {
  pthread_atfork(NULL, NULL, forked);
  pthread_key_create(&thread_key, thread_gone);
}
// Identity of the calling thread for its per-thread lanes; freed by thread_gone.
static void *thread_self(void) {
  pthread_once(&once, prepare);
  void *self = pthread_getspecific(thread_key);
  if (self == NULL) {
    self = calloc(1, 1);
    if (self != NULL && pthread_setspecific(thread_key, self) != 0) { free(self); self = NULL; }
  }
  return self;
}

static uint32_t bucket_of(CUstream stream) {
  uint64_t k = (uint64_t)(uintptr_t)stream * UINT64_C(0x9e3779b97f4a7c15);
  return (uint32_t)(k >> 54) % BUCKETS;
}

// Registry held by nobody who calls this: alone.c and its callers.
void heddle_lanes_say_done(struct heddle_session *s, void (*f)(struct heddle_session *, uint32_t, uint32_t)) {
  heddle_mutex_lock(&registry);
  struct heddle_shared *h = shared[s->device];
  for (struct heddle_lane *l = every_lane; l != NULL; l = l->next_of_process)
    if (atomic_load_explicit(&l->handle, memory_order_relaxed) != NULL && l->session == s && l->id != HEDDLE_LANE_NATIVE)
      f(s, l->id, atomic_load_explicit(&l->seq, memory_order_acquire));
  for (uint32_t i = 0; h != NULL && h->session == s && i < h->fresh; i++)
    if (!h->slot[i].used) f(s, i, h->slot[i].seq);
  heddle_mutex_unlock(&registry);
}

struct heddle_shared *heddle_shared_of(struct heddle_session *s) { return shared[s->device]; }

// Registry held. The shared state of a session, made at first use and made anew for a new session of the device.
static struct heddle_shared *shared_make(struct heddle_session *s) {
  if (s->device < 0 || s->device >= HEDDLE_MAX_DEVICES) return NULL;
  struct heddle_shared *h = shared[s->device];
  if (h != NULL && h->session == s) return h;
  h = calloc(1, sizeof *h); // an older one stays: threads may still look at it
  if (h == NULL) return NULL;
  h->session = s;
  for (uint32_t i = 0; i < HEDDLE_FETCHES; i++) h->fetch[i] = UINT64_MAX;
  shared[s->device] = h;
  return h;
}

// Registry held. An id whose earlier ops and ready writes are all over: a late write of the old stream would set `ready` back.
static uint32_t id_take(struct heddle_shared *h) {
  const struct heddle_wire_lane *words = h->session->lanes;
  for (uint32_t i = 0; i < h->fresh; i++)
    if (!h->slot[i].used && heddle_reached(heddle_load_acquire32(&words[i].done), h->slot[i].seq) &&
        heddle_reached(heddle_load_acquire32(&words[i].ready), h->slot[i].ready)) {
      h->slot[i].used = true;
      return i;
    }
  if (h->fresh == HEDDLE_WIRE_LANES) return HEDDLE_LANE_NATIVE;
  h->slot[h->fresh].used = true;
  h->slot[h->fresh].seq = heddle_load_acquire32(&words[h->fresh].done);
  h->slot[h->fresh].ready = heddle_load_acquire32(&words[h->fresh].ready);
  return h->fresh++;
}

// Registry held. A lane for a stream of context c. blocking: the driver orders the stream with the legacy default stream.
static struct heddle_lane *lane_make(struct heddle_context *c, CUstream stream, bool blocking, int priority, bool native, void *owner) {
  struct heddle_shared *h = shared_make(c->session);
  if (h == NULL) return NULL;
  struct heddle_lane *l = every_lane;
  while (l != NULL && atomic_load_explicit(&l->handle, memory_order_relaxed) != NULL) l = l->next_of_process;
  bool fresh = l == NULL;
  if (fresh && (l = calloc(1, sizeof *l)) == NULL) return NULL;
  bool legacy = stream == CU_STREAM_LEGACY;
  l->context = c;
  l->session = c->session;
  l->legacy = legacy;
  l->blocking = blocking || legacy;
  l->lock = l->blocking ? &c->blocking_lock : &l->own_lock;
  l->turn = l->blocking ? &c->blocking_turn : &l->own_turn;
  l->priority = priority;
  l->owner = owner;
  l->id = native || !heddle_session_live(c->session) ? HEDDLE_LANE_NATIVE : id_take(h);
  uint32_t seq = 0;
  l->ready = 0;
  if (l->id != HEDDLE_LANE_NATIVE) {
    seq = h->slot[l->id].seq;
    l->ready = h->slot[l->id].ready;
    struct heddle_wire_lane_open body = {.priority = priority};
    if (!heddle_record_write(c->session, HEDDLE_WIRE_KIND_LANE_OPEN, l->id, 0, &body, sizeof body)) {
      h->slot[l->id].used = false;
      l->id = HEDDLE_LANE_NATIVE; // the session is being given up; the caller's next op notices
    }
  }
  atomic_store_explicit(&l->seq, seq, memory_order_relaxed);
  l->waited = l->waited_by_legacy = l->dep_by_legacy = seq;
  l->native_serial = l->covered = l->covered_by_legacy = 0;
  l->legacy_covered = l->waited_legacy = l->dep_legacy = 0;
  atomic_store_explicit(&l->synced, 0, memory_order_relaxed);
  l->legacy_activity_forward = l->legacy_activity_native = 0;
  l->ndeps = 0;
  l->next_blocking = NULL;
  if (fresh) {
    l->next_of_process = every_lane;
    every_lane = l;
  }
  if (legacy) {
    c->legacy = l;
  } else if (blocking) {
    heddle_mutex_lock(&c->blocking_lock);
    // Whatever legacy did before this stream existed must still come first: nothing is marked as waited for.
    l->waited_legacy = l->dep_legacy = atomic_load_explicit(&c->legacy->seq, memory_order_relaxed) - 1;
    l->legacy_covered = c->legacy->native_serial - 1;
    l->next_blocking = c->blocking;
    c->blocking = l;
    c->activity++;
    heddle_mutex_unlock(&c->blocking_lock);
  }
  atomic_store_explicit(&l->handle, stream, memory_order_release);
  if (stream != CU_STREAM_LEGACY && stream != CU_STREAM_PER_THREAD) {
    _Atomic(struct heddle_lane *) *head = &buckets[bucket_of(stream)];
    atomic_store_explicit(&l->next, atomic_load_explicit(head, memory_order_relaxed), memory_order_relaxed);
    atomic_store_explicit(head, l, memory_order_release);
  }
  return l;
}

// Registry held. Takes a lane out of service: its struct and, when all is over, its id are used again. Work still under way is
// owed by the legacy stream, and so by every blocking stream after it.
static void lane_retire_locked(struct heddle_lane *l) {
  CUstream stream = atomic_load_explicit(&l->handle, memory_order_relaxed);
  struct heddle_context *c = l->context;
  heddle_mutex_lock(l->lock);
  uint32_t seq = atomic_load_explicit(&l->seq, memory_order_relaxed);
  if (l->blocking && !l->legacy) {
    struct heddle_lane **p = &c->blocking;
    while (*p != NULL && *p != l) p = &(*p)->next_blocking;
    if (*p == l) *p = l->next_blocking;
    struct heddle_lane *g = c->legacy;
    if (l->id != HEDDLE_LANE_NATIVE && seq != l->dep_by_legacy && !heddle_lane_done(l->session, l->id, seq) &&
        !heddle_lane_owe(g, l->id, seq))
      (void)heddle_wait_raw(l->session, g->deps[0].lane, g->deps[0].value, 0), (void)heddle_lane_owe(g, l->id, seq);
    for (uint32_t i = 0; i < l->ndeps; i++) (void)heddle_lane_owe(g, l->deps[i].lane, l->deps[i].value);
    if (l->native_serial != l->covered && l->native_serial != l->covered_by_legacy) g->native_serial++;
    c->activity++;
  }
  l->ndeps = 0;
  heddle_mutex_unlock(l->lock);
  if (l->id != HEDDLE_LANE_NATIVE) {
    struct heddle_shared *h = shared[l->session->device];
    (void)heddle_record_write(l->session, HEDDLE_WIRE_KIND_LANE_RETIRE, l->id, 0, NULL, 0);
    if (h != NULL && h->session == l->session) {
      h->slot[l->id].seq = seq;
      h->slot[l->id].ready = l->ready;
      h->slot[l->id].used = false;
    }
  }
  if (stream != CU_STREAM_LEGACY && stream != CU_STREAM_PER_THREAD) {
    _Atomic(struct heddle_lane *) *p = &buckets[bucket_of(stream)];
    for (struct heddle_lane *at; (at = atomic_load_explicit(p, memory_order_relaxed)) != NULL; p = &at->next)
      if (at == l) {
        atomic_store_explicit(p, atomic_load_explicit(&l->next, memory_order_relaxed), memory_order_release);
        break;
      }
  }
  atomic_store_explicit(&l->handle, NULL, memory_order_release);
}

static uint32_t spin_of_flags(unsigned int flags) {
  switch (flags & CU_CTX_SCHED_MASK) {
  case CU_CTX_SCHED_SPIN: return HEDDLE_SPIN_FOR_EVER;
  case CU_CTX_SCHED_BLOCKING_SYNC: return 0;
  default:
    if (heddle_config()->spin_us >= 0) return (uint32_t)heddle_config()->spin_us;
    return sysconf(_SC_NPROCESSORS_ONLN) < SMALL_MACHINE ? SMALL_SPIN_US : HEDDLE_SPIN_ADAPTS;
  }
}

// The entry of a context that is current in the calling thread, made at first use (attaches the device's session).
static struct heddle_context *context_find(CUcontext handle) {
  for (uint32_t i = 0; i < CONTEXTS; i++)
    if (__atomic_load_n(&contexts[i].handle, __ATOMIC_ACQUIRE) == handle) return &contexts[i];
  CUdevice device;
  unsigned int flags = 0;
  if (heddle_real.cuCtxGetDevice(&device) != CUDA_SUCCESS) return NULL;
  struct heddle_session *s = heddle_session_of_device(device);
  // A session that has ended: the device may be lost to this process, whatever context it makes now; and memory of the session's
  // time is still ours to free, so that native work must be known.
  if (s == NULL) s = heddle_session_peek(device);
  if (heddle_real.cuCtxGetFlags == NULL || heddle_real.cuCtxGetFlags(&flags) != CUDA_SUCCESS) flags = 0;
  pthread_once(&once, prepare);
  struct heddle_context *found = NULL, *room = NULL;
  heddle_mutex_lock(&registry);
  for (uint32_t i = 0; i < CONTEXTS && found == NULL; i++) {
    if (contexts[i].handle == handle) found = &contexts[i];
    if (contexts[i].handle == NULL && room == NULL) room = &contexts[i];
  }
  if (found == NULL && room != NULL) {
    struct heddle_mutex zero = {0};
    room->session = s;
    room->device = device;
    room->spin_us = spin_of_flags(flags);
    room->blocking_lock = zero;
    room->blocking = NULL;
    room->activity = 1;
    atomic_store(&room->native_serial, 0);
    atomic_store(&room->native_synced, 0);
    room->legacy = NULL;
    if (s == NULL || lane_make(room, CU_STREAM_LEGACY, true, 0, false, NULL) != NULL) {
      __atomic_store_n(&room->handle, handle, __ATOMIC_RELEASE);
      found = room;
    }
  }
  heddle_mutex_unlock(&registry);
  return found;
}

struct heddle_context *heddle_context_peek(CUcontext handle) {
  if (atomic_load_explicit(&heddle_detached, memory_order_relaxed) != 0) return NULL;
  for (uint32_t i = 0; handle != NULL && i < CONTEXTS; i++)
    if (__atomic_load_n(&contexts[i].handle, __ATOMIC_ACQUIRE) == handle) return &contexts[i];
  return NULL;
}

struct heddle_context *heddle_context_current(void) {
  CUcontext handle = NULL;
  if (atomic_load_explicit(&heddle_detached, memory_order_relaxed) != 0) return NULL;
  if (heddle_real.cuCtxGetCurrent(&handle) != CUDA_SUCCESS || handle == NULL) return NULL;
  uint32_t now = atomic_load_explicit(&generation, memory_order_acquire);
  if (cache.handle != handle || cache.generation != now) {
    cache.context = context_find(handle);
    cache.per_thread = NULL;
    cache.handle = cache.context != NULL ? handle : NULL;
    cache.generation = now;
  }
  struct heddle_context *c = cache.context;
  return c != NULL && c->session != NULL ? c : NULL;
}

CUcontext heddle_context_any(struct heddle_session *s) {
  for (uint32_t i = 0; i < CONTEXTS; i++) {
    CUcontext handle = __atomic_load_n(&contexts[i].handle, __ATOMIC_ACQUIRE);
    if (handle != NULL && contexts[i].session == s) return handle;
  }
  return NULL;
}

static struct heddle_lane *find_handle(CUstream stream) {
  struct heddle_lane *l = atomic_load_explicit(&buckets[bucket_of(stream)], memory_order_acquire);
  while (l != NULL && atomic_load_explicit(&l->handle, memory_order_acquire) != stream)
    l = atomic_load_explicit(&l->next, memory_order_acquire);
  return l;
}

// A handle that was never seen: asks the driver whose it is.
static struct heddle_lane *adopt(CUstream stream) {
  struct heddle_context *c = heddle_context_current();
  CUcontext owner = NULL;
  unsigned int flags = 0;
  int priority = 0;
  bool native = false, known = false;
  if (c == NULL) return NULL;
  if (heddle_real.cuStreamGetCtx_v2 != NULL) {
    CUgreenCtx green = NULL;
    known = heddle_real.cuStreamGetCtx_v2(stream, &owner, &green) == CUDA_SUCCESS;
    native = green != NULL; // a green context limits the SMs of its streams; the executor could not honour that
    if (known && native && owner == NULL) owner = c->handle;
  }
  if (!known && heddle_real.cuStreamGetCtx(stream, &owner) != CUDA_SUCCESS) return NULL;
  if (owner != c->handle) {
    if ((c = heddle_context_peek(owner)) == NULL) {
      if (heddle_real.cuCtxPushCurrent_v2(owner) != CUDA_SUCCESS) return NULL;
      c = context_find(owner);
      (void)heddle_real.cuCtxPopCurrent_v2(&owner);
    }
    if (c == NULL || c->session == NULL) return NULL;
  }
  if (heddle_real.cuStreamGetFlags(stream, &flags) != CUDA_SUCCESS) return NULL;
  if (heddle_real.cuStreamGetPriority(stream, &priority) != CUDA_SUCCESS) priority = 0;
  heddle_mutex_lock(&registry);
  struct heddle_lane *l = find_handle(stream);
  if (l == NULL) l = lane_make(c, stream, (flags & CU_STREAM_NON_BLOCKING) == 0, priority, native, NULL);
  heddle_mutex_unlock(&registry);
  return l;
}

static struct heddle_lane *per_thread_lane(struct heddle_context *c) {
  void *self = thread_self();
  if (self == NULL) return NULL;
  heddle_mutex_lock(&registry);
  struct heddle_lane *l = every_lane;
  while (l != NULL && !(l->owner == self && l->context == c && atomic_load_explicit(&l->handle, memory_order_relaxed) == CU_STREAM_PER_THREAD))
    l = l->next_of_process;
  if (l == NULL) l = lane_make(c, CU_STREAM_PER_THREAD, true, 0, false, self);
  heddle_mutex_unlock(&registry);
  return l;
}

struct heddle_lane *heddle_lane_of(CUstream stream) {
  if (stream != NULL && stream != CU_STREAM_LEGACY && stream != CU_STREAM_PER_THREAD) {
    if (atomic_load_explicit(&heddle_detached, memory_order_relaxed) != 0) return NULL;
    struct heddle_lane *l = find_handle(stream);
    return l != NULL ? l : adopt(stream);
  }
  struct heddle_context *c = heddle_context_current();
  if (c == NULL) return NULL;
  if (stream != CU_STREAM_PER_THREAD) return c->legacy;
  if (cache.per_thread == NULL) cache.per_thread = per_thread_lane(c);
  return cache.per_thread;
}

struct heddle_lane *heddle_lane_by_id(struct heddle_session *s, uint32_t id) {
  struct heddle_lane *found = NULL;
  heddle_mutex_lock(&registry);
  for (struct heddle_lane *l = every_lane; l != NULL && found == NULL; l = l->next_of_process)
    if (l->session == s && l->id == id && atomic_load_explicit(&l->handle, memory_order_relaxed) != NULL) found = l;
  heddle_mutex_unlock(&registry);
  return found;
}

uint32_t heddle_lanes_undone(struct heddle_session *s, struct heddle_context *c, struct heddle_wire_dep *out) {
  uint32_t n = 0;
  heddle_mutex_lock(&registry);
  struct heddle_shared *h = shared[s->device];
  for (struct heddle_lane *l = every_lane; l != NULL && n < HEDDLE_WIRE_LANES; l = l->next_of_process) {
    if (atomic_load_explicit(&l->handle, memory_order_relaxed) == NULL || l->session != s || (c != NULL && l->context != c)) continue;
    uint32_t seq = atomic_load_explicit(&l->seq, memory_order_acquire);
    if (!heddle_lane_done(s, l->id, seq)) out[n++] = (struct heddle_wire_dep){l->id, seq};
  }
  // Streams that were destroyed with work under way.
  for (uint32_t i = 0; h != NULL && h->session == s && i < h->fresh && n < HEDDLE_WIRE_LANES; i++)
    if (!h->slot[i].used && !heddle_lane_done(s, i, h->slot[i].seq)) out[n++] = (struct heddle_wire_dep){i, h->slot[i].seq};
  heddle_mutex_unlock(&registry);
  return n;
}

uint32_t heddle_lanes_last(struct heddle_context *c, struct heddle_wire_dep *out) {
  uint32_t n = 0;
  heddle_mutex_lock(&registry);
  for (struct heddle_lane *l = every_lane; l != NULL && n < HEDDLE_WIRE_LANES; l = l->next_of_process)
    if (l->context == c && atomic_load_explicit(&l->handle, memory_order_relaxed) != NULL)
      out[n++] = (struct heddle_wire_dep){l->id, atomic_load_explicit(&l->seq, memory_order_acquire)};
  heddle_mutex_unlock(&registry);
  return n;
}

uint32_t heddle_lanes_of(struct heddle_context *c, struct heddle_lane **out, uint32_t room) {
  uint32_t n = 0;
  heddle_mutex_lock(&registry);
  for (struct heddle_lane *l = every_lane; l != NULL && n < room; l = l->next_of_process)
    if (l->context == c && atomic_load_explicit(&l->handle, memory_order_relaxed) != NULL) out[n++] = l;
  heddle_mutex_unlock(&registry);
  return n;
}

void heddle_order_stream_gone(CUstream stream) {
  if (stream == NULL || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD) return;
  heddle_mutex_lock(&registry);
  struct heddle_lane *l = find_handle(stream);
  if (l != NULL) lane_retire_locked(l);
  heddle_mutex_unlock(&registry);
}

void heddle_order_context_gone(CUcontext handle) {
  struct heddle_context *c = heddle_context_peek(handle);
  if (c == NULL) return;
  heddle_mutex_lock(&registry);
  for (struct heddle_lane *l = every_lane; l != NULL; l = l->next_of_process)
    if (l->context == c && !l->legacy && atomic_load_explicit(&l->handle, memory_order_relaxed) != NULL) lane_retire_locked(l);
  if (c->legacy != NULL) lane_retire_locked(c->legacy);
  c->legacy = NULL;
  __atomic_store_n(&c->handle, (CUcontext)NULL, __ATOMIC_RELEASE);
  atomic_fetch_add_explicit(&generation, 1, memory_order_acq_rel);
  heddle_mutex_unlock(&registry);
}
