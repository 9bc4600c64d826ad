// Lanes and the forwarding of one op: shared by order.c, submit.c, sync.c, event.c, launch.c, copy.c, memset.c and alone.c.
//
// Locks, outermost first: registry (lane.c) → lane lock → ring lock. The legacy default stream and every blocking stream of a
// context order each other, so they share one lane lock (context.blocking_lock): what one of them publishes or enqueues is
// seen whole by the others, and their mutual dependencies cannot form a cycle. No lock is held across a blocking driver call.
#ifndef HEDDLE_LANE_H
#define HEDDLE_LANE_H

#include "code/code.h"
#include "hooks/real_gen.h"
#include "lock.h"
#include "order.h"

#define HEDDLE_LANE_DEPS 32u                               // dependencies that a lane can owe to its next op
#define HEDDLE_LANE_NATIVE UINT32_MAX                      // lane.id of a stream that is never forwarded
#define HEDDLE_SCRATCH_SLOT (HEDDLE_WIRE_EVENT_SLOTS - 1u) // EVENT records with it are barriers
#define HEDDLE_FETCHES 32u                                 // GET payloads that may be waited for at once, per session

// Who may use a lane, or all lanes of one lock, for several ops that nobody else's op may come between. Everybody while .holder is NULL.
struct heddle_turn {
  _Atomic(const void *) holder; // identity of a thread; written under the lanes' lock
  struct heddle_mutex line;     // held by the holder: whoever has to wait waits for it
};

// What a wait's spin_us may be besides a time: without end; as long as its thread's waits take of late (patience.h).
#define HEDDLE_SPIN_FOR_EVER UINT32_MAX
#define HEDDLE_SPIN_ADAPTS (UINT32_MAX - 1)

struct heddle_context {
  CUcontext handle; // NULL: free entry
  struct heddle_session *session;
  int device;
  uint32_t spin_us;                  // how long host waits spin, from CU_CTX_SCHED_*, or one of HEDDLE_SPIN_*
  struct heddle_mutex blocking_lock; // the lane lock of legacy and of every lane in .blocking
  struct heddle_turn blocking_turn;  // of the same lanes
  struct heddle_lane *legacy;        // lane of the legacy default stream; never NULL
  struct heddle_lane *blocking;      // the other blocking lanes, by .next_blocking; guarded by blocking_lock
  uint32_t activity;                 // guarded by blocking_lock: bumped whenever a lane in .blocking changes
  _Atomic uint32_t native_serial;    // native work begun in any stream of the context
  _Atomic uint32_t native_synced;    // its value before the last cuCtxSynchronize that returned
};

struct heddle_lane {
  struct heddle_mutex own_lock;
  struct heddle_mutex *lock; // &own_lock, or &context->blocking_lock
  struct heddle_turn own_turn;
  struct heddle_turn *turn;  // &own_turn, or &context->blocking_turn
  struct heddle_context *context;
  struct heddle_session *session;
  _Atomic(CUstream) handle;               // 0: a free struct. CU_STREAM_LEGACY, CU_STREAM_PER_THREAD or the client's handle
  _Atomic(struct heddle_lane *) next;     // hash chain (regular handles)
  struct heddle_lane *next_blocking;
  struct heddle_lane *next_of_process;    // every lane ever made; structs are never freed, only used again
  uint32_t id;                            // index in session->lanes, or HEDDLE_LANE_NATIVE
  bool legacy, blocking;                  // blocking: ordered with the legacy stream
  void *owner;                            // the thread of a per-thread default stream
  int priority;
  _Atomic uint32_t seq;                   // number of the last op published
  _Atomic uint32_t announced;             // the number that heddle_announce told of last
  // Native work on the stream, counted. ready writes cover everything up to a count.
  uint32_t native_serial;                 // native operations begun
  uint32_t covered;                       // native_serial behind which this stream's last ready write was enqueued
  uint32_t covered_by_legacy;             // … the legacy stream's last ready write
  uint32_t legacy_covered;                // legacy's native_serial behind which this stream's last ready write was enqueued
  _Atomic uint32_t synced;                // native_serial when the stream was last synchronised
  uint32_t ready;                         // last ready number enqueued
  // Numbers that the real stream, or the records published, already wait for.
  uint32_t waited;                        // own number that the real stream waits for
  uint32_t waited_legacy;                 // legacy's number that the real stream waits for
  uint32_t waited_by_legacy;              // own number that the real legacy stream waits for
  uint32_t dep_legacy;                    // legacy's number that an own record depends on
  uint32_t dep_by_legacy;                 // own number that a legacy record depends on
  uint32_t legacy_activity_forward;       // (legacy) context->activity at its last forwarded op
  uint32_t legacy_activity_native;        // (legacy) … at its last native op
  // What the next op, forwarded or native, must follow besides the above (cuStreamWaitEvent).
  uint32_t ndeps;
  struct heddle_wire_dep deps[HEDDLE_LANE_DEPS];
};

