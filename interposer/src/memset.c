// Memsets run on the SMs, so they are forwarded; memory that the executor does not have is set natively, in order.
// Source: CUDA driver API, cuMemsetD8 and its family: asynchronous for the host unless the target is pinned host memory.
#include "hooks/hooks_gen.h"
#include "lane.h"
#include "ops.h"

int heddle_memset_encode(struct heddle_session *s, struct heddle_wire_memset *w, enum heddle_where *where, enum heddle_native_reason *why) {
  struct heddle_session *owner = NULL;
  size_t row, rows, extent;
  *why = HEDDLE_NATIVE_ARGUMENT;
  if (w->width == 0 || w->height == 0 || w->dst % w->element != 0 || __builtin_mul_overflow(w->width, (size_t)w->element, &row)) return HEDDLE_OP_NATIVE;
  if (w->height > 1 && (w->pitch < row || w->pitch % w->element != 0)) return HEDDLE_OP_NATIVE;
  if (w->height == 1) w->pitch = row;
  if (__builtin_mul_overflow(w->pitch, w->height - 1, &rows) || __builtin_add_overflow(rows, row, &extent)) return HEDDLE_OP_NATIVE;
  *where = heddle_memory_where(w->dst, extent, &owner);
  if (__builtin_expect(heddle_memory_freed(w->dst, extent), 0)) { // still mapped, here and in the executor: the driver's answer
    CUresult r = heddle_sticky(s);
    return (int)(r != CUDA_SUCCESS ? r : CUDA_ERROR_INVALID_VALUE);
  }
  if ((*where == HEDDLE_WHERE_DEVICE || *where == HEDDLE_WHERE_GLOBAL || *where == HEDDLE_WHERE_HOST) && owner == s) return HEDDLE_OP_OPEN;
  *why = *where == HEDDLE_WHERE_REGISTERED ? HEDDLE_NATIVE_HOST_REGISTERED : HEDDLE_NATIVE_FOREIGN_MEMORY;
  return HEDDLE_OP_NATIVE;
}

// HEDDLE_OP_OPEN: published (and complete, for host memory in a synchronous call). HEDDLE_OP_NATIVE: natively, *why says why.
static int forward(CUstream stream, CUdeviceptr dst, size_t pitch, uint32_t value, uint32_t element, size_t width, size_t height,
                   bool synchronous, enum heddle_native_reason *why) {
  struct heddle_lane *lane = heddle_lane_of(stream);
  struct heddle_wire_memset w = {.dst = dst, .pitch = pitch, .width = width, .height = height, .element = element, .value = value};
  enum heddle_where where;
  *why = HEDDLE_NATIVE_NONE;
  if (lane == NULL) return HEDDLE_OP_NATIVE;
  int judged = heddle_memset_encode(lane->session, &w, &where, why);
  if (judged != HEDDLE_OP_OPEN) return judged;
  if (__builtin_expect(where == HEDDLE_WHERE_DEVICE && heddle_session_live(lane->session) && heddle_session_sent(lane->session), 0)) {
    *why = HEDDLE_NATIVE_STRAGGLER;
    return HEDDLE_OP_NATIVE;
  }
  bool wait = synchronous && where == HEDDLE_WHERE_HOST;
  struct heddle_op op;
  int opened = heddle_op_open(&op, lane, HEDDLE_WIRE_KIND_MEMSET, wait ? HEDDLE_OP_WAITS : 0, sizeof(struct heddle_wire_memset));
  if (opened != HEDDLE_OP_OPEN) {
    *why = op.why;
    return opened;
  }
  *(struct heddle_wire_memset *)op.body = w;
  if (wait) return (int)heddle_op_publish_and_wait(&op);
  heddle_op_publish(&op);
  return HEDDLE_OP_OPEN;
}

#define MEMSET(stream, pitch, value, element, width, height, synchronous, CALL)                                                  \
  enum heddle_native_reason why;                                                                                                 \
  int forwarded = forward((stream), dstDevice, (pitch), (value), (element), (width), (height), (synchronous), &why);             \
  if (forwarded != HEDDLE_OP_NATIVE) return (CUresult)forwarded;                                                                 \
  return HEDDLE_NATIVE_CALL((stream), HEDDLE_NATIVE_ASYNC, why, CALL);

CUresult heddle_hook_cuMemsetD8_v2(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream implicit) {
  MEMSET(implicit, 0, uc, 1, N, 1, true, heddle_native_cuMemsetD8_v2(dstDevice, uc, N, implicit))
}
CUresult heddle_hook_cuMemsetD16_v2(CUdeviceptr dstDevice, unsigned short us, size_t N, CUstream implicit) {
  MEMSET(implicit, 0, us, 2, N, 1, true, heddle_native_cuMemsetD16_v2(dstDevice, us, N, implicit))
}
CUresult heddle_hook_cuMemsetD32_v2(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream implicit) {
  MEMSET(implicit, 0, ui, 4, N, 1, true, heddle_native_cuMemsetD32_v2(dstDevice, ui, N, implicit))
}
CUresult heddle_hook_cuMemsetD2D8_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width, size_t Height, CUstream implicit) {
  MEMSET(implicit, dstPitch, uc, 1, Width, Height, true, heddle_native_cuMemsetD2D8_v2(dstDevice, dstPitch, uc, Width, Height, implicit))
}
CUresult heddle_hook_cuMemsetD2D16_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width, size_t Height, CUstream implicit) {
  MEMSET(implicit, dstPitch, us, 2, Width, Height, true, heddle_native_cuMemsetD2D16_v2(dstDevice, dstPitch, us, Width, Height, implicit))
}
CUresult heddle_hook_cuMemsetD2D32_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width, size_t Height, CUstream implicit) {
  MEMSET(implicit, dstPitch, ui, 4, Width, Height, true, heddle_native_cuMemsetD2D32_v2(dstDevice, dstPitch, ui, Width, Height, implicit))
}
CUresult heddle_hook_cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream) {
  MEMSET(hStream, 0, uc, 1, N, 1, false, heddle_real.cuMemsetD8Async(dstDevice, uc, N, hStream))
}
CUresult heddle_hook_cuMemsetD16Async(CUdeviceptr dstDevice, unsigned short us, size_t N, CUstream hStream) {
  MEMSET(hStream, 0, us, 2, N, 1, false, heddle_real.cuMemsetD16Async(dstDevice, us, N, hStream))
}
CUresult heddle_hook_cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream) {
  MEMSET(hStream, 0, ui, 4, N, 1, false, heddle_real.cuMemsetD32Async(dstDevice, ui, N, hStream))
}
CUresult heddle_hook_cuMemsetD2D8Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width, size_t Height, CUstream hStream) {
  MEMSET(hStream, dstPitch, uc, 1, Width, Height, false, heddle_real.cuMemsetD2D8Async(dstDevice, dstPitch, uc, Width, Height, hStream))
}
CUresult heddle_hook_cuMemsetD2D16Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width, size_t Height, CUstream hStream) {
  MEMSET(hStream, dstPitch, us, 2, Width, Height, false, heddle_real.cuMemsetD2D16Async(dstDevice, dstPitch, us, Width, Height, hStream))
}
CUresult heddle_hook_cuMemsetD2D32Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width, size_t Height, CUstream hStream) {
  MEMSET(hStream, dstPitch, ui, 4, Width, Height, false, heddle_real.cuMemsetD2D32Async(dstDevice, dstPitch, ui, Width, Height, hStream))
}
