// Stream capture: capturing streams belong to the driver alone. Source: CUDA driver API, cuStreamBeginCapture and
// cuThreadExchangeStreamCaptureMode; design.md section 4 "Capture".
#include "lane.h"

bool heddle_stream_captures(CUstream stream) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  // For the legacy stream this fails while a blocking stream captures: then the call itself must fail too, by the driver's words.
  if (heddle_real.cuStreamIsCapturing == NULL) return false;
  return heddle_real.cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

struct heddle_lane *heddle_capture_enter(CUstream stream) {
  struct heddle_lane *lane = heddle_lane_of(stream);
  if (lane != NULL) heddle_lane_lock(lane);
  return lane;
}

void heddle_capture_entered(struct heddle_lane *lane) {
  if (lane != NULL) heddle_mutex_unlock(lane->lock);
}

// Also while no stream captures: another thread may begin a capture before the call that follows.
CUstreamCaptureMode heddle_capture_relax(void) {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  if (heddle_real.cuThreadExchangeStreamCaptureMode != NULL) (void)heddle_real.cuThreadExchangeStreamCaptureMode(&mode);
  return mode;
}

void heddle_capture_restore(CUstreamCaptureMode mode) {
  if (mode != CU_STREAM_CAPTURE_MODE_RELAXED && heddle_real.cuThreadExchangeStreamCaptureMode != NULL)
    (void)heddle_real.cuThreadExchangeStreamCaptureMode(&mode);
}
