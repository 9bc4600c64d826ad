// Streams come and go. A lane is made when its stream is first used, so creation only passes; destruction retires the lane and
// waits for nothing. Source: CUDA driver API, cuStreamDestroy.
#include "hooks/hooks_gen.h"
#include "lane.h"

CUresult heddle_hook_cuStreamCreate(CUstream *phStream, unsigned int Flags) { return heddle_real.cuStreamCreate(phStream, Flags); }

CUresult heddle_hook_cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority) {
  return heddle_real.cuStreamCreateWithPriority(phStream, flags, priority);
}

CUresult heddle_hook_cuGreenCtxStreamCreate(CUstream *phStream, CUgreenCtx greenCtx, unsigned int flags, int priority) {
  return heddle_real.cuGreenCtxStreamCreate(phStream, greenCtx, flags, priority);
}

CUresult heddle_hook_cuStreamDestroy_v2(CUstream hStream) {
  // Before the real call: afterwards another thread may already have got the same handle for a new stream.
  heddle_order_stream_gone(hStream);
  return heddle_real.cuStreamDestroy_v2(hStream);
}