// What all lanes of a session share.
struct heddle_shared {
  struct heddle_session *session;
  struct heddle_mutex ring_lock;              // guards session->ring and the fields down to fetch_serial
  uint32_t signalled[HEDDLE_WIRE_LANES];      // the number up to which lane.done was asked for
  uint32_t waited[HEDDLE_WIRE_LANES];         // the last number of which the executor was told that the program waits for it
  uint64_t fetch[HEDDLE_FETCHES];             // ring positions of GET payloads not yet copied out; UINT64_MAX free
  _Atomic uint32_t fetch_serial;              // bumped when one was (futex)
  _Atomic uint32_t fetch_waiters;             // threads that sleep on it
  _Atomic int broken;                         // the executor's words are nonsense: the session is over
  // Guarded by the registry lock: ids of lanes.
  struct { uint32_t seq, ready; bool used; } slot[HEDDLE_WIRE_LANES];
  uint32_t fresh;                             // ids from here were never used
  // Guarded by event.c's lock: timestamp slots.
  struct { uint32_t lane, seq; } slot_last[HEDDLE_WIRE_EVENT_SLOTS]; // the last record that wrote a freed slot
  uint16_t slot_free[HEDDLE_WIRE_EVENT_SLOTS];
  uint32_t slot_first, slot_count, slot_fresh;
  // alone.c
  struct heddle_mutex alone_lock;
  _Atomic int alone;                          // 2: the ring's rest was run or given up, everything is native
  _Atomic int watched;                        // a watcher thread looks after waits on the GPU
  _Atomic uint64_t looked_ms;                 // when the socket was last looked at
  _Atomic uint64_t lost_since_ms;             // when LOST or a hang-up was first seen; 0: not
  _Atomic uint32_t lost_period;               // which loss that was: status.losses and whether the state was LOST
};

// ---- registry (lane.c) ----
// The lane of a stream in the calling thread; NULL when the process, the context or the handle is not ours to order.
struct heddle_lane *heddle_lane_of(CUstream stream);
// The context entry of the calling thread's current context; NULL: native, or no context.
struct heddle_context *heddle_context_current(void);
struct heddle_shared *heddle_shared_of(struct heddle_session *s);
// The last numbers of the live lanes of context c into out[0..HEDDLE_WIRE_LANES), done or not; the count.
uint32_t heddle_lanes_last(struct heddle_context *c, struct heddle_wire_dep *out);
// The live lanes of context c into out[0..room); the count. Each may end at any moment, but its struct stays.
uint32_t heddle_lanes_of(struct heddle_context *c, struct heddle_lane **out, uint32_t room);
// The live lane with that id of s, or NULL (its stream is gone).
struct heddle_lane *heddle_lane_by_id(struct heddle_session *s, uint32_t id);
// The undone numbers of s that concern context c (NULL: all), retired lanes included, into out[0..HEDDLE_WIRE_LANES); the count.
uint32_t heddle_lanes_undone(struct heddle_session *s, struct heddle_context *c, struct heddle_wire_dep *out);
// f(s, id, last number) for every lane id of s that was ever used.
void heddle_lanes_say_done(struct heddle_session *s, void (*f)(struct heddle_session *, uint32_t, uint32_t));
// Set in a forked child: CUDA cannot be used there, and the shared files are not mapped.
extern _Atomic int heddle_detached;
// The entry of a context, if it has one already.
struct heddle_context *heddle_context_peek(CUcontext handle);
// Any context of s, for work that needs one; NULL when none is left.
CUcontext heddle_context_any(struct heddle_session *s);

