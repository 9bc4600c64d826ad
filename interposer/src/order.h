// Lanes, and the order of native against forwarded work. Source: design.md section 4 "Order"; docs/protocol.md section 2.
#ifndef HEDDLE_ORDER_H
#define HEDDLE_ORDER_H

#include "session.h"

// A lane: one (context, stream) of this process. Fields are guarded by .lock unless noted.
struct heddle_lane;

// ---- for generated wrappers of class "order" and hand-written native paths ----
// What the native call does.
enum heddle_native_kind {
  HEDDLE_NATIVE_ASYNC,   // enqueues work on the stream and returns
  HEDDLE_NATIVE_BLOCKING // may block the calling thread (synchronous copies); it may still leave work behind on the stream
};
struct heddle_order {
  struct heddle_session *session; // NULL: nothing to do, the process is native
  struct heddle_lane *lane;
  CUstream stream;
  enum heddle_native_kind kind;
};
// Before a native call on `stream` (never 0: CU_STREAM_LEGACY or CU_STREAM_PER_THREAD instead): makes the stream wait, on the
// GPU, for every forwarded op it must follow; for kind BLOCKING the calling thread waits instead, so that a thread which is stuck
// in the driver never depends on an executor. Returns the session's sticky error, or CUDA_SUCCESS with the lane locked when
// kind is ASYNC (heddle_order_end unlocks). A capturing stream, a native process, an unknown context: nothing is done.
CUresult heddle_order_begin(struct heddle_order *o, CUstream stream, enum heddle_native_kind kind, enum heddle_native_reason why);
// After it. `r` is the call's own result and is returned, or the sticky error.
CUresult heddle_order_end(struct heddle_order *o, CUresult r);

// Waits until every forwarded op of this process on the session (all lanes; of one context when ctx != NULL) is done. Used before
// frees, unloads, context destruction. Returns the sticky error or CUDA_SUCCESS. Never hangs: executor death is noticed.
CUresult heddle_order_drain(struct heddle_session *s, CUcontext ctx);
// Waits for native work of the current context too (cuCtxSynchronize underneath) – for memory that native copies may use.
CUresult heddle_order_drain_all(struct heddle_session *s);

// ---- stream-ordered memory (memory/) ----
// A point in a lane: everything submitted to `stream` so far. Native work included: a native tail is turned into `ready`.
// valid == 0: the stream has no lane (native, capturing, or the session is over); use heddle_order_drain_all instead.
struct heddle_point { uint32_t lane, seq; uint32_t valid; };
struct heddle_point heddle_order_point(struct heddle_session *s, CUstream stream);
bool heddle_order_reached(struct heddle_session *s, struct heddle_point p);   // lane.done ≥ seq
bool heddle_order_same_lane(struct heddle_session *s, struct heddle_point p, CUstream stream);
// Asks the executor to write the lane's done word for p (so that heddle_order_reached becomes true without a waiter).
void heddle_order_signal(struct heddle_session *s, struct heddle_point p);
CUresult heddle_order_wait(struct heddle_session *s, struct heddle_point p);

// Relax the calling thread's capture mode around our own driver calls; returns the mode to restore.
CUstreamCaptureMode heddle_capture_relax(void);
void heddle_capture_restore(CUstreamCaptureMode mode);

// ---- whole-process events ----
void heddle_order_context_gone(CUcontext ctx);            // destroy, primary reset or last release
void heddle_order_stream_gone(CUstream stream);
void heddle_order_finish_alone(struct heddle_session *s); // alone.c: run what the ring still holds, natively
#endif
