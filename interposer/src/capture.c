// Stream capture: capturing streams belong to the driver alone. Source: CUDA driver API, cuStreamBeginCapture and
// cuThreadExchangeStreamCaptureMode; design.md section 4 "Capture".
#include "lane.h"

bool heddle_stream_captures(CUstream stream) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  // For the legacy stream this fails while a blocking stream captures: then the call itself must fail too, by the driver's words.
  if (heddle_real.cuStreamIsCapturing == NULL) return false;
  return heddle_real.cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

CUstreamCaptureMode heddle_capture_relax(void) {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  // Only a capture in progress can be upset; without one the exchange would be two needless driver calls.
  if (atomic_load_explicit(&heddle_hooks_captures, memory_order_relaxed) == 0) return CU_STREAM_CAPTURE_MODE_RELAXED;
  if (heddle_real.cuThreadExchangeStreamCaptureMode != NULL) (void)heddle_real.cuThreadExchangeStreamCaptureMode(&mode);
  return mode;
}

void heddle_capture_restore(CUstreamCaptureMode mode) {
  if (mode != CU_STREAM_CAPTURE_MODE_RELAXED && heddle_real.cuThreadExchangeStreamCaptureMode != NULL)
    (void)heddle_real.cuThreadExchangeStreamCaptureMode(&mode);
}