// The executor wants what runs on the SMs to run in this process's own context. It says so in a line that we write anyway; what was
// forwarded before, and what is forwarded afterwards, is ordered as beside any other native op. A program that has addresses of device
// globals in the executor stays there: kernels have got them, or find them in memory. The session lives.
static inline bool heddle_session_sent(const struct heddle_session *s) {
  return __builtin_expect(heddle_load_relaxed32(&s->ring.producer->own_context) != 0, 0) && !heddle_code_mirrors();
}
static inline bool heddle_session_live(struct heddle_session *s) { return atomic_load_explicit(&s->live, memory_order_acquire) != 0; }
// Every op of the lane up to seq is complete and its results are visible.
static inline bool heddle_lane_done(const struct heddle_session *s, uint32_t id, uint32_t seq) {
  return id >= HEDDLE_WIRE_LANES || heddle_reached(heddle_load_acquire32(&s->lanes[id].done), seq);
}

// ---- turn.c ----
// Until heddle_turn_give no other thread's op, forwarded or native, enters the lane or one that shares its lock: what the caller
// submits meanwhile stands there as one, as a graph does. The holder's calls pass; it must wait for no other thread. Not recursive.
void heddle_turn_take(struct heddle_lane *lane);
void heddle_turn_give(struct heddle_lane *lane);
// Unlocks the lane, waits until the holder is through and locks it again. For heddle_lane_lock.
void heddle_turn_wait(struct heddle_lane *lane);
// Locks a lane for one op, which waits for its turn.
static inline void heddle_lane_lock(struct heddle_lane *lane) {
  heddle_mutex_lock(lane->lock);
  if (__builtin_expect(atomic_load_explicit(&lane->turn->holder, memory_order_relaxed) != NULL, 0)) heddle_turn_wait(lane);
}

// ---- submit.c ----
// The session's sticky error (fault, op in doubt, bad record), or CUDA_SUCCESS. One load in the good case.
CUresult heddle_sticky(struct heddle_session *s);
enum { HEDDLE_OP_OPEN = 0, HEDDLE_OP_NATIVE = -1 }; // anything above 0 is a CUresult that the call must return
struct heddle_op {
  struct heddle_lane *lane;
  unsigned char *body;               // where the record's body goes
  uint64_t position;                 // of the record in the ring
  uint32_t seq, ready;
  uint16_t flags;
  enum heddle_native_reason why;     // with HEDDLE_OP_NATIVE
};
// Opens one forwarded op: takes the lane's lock, writes `ready` behind the native work that the op must follow, gathers its
// dependencies and reserves its record. HEDDLE_OP_OPEN: the caller fills op->body and calls heddle_op_publish (the lane and
// the ring are locked until then: nothing that blocks may happen in between). Otherwise nothing is locked.
int heddle_op_open(struct heddle_op *op, struct heddle_lane *lane, uint16_t kind, uint16_t flags, uint32_t body_bytes);
void heddle_op_publish(struct heddle_op *op);
// Publishes one record without a number. False when the session is lost; nothing is locked then, and the caller, once it
// holds no lane lock, calls heddle_session_given_up.
bool heddle_record_write(struct heddle_session *s, uint16_t kind, uint32_t lane, uint32_t seq, const void *body, uint32_t bytes);
// Asks for lane.done to be written for seq, unless that was asked before or is true. False as above.
bool heddle_signal_number(struct heddle_session *s, uint32_t lane, uint32_t seq);
// Tells the executor, when nothing of the lane is under way, that its next op is about to follow: the calling thread makes by itself a
// copy that the op needs. Work of others that would be in its way then begins no more. Told once for each op; no lock is held.
void heddle_announce(struct heddle_lane *lane);
// A record without a number that goes with the next one that is published: nobody is woken for it. False as above.
bool heddle_record_later(struct heddle_session *s, uint16_t kind, const void *body, uint32_t bytes);
// heddle_signal_number where the program itself waits: tells the executor so, once for each number, also when it is done already.
bool heddle_signal_wait(struct heddle_session *s, uint32_t lane, uint32_t seq);
// An op that does nothing but carry the lane's dependencies and native tail, when there are any. The lane's number then stands
// for everything submitted so far. *seq receives it. Return value as heddle_op_open's.
int heddle_lane_settle(struct heddle_lane *lane, uint32_t *seq);
// Adds "after (id, seq) of the same session" to what the lane's next op must follow. The lane is locked.
// False: the list is full of unfinished ones (settle the lane, then try again).
bool heddle_lane_owe(struct heddle_lane *lane, uint32_t id, uint32_t seq);
// A GET's payload (at op.position) was copied out: its ring space may be used again. Every published GET needs one call.
void heddle_fetch_release(struct heddle_session *s, uint64_t position);

