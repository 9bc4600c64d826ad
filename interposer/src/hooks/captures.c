// The captures of this process: counted, so that the launch path asks the driver about a stream only while one exists, and begun when
// nothing of ours is half done in the stream. Source: CUDA driver API, cuStreamBeginCapture, cuStreamEndCapture.
#include "../config.h"
#include "../lane.h"
#include "../log.h"
#include "hooks.h"

// Streams whose captures are watched for the log, and whether they were said to be invalid already.
static struct {
  _Atomic(CUstream) stream;
  _Atomic bool invalid;
} watched[16];

static void watch(CUstream stream) {
  for (unsigned i = 0; i < sizeof watched / sizeof *watched; i++) {
    CUstream none = NULL;
    if (!atomic_compare_exchange_strong(&watched[i].stream, &none, stream)) continue;
    atomic_store(&watched[i].invalid, false);
    return;
  }
}

static void unwatch(CUstream stream) {
  for (unsigned i = 0; i < sizeof watched / sizeof *watched; i++)
    if (atomic_compare_exchange_strong(&watched[i].stream, &(CUstream){stream}, NULL)) return;
}

void heddle_hooks_captured(const char *symbol, CUresult result) {
  if (heddle_config()->log_level < HEDDLE_LOG_DEBUG) return;
  if (result != CUDA_SUCCESS) heddle_log(HEDDLE_LOG_DEBUG, "%s returned %d while a stream captures", symbol, (int)result);
  for (unsigned i = 0; i < sizeof watched / sizeof *watched; i++) {
    CUstream stream = atomic_load(&watched[i].stream);
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (!stream || atomic_load(&watched[i].invalid) || heddle_real.cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS) continue;
    if (status != CU_STREAM_CAPTURE_STATUS_INVALIDATED || atomic_exchange(&watched[i].invalid, true)) continue;
    heddle_log(HEDDLE_LOG_DEBUG, "the capture of stream %p is invalid after %s", (void *)stream, symbol);
  }
}

// The count goes up before the driver knows of the capture and down after it has forgotten it. Between the two nothing of ours goes
// on in the stream: what another thread has begun there is through, and what comes later finds that the stream captures.
static struct heddle_lane *begins(CUstream stream) {
  atomic_fetch_add_explicit(&heddle_hooks_captures, 1, memory_order_acq_rel);
  return heddle_capture_enter(stream);
}
static CUresult begun(struct heddle_lane *lane, CUstream stream, CUresult r) {
  heddle_capture_entered(lane);
  if (r != CUDA_SUCCESS) atomic_fetch_sub_explicit(&heddle_hooks_captures, 1, memory_order_acq_rel);
  else watch(stream);
  return r;
}

CUresult heddle_hook_cuStreamBeginCapture(CUstream stream) {
  struct heddle_lane *lane = begins(stream);
  return begun(lane, stream, heddle_real.cuStreamBeginCapture(stream));
}

CUresult heddle_hook_cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
  struct heddle_lane *lane = begins(stream);
  return begun(lane, stream, heddle_real.cuStreamBeginCapture_v2(stream, mode));
}

CUresult heddle_hook_cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode *dependencies,
                                                 const CUgraphEdgeData *edges, size_t count, CUstreamCaptureMode mode) {
  struct heddle_lane *lane = begins(stream);
  return begun(lane, stream, heddle_real.cuStreamBeginCaptureToGraph(stream, graph, dependencies, edges, count, mode));
}

static bool capturing(CUstream stream) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  return heddle_real.cuStreamIsCapturing && heddle_real.cuStreamIsCapturing(stream, &status) == CUDA_SUCCESS &&
         status != CU_STREAM_CAPTURE_STATUS_NONE;
}

CUresult heddle_hook_cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  // An error ends the capture too, or it does not (wrong thread, unjoined work): the driver says which.
  bool before = capturing(stream);
  CUresult r = heddle_real.cuStreamEndCapture(stream, graph);
  if (before && !capturing(stream)) {
    unwatch(stream);
    atomic_fetch_sub_explicit(&heddle_hooks_captures, 1, memory_order_acq_rel);
  }
  return r;
}