// ---- sync.c ----
enum heddle_wait { HEDDLE_REACHED, HEDDLE_STICKY, HEDDLE_LOST };
// Waits for lane.done ≥ seq without asking for a signal and without giving the session up: may be called under a lane lock.
enum heddle_wait heddle_wait_raw(struct heddle_session *s, uint32_t id, uint32_t seq, uint32_t spin_us);
// The whole of it: signal, wait, finish alone when the session is lost. No lock may be held. CUDA_SUCCESS or the sticky error.
CUresult heddle_wait_number(struct heddle_session *s, uint32_t id, uint32_t seq, uint32_t spin_us);
// The same where the program itself waits (docs/requests.md).
CUresult heddle_wait_host(struct heddle_session *s, uint32_t id, uint32_t seq, uint32_t spin_us);
// heddle_op_publish, then waits until the op is done. Open it with HEDDLE_OP_WAITS.
#define HEDDLE_OP_WAITS (HEDDLE_WIRE_RECORD_FLAG_WANT_SIGNAL | HEDDLE_WIRE_RECORD_FLAG_WAIT)
CUresult heddle_op_publish_and_wait(struct heddle_op *op);
// True when the session will not be served any more. Cheap enough for every 100 ms.
bool heddle_session_lost(struct heddle_session *s);
// The same, of the executor alone: true when it neither runs anything of ours now nor will.
bool heddle_executor_gone(struct heddle_session *s);
// Finish alone and go native (idempotent); no lane or ring lock may be held.
void heddle_session_given_up(struct heddle_session *s);

// ---- event.c ----
// The driver recorded the event, or will: a graph that records it was launched natively.
void heddle_event_natively(CUevent e);
// The last record of the event is in the executor. False: it is the driver's, or the event is not known or never recorded.
bool heddle_event_forwarded(CUevent e);

// ---- capture.c ----
extern _Atomic int heddle_hooks_captures; // hooks/hooks.h: captures in progress in this process; 0 in the common case
// True when the stream captures, or when only the driver can tell (it returns an error): leave the call to the driver.
bool heddle_stream_captures(CUstream stream);
// Whether a locked lane's stream captures. No capture begins there, and the stream joins none, before the lane is unlocked.
static inline bool heddle_lane_captures(const struct heddle_lane *lane) {
  return __builtin_expect(atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) != 0, 0) &&
         heddle_stream_captures(atomic_load_explicit(&lane->handle, memory_order_relaxed));
}
// Around the driver's call that begins a capture of the stream, or has it join one: waits until nobody's ops there are half done, and
// keeps all others out. NULL: a stream that is not ours to order.
struct heddle_lane *heddle_capture_enter(CUstream stream);
void heddle_capture_entered(struct heddle_lane *lane);

// ---- order.c ----
// A native call in one line: begin, call, end. CALL is an expression of type CUresult.
#define HEDDLE_NATIVE_CALL(stream, kind, why, CALL)                             \
  ({                                                                            \
    struct heddle_order heddle_o;                                               \
    CUresult heddle_r = heddle_order_begin(&heddle_o, (stream), (kind), (why)); \
    if (heddle_r == CUDA_SUCCESS) heddle_r = heddle_order_end(&heddle_o, (CALL)); \
    heddle_r;                                                                   \
  })
// The device address of a lane's word in this process, registering the words at first use; 0 and *r on failure.
CUdeviceptr heddle_word_address(struct heddle_session *s, uint32_t id, size_t offset, CUresult *r);
// Makes the real stream of a locked lane wait for (id, seq) of session s, which may be another device's. False: session lost.
bool heddle_stream_wait_number(struct heddle_lane *lane, struct heddle_session *s, uint32_t id, uint32_t seq, CUresult *r);
// Counts one native operation of a locked lane.
void heddle_lane_native(struct heddle_lane *lane);

// ---- alone.c ----
// Starts the thread that finishes alone for threads that are blocked in the driver (once per session).
void heddle_watch(struct heddle_session *s);
// Runs the records of a graph, or of a part of one, natively on a stream of the calling thread's context, one behind another. The
// session is over, and what was forwarded has run.
CUresult heddle_alone_graph(struct heddle_session *s, CUstream stream, const unsigned char *records, uint64_t bytes);

#endif
