// Copies. The executor makes every copy whose two ends it can reach: device memory of the windows, host memory that we
// allocated; small pageable host buffers travel inside the record. What is left (large pageable or registered host memory, arrays,
// managed memory, other devices) the client's copy engines do, in order. Source: CUDA driver API, cuMemcpy* and "API
// synchronization behavior".
#include <string.h>

#include "hooks/hooks_gen.h"
#include "lane.h"
#include "ops.h"

// What the call says about an address of which we know nothing.
enum end { DEVICE_END, HOST_END, ANY_END };

struct copy {
  CUstream stream;
  bool synchronous;
  enum heddle_native_reason why;  // results for the native path
  enum heddle_native_kind kind;
};

// ---- where the two ends are ----

enum reach { NOT_OURS, IN_EXECUTOR, SHARED_HOST, PAGEABLE, REGISTERED };

static enum reach reach_of(struct heddle_session *s, CUdeviceptr address, size_t bytes, enum end end, bool *global) {
  struct heddle_session *owner = NULL;
  enum heddle_where where = heddle_memory_where(address, bytes, &owner);
  *global = where == HEDDLE_WHERE_GLOBAL;
  switch (where) {
  case HEDDLE_WHERE_DEVICE:
  case HEDDLE_WHERE_GLOBAL: return owner == s ? IN_EXECUTOR : NOT_OURS;
  case HEDDLE_WHERE_HOST: return owner == s ? SHARED_HOST : NOT_OURS;
  case HEDDLE_WHERE_REGISTERED: return REGISTERED;
  case HEDDLE_WHERE_UNKNOWN: {
    unsigned int type;
    if (end == DEVICE_END) return NOT_OURS;
    if (end == HOST_END) return PAGEABLE;
    // A unified call: whatever the driver knows nothing about is pageable host memory.
    return heddle_real.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address) == CUDA_SUCCESS ? NOT_OURS : PAGEABLE;
  }
  default: return NOT_OURS;
  }
}

// The executor can make the copy. At least one end is on the device: between two host buffers the driver copies otherwise.
static bool reached(enum reach to, enum reach from) {
  return (to == IN_EXECUTOR || to == SHARED_HOST) && (from == IN_EXECUTOR || from == SHARED_HOST) && (to == IN_EXECUTOR || from == IN_EXECUTOR);
}

// ---- one contiguous copy ----

static int publish_copy(struct heddle_lane *lane, CUdeviceptr dst, CUdeviceptr src, size_t bytes, bool wait) {
  struct heddle_op op;
  int opened = heddle_op_open(&op, lane, HEDDLE_WIRE_KIND_COPY, wait ? HEDDLE_OP_WAITS : 0, sizeof(struct heddle_wire_copy));
  if (opened != HEDDLE_OP_OPEN) return opened;
  *(struct heddle_wire_copy *)op.body = (struct heddle_wire_copy){.dst = dst, .src = src, .bytes = bytes};
  if (wait) return (int)heddle_op_publish_and_wait(&op);
  heddle_op_publish(&op);
  return HEDDLE_OP_OPEN;
}

// Host to device with the bytes in the record: the source may be used again when this returns. A synchronous copy also waits for
// its end: programs take what it wrote for visible in every stream (the driver promises less, and keeps it nearly always).
static int publish_put(struct heddle_lane *lane, CUdeviceptr dst, const void *src, size_t bytes, bool wait) {
  for (size_t at = 0; at < bytes;) {
    size_t n = bytes - at < HEDDLE_WIRE_MAX_INLINE_BYTES ? bytes - at : HEDDLE_WIRE_MAX_INLINE_BYTES;
    struct heddle_op op;
    bool last = wait && at + n == bytes;
    int opened = heddle_op_open(&op, lane, HEDDLE_WIRE_KIND_PUT, last ? HEDDLE_OP_WAITS : 0,
                                (uint32_t)(sizeof(struct heddle_wire_inline_copy) + n));
    if (opened != HEDDLE_OP_OPEN) return opened;
    *(struct heddle_wire_inline_copy *)op.body = (struct heddle_wire_inline_copy){.address = dst + at, .bytes = n};
    memcpy(op.body + sizeof(struct heddle_wire_inline_copy), (const unsigned char *)src + at, n);
    if (last) return (int)heddle_op_publish_and_wait(&op);
    heddle_op_publish(&op);
    at += n;
  }
  return HEDDLE_OP_OPEN;
}

// Device to host through the record; complete when this returns.
static int publish_get(struct heddle_lane *lane, void *dst, CUdeviceptr src, size_t bytes) {
  struct heddle_session *s = lane->session;
  for (size_t at = 0; at < bytes;) {
    size_t n = bytes - at < HEDDLE_WIRE_MAX_INLINE_BYTES ? bytes - at : HEDDLE_WIRE_MAX_INLINE_BYTES;
    struct heddle_op op;
    int opened = heddle_op_open(&op, lane, HEDDLE_WIRE_KIND_GET, HEDDLE_OP_WAITS,
                                (uint32_t)(sizeof(struct heddle_wire_inline_copy) + n));
    if (opened != HEDDLE_OP_OPEN) return opened;
    *(struct heddle_wire_inline_copy *)op.body = (struct heddle_wire_inline_copy){.address = src + at, .bytes = n};
    CUresult r = heddle_op_publish_and_wait(&op);
    if (r == CUDA_SUCCESS) memcpy((unsigned char *)dst + at, op.body + sizeof(struct heddle_wire_inline_copy), n);
    heddle_fetch_release(s, op.position);
    if (r != CUDA_SUCCESS) return (int)r;
    at += n;
  }
  return HEDDLE_OP_OPEN;
}

// What the driver says to a device address in freed memory, which is still mapped here and in the executor; HEDDLE_OP_OPEN: nothing.
static int freed_end(struct heddle_lane *lane, CUdeviceptr address, size_t bytes, enum end end) {
  if (__builtin_expect(end == HOST_END || !heddle_memory_freed(address, bytes), 1)) return HEDDLE_OP_OPEN;
  CUresult r = heddle_sticky(lane->session);
  return (int)(r != CUDA_SUCCESS ? r : CUDA_ERROR_INVALID_VALUE);
}

// HEDDLE_OP_OPEN: done as the call promises. HEDDLE_OP_NATIVE: natively, c->kind and c->why say how. Otherwise a CUresult.
static int forward(struct copy *c, CUdeviceptr dst, enum end dst_end, CUdeviceptr src, enum end src_end, size_t bytes) {
  struct heddle_lane *lane = heddle_lane_of(c->stream);
  c->why = HEDDLE_NATIVE_NONE;
  c->kind = c->synchronous ? HEDDLE_NATIVE_BLOCKING : HEDDLE_NATIVE_ASYNC;
  if (lane == NULL) return HEDDLE_OP_NATIVE;
  if (bytes == 0) { // the driver judges the rest of the call
    c->why = HEDDLE_NATIVE_ARGUMENT;
    return HEDDLE_OP_NATIVE;
  }
  bool to_global, from_global;
  enum reach to = reach_of(lane->session, dst, bytes, dst_end, &to_global), from = reach_of(lane->session, src, bytes, src_end, &from_global);
  int r;
  if ((r = freed_end(lane, dst, bytes, dst_end)) != HEDDLE_OP_OPEN || (r = freed_end(lane, src, bytes, src_end)) != HEDDLE_OP_OPEN) return r;
  r = HEDDLE_OP_NATIVE;
  if (__builtin_expect(to == IN_EXECUTOR && from == IN_EXECUTOR && !to_global && !from_global && heddle_session_live(lane->session) &&
                           heddle_session_sent(lane->session),
                       0)) {
    c->why = HEDDLE_NATIVE_STRAGGLER;
    return r;
  }
  if (reached(to, from))
    r = publish_copy(lane, dst, src, bytes, c->synchronous && (to == SHARED_HOST || from == SHARED_HOST));
  else if (to == IN_EXECUTOR && (from == PAGEABLE || from == REGISTERED) && (to_global || bytes <= HEDDLE_WIRE_MAX_INLINE_BYTES))
    r = publish_put(lane, dst, (const void *)(uintptr_t)src, bytes, c->synchronous);
  else if (from == IN_EXECUTOR && (from_global || bytes <= HEDDLE_WIRE_MAX_INLINE_BYTES) &&
           (to == PAGEABLE || (to == REGISTERED && (c->synchronous || from_global))))
    r = publish_get(lane, (void *)(uintptr_t)dst, src, bytes);
  if (r != HEDDLE_OP_NATIVE) return r;
  if (to == IN_EXECUTOR && (from == PAGEABLE || from == REGISTERED)) heddle_announce(lane); // what works on it is about to follow
  if (to == PAGEABLE || from == PAGEABLE) c->kind = HEDDLE_NATIVE_BLOCKING; // the driver stages it, and may wait for the stream
  if (to == NOT_OURS || from == NOT_OURS) c->why = HEDDLE_NATIVE_FOREIGN_MEMORY;
  return HEDDLE_OP_NATIVE;
}

#define COPY(at_stream, is_synchronous, dst, dst_end, src, src_end, bytes, CALL)                           \
  struct copy c = {.stream = (at_stream), .synchronous = (is_synchronous)};                               \
  int forwarded = forward(&c, (CUdeviceptr)(dst), dst_end, (CUdeviceptr)(src), src_end, (bytes));          \
  if (forwarded != HEDDLE_OP_NATIVE) return (CUresult)forwarded;                                          \
  return HEDDLE_NATIVE_CALL((at_stream), c.kind, c.why, CALL);

CUresult heddle_hook_cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream implicit) {
  COPY(implicit, true, dst, ANY_END, src, ANY_END, ByteCount, heddle_native_cuMemcpy(dst, src, ByteCount, implicit))
}
CUresult heddle_hook_cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream) {
  COPY(hStream, false, dst, ANY_END, src, ANY_END, ByteCount, heddle_real.cuMemcpyAsync(dst, src, ByteCount, hStream))
}
CUresult heddle_hook_cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream implicit) {
  COPY(implicit, true, dstDevice, DEVICE_END, (uintptr_t)srcHost, HOST_END, ByteCount,
       heddle_native_cuMemcpyHtoD_v2(dstDevice, srcHost, ByteCount, implicit))
}
CUresult heddle_hook_cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream) {
  COPY(hStream, false, dstDevice, DEVICE_END, (uintptr_t)srcHost, HOST_END, ByteCount,
       heddle_real.cuMemcpyHtoDAsync_v2(dstDevice, srcHost, ByteCount, hStream))
}
CUresult heddle_hook_cuMemcpyDtoH_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream implicit) {
  COPY(implicit, true, (uintptr_t)dstHost, HOST_END, srcDevice, DEVICE_END, ByteCount,
       heddle_native_cuMemcpyDtoH_v2(dstHost, srcDevice, ByteCount, implicit))
}
CUresult heddle_hook_cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream) {
  COPY(hStream, false, (uintptr_t)dstHost, HOST_END, srcDevice, DEVICE_END, ByteCount,
       heddle_real.cuMemcpyDtoHAsync_v2(dstHost, srcDevice, ByteCount, hStream))
}
CUresult heddle_hook_cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount, CUstream implicit) {
  COPY(implicit, true, dstDevice, DEVICE_END, srcDevice, DEVICE_END, ByteCount,
       heddle_native_cuMemcpyDtoD_v2(dstDevice, srcDevice, ByteCount, implicit))
}
CUresult heddle_hook_cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream) {
  COPY(hStream, false, dstDevice, DEVICE_END, srcDevice, DEVICE_END, ByteCount,
       heddle_real.cuMemcpyDtoDAsync_v2(dstDevice, srcDevice, ByteCount, hStream))
}
// Both ends in one window: the contexts are the same device's. Anything else is not ours to reach.
CUresult heddle_hook_cuMemcpyPeer(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount,
                                  CUstream implicit) {
  COPY(implicit, true, dstDevice, DEVICE_END, srcDevice, DEVICE_END, ByteCount,
       heddle_native_cuMemcpyPeer(dstDevice, dstContext, srcDevice, srcContext, ByteCount, implicit))
}
CUresult heddle_hook_cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount,
                                       CUstream hStream) {
  COPY(hStream, false, dstDevice, DEVICE_END, srcDevice, DEVICE_END, ByteCount,
       heddle_real.cuMemcpyPeerAsync(dstDevice, dstContext, srcDevice, srcContext, ByteCount, hStream))
}

// ---- boxes ----

// One end of a two- or three-dimensional copy: address of its first byte, distances, and all bytes between first and last.
struct side {
  CUdeviceptr first;
  size_t pitch, rows, extent;
  enum end end;
};

// False: an array, or numbers that the driver must judge.
static bool side_of(struct side *s, CUmemorytype type, const void *host, CUdeviceptr device, size_t pitch, size_t rows, size_t x, size_t y,
                    size_t z, size_t lod, size_t width, size_t height, size_t depth) {
  size_t plane, skip, a, b, end;
  CUdeviceptr base;
  switch (type) {
  case CU_MEMORYTYPE_HOST: base = (CUdeviceptr)(uintptr_t)host; s->end = HOST_END; break;
  case CU_MEMORYTYPE_DEVICE: base = device; s->end = DEVICE_END; break;
  case CU_MEMORYTYPE_UNIFIED: base = device; s->end = ANY_END; break;
  default: return false;
  }
  if (lod != 0 || __builtin_add_overflow(x, width, &end)) return false;
  if ((height > 1 || depth > 1 || y != 0 || z != 0) && pitch < end) return false;
  if (__builtin_add_overflow(y, height, &a)) return false;
  if ((depth > 1 || z != 0) && rows < a) return false;
  if (pitch == 0) pitch = end;
  if (rows < a) rows = a;
  if (__builtin_mul_overflow(pitch, rows, &plane) || __builtin_mul_overflow(plane, z, &a) || __builtin_mul_overflow(pitch, y, &b)) return false;
  if (__builtin_add_overflow(a, b, &skip) || __builtin_add_overflow(skip, x, &skip)) return false;
  if (__builtin_mul_overflow(plane, depth - 1, &a) || __builtin_mul_overflow(pitch, height - 1, &b)) return false;
  if (__builtin_add_overflow(a, b, &s->extent) || __builtin_add_overflow(s->extent, width, &s->extent)) return false;
  s->first = base + skip;
  s->pitch = pitch;
  s->rows = rows;
  return true;
}

// Row by row, for device globals, which only the executor has, and host memory, which only this process has.
static int forward_rows(struct copy *c, const struct side *dst, const struct side *src, size_t width, size_t height, size_t depth) {
  for (size_t z = 0; z < depth; z++)
    for (size_t y = 0; y < height; y++) {
      int r = forward(c, dst->first + (z * dst->rows + y) * dst->pitch, dst->end, src->first + (z * src->rows + y) * src->pitch, src->end, width);
      if (r != HEDDLE_OP_OPEN) return r;
    }
  return HEDDLE_OP_OPEN;
}

// Both ends of a box. False: as side_of.
static bool sides_of(struct side *dst, struct side *src, const CUDA_MEMCPY3D *p) {
  size_t width = p->WidthInBytes, height = p->Height, depth = p->Depth;
  return side_of(dst, p->dstMemoryType, p->dstHost, p->dstDevice, p->dstPitch, p->dstHeight, p->dstXInBytes, p->dstY, p->dstZ, p->dstLOD, width, height, depth) &&
         side_of(src, p->srcMemoryType, p->srcHost, p->srcDevice, p->srcPitch, p->srcHeight, p->srcXInBytes, p->srcY, p->srcZ, p->srcLOD, width, height, depth);
}

static struct heddle_wire_copy3d body_of(const struct side *dst, const struct side *src, const CUDA_MEMCPY3D *p) {
  return (struct heddle_wire_copy3d){.dst = dst->first, .dst_pitch = dst->pitch, .dst_height = dst->rows,
                                     .src = src->first, .src_pitch = src->pitch, .src_height = src->rows,
                                     .width = p->WidthInBytes, .height = p->Height, .depth = p->Depth};
}

bool heddle_copy_encode(struct heddle_session *s, const CUDA_MEMCPY3D *p, struct heddle_copy_body *body, enum heddle_native_reason *why) {
  struct side dst, src;
  bool global;
  memset(body, 0, sizeof *body);
  *why = HEDDLE_NATIVE_ARGUMENT;
  if (p->WidthInBytes == 0 || p->Height == 0 || p->Depth == 0) return false;
  if (p->srcMemoryType == CU_MEMORYTYPE_ARRAY || p->dstMemoryType == CU_MEMORYTYPE_ARRAY) {
    struct heddle_session *owner;
    *why = HEDDLE_NATIVE_FOREIGN_MEMORY;
    body->left = true;
    body->apart = (p->srcMemoryType == CU_MEMORYTYPE_ARRAY || heddle_memory_where(p->srcDevice, 1, &owner) != HEDDLE_WHERE_GLOBAL) &&
                  (p->dstMemoryType == CU_MEMORYTYPE_ARRAY || heddle_memory_where(p->dstDevice, 1, &owner) != HEDDLE_WHERE_GLOBAL);
  }
  if (!sides_of(&dst, &src, p)) return false;
  *why = HEDDLE_NATIVE_ARGUMENT;
  if ((dst.end != HOST_END && heddle_memory_freed(dst.first, dst.extent)) || (src.end != HOST_END && heddle_memory_freed(src.first, src.extent))) return false;
  bool from_global;
  enum reach to = reach_of(s, dst.first, dst.extent, dst.end, &global), from = reach_of(s, src.first, src.extent, src.end, &from_global);
  *why = to == REGISTERED || from == REGISTERED ? HEDDLE_NATIVE_HOST_REGISTERED : HEDDLE_NATIVE_FOREIGN_MEMORY;
  body->apart = !global && !from_global; // the address of a global is the executor's
  body->left = to == NOT_OURS || from == NOT_OURS;
  if (!reached(to, from)) return false;
  if (p->Height == 1 && p->Depth == 1) {
    body->kind = HEDDLE_WIRE_KIND_COPY;
    body->copy = (struct heddle_wire_copy){.dst = dst.first, .src = src.first, .bytes = p->WidthInBytes};
  } else {
    body->kind = HEDDLE_WIRE_KIND_COPY3D;
    body->copy3d = body_of(&dst, &src, p);
  }
  return true;
}

static int forward_box(struct copy *c, const CUDA_MEMCPY3D *p) {
  struct heddle_lane *lane = heddle_lane_of(c->stream);
  struct side dst, src;
  size_t width = p->WidthInBytes, height = p->Height, depth = p->Depth;
  c->why = HEDDLE_NATIVE_NONE;
  c->kind = c->synchronous ? HEDDLE_NATIVE_BLOCKING : HEDDLE_NATIVE_ASYNC;
  if (lane == NULL) return HEDDLE_OP_NATIVE;
  c->why = HEDDLE_NATIVE_ARGUMENT;
  if (width == 0 || height == 0 || depth == 0) return HEDDLE_OP_NATIVE;
  if (p->srcMemoryType == CU_MEMORYTYPE_ARRAY || p->dstMemoryType == CU_MEMORYTYPE_ARRAY) c->why = HEDDLE_NATIVE_FOREIGN_MEMORY;
  bool plain = sides_of(&dst, &src, p);
  if (!plain) {
    if (p->srcMemoryType == CU_MEMORYTYPE_HOST || p->dstMemoryType == CU_MEMORYTYPE_HOST) c->kind = HEDDLE_NATIVE_BLOCKING;
    return HEDDLE_OP_NATIVE;
  }
  if (height == 1 && depth == 1) return forward(c, dst.first, dst.end, src.first, src.end, width);
  int r;
  if ((r = freed_end(lane, dst.first, dst.extent, dst.end)) != HEDDLE_OP_OPEN || (r = freed_end(lane, src.first, src.extent, src.end)) != HEDDLE_OP_OPEN) return r;
  bool to_global, from_global;
  enum reach to = reach_of(lane->session, dst.first, dst.extent, dst.end, &to_global), from = reach_of(lane->session, src.first, src.extent, src.end, &from_global);
  if (__builtin_expect(to == IN_EXECUTOR && from == IN_EXECUTOR && !to_global && !from_global && heddle_session_live(lane->session) &&
                           heddle_session_sent(lane->session),
                       0)) {
    c->why = HEDDLE_NATIVE_STRAGGLER;
    return HEDDLE_OP_NATIVE;
  }
  if (reached(to, from)) {
    bool wait = c->synchronous && (to == SHARED_HOST || from == SHARED_HOST);
    struct heddle_op op;
    int opened = heddle_op_open(&op, lane, HEDDLE_WIRE_KIND_COPY3D, wait ? HEDDLE_OP_WAITS : 0, sizeof(struct heddle_wire_copy3d));
    if (opened == HEDDLE_OP_NATIVE) c->why = op.why;
    if (opened != HEDDLE_OP_OPEN) return opened;
    *(struct heddle_wire_copy3d *)op.body = body_of(&dst, &src, p);
    if (wait) return (int)heddle_op_publish_and_wait(&op);
    heddle_op_publish(&op);
    return HEDDLE_OP_OPEN;
  }
  if ((to_global && (from == PAGEABLE || from == REGISTERED)) || (from_global && (to == PAGEABLE || to == REGISTERED)))
    return forward_rows(c, &dst, &src, width, height, depth);
  c->why = to == NOT_OURS || from == NOT_OURS ? HEDDLE_NATIVE_FOREIGN_MEMORY : HEDDLE_NATIVE_NONE;
  if (to == PAGEABLE || from == PAGEABLE) c->kind = HEDDLE_NATIVE_BLOCKING;
  return HEDDLE_OP_NATIVE;
}

static CUDA_MEMCPY3D box_of(const CUDA_MEMCPY2D *p) {
  return (CUDA_MEMCPY3D){.srcXInBytes = p->srcXInBytes, .srcY = p->srcY, .srcMemoryType = p->srcMemoryType, .srcHost = p->srcHost,
                         .srcDevice = p->srcDevice, .srcArray = p->srcArray, .srcPitch = p->srcPitch,
                         .dstXInBytes = p->dstXInBytes, .dstY = p->dstY, .dstMemoryType = p->dstMemoryType, .dstHost = p->dstHost,
                         .dstDevice = p->dstDevice, .dstArray = p->dstArray, .dstPitch = p->dstPitch,
                         .WidthInBytes = p->WidthInBytes, .Height = p->Height, .Depth = 1};
}

#define BOX2(at_stream, is_synchronous, CALL)                                          \
  struct copy c = {.stream = (at_stream), .synchronous = (is_synchronous), .kind = HEDDLE_NATIVE_ASYNC, .why = HEDDLE_NATIVE_ARGUMENT}; \
  if (pCopy != NULL) {                                                                 \
    CUDA_MEMCPY3D box = box_of(pCopy);                                                 \
    int forwarded = forward_box(&c, &box);                                             \
    if (forwarded != HEDDLE_OP_NATIVE) return (CUresult)forwarded;                     \
  }                                                                                    \
  return HEDDLE_NATIVE_CALL((at_stream), c.kind, c.why, CALL);

#define BOX3(at_stream, is_synchronous, CALL)                                          \
  struct copy c = {.stream = (at_stream), .synchronous = (is_synchronous), .kind = HEDDLE_NATIVE_ASYNC, .why = HEDDLE_NATIVE_ARGUMENT}; \
  if (pCopy != NULL) {                                                                 \
    int forwarded = forward_box(&c, pCopy);                                            \
    if (forwarded != HEDDLE_OP_NATIVE) return (CUresult)forwarded;                     \
  }                                                                                    \
  return HEDDLE_NATIVE_CALL((at_stream), c.kind, c.why, CALL);

CUresult heddle_hook_cuMemcpy2D_v2(const CUDA_MEMCPY2D *pCopy, CUstream implicit) { BOX2(implicit, true, heddle_native_cuMemcpy2D_v2(pCopy, implicit)) }
CUresult heddle_hook_cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *pCopy, CUstream implicit) { BOX2(implicit, true, heddle_native_cuMemcpy2DUnaligned_v2(pCopy, implicit)) }
CUresult heddle_hook_cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *pCopy, CUstream hStream) { BOX2(hStream, false, heddle_real.cuMemcpy2DAsync_v2(pCopy, hStream)) }
CUresult heddle_hook_cuMemcpy3D_v2(const CUDA_MEMCPY3D *pCopy, CUstream implicit) { BOX3(implicit, true, heddle_native_cuMemcpy3D_v2(pCopy, implicit)) }
CUresult heddle_hook_cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *pCopy, CUstream hStream) { BOX3(hStream, false, heddle_real.cuMemcpy3DAsync_v2(pCopy, hStream)) }

// ---- always native, in order: several devices, or lists whose parts may be anywhere ----

CUresult heddle_hook_cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER *pCopy, CUstream implicit) {
  return HEDDLE_NATIVE_CALL(implicit, HEDDLE_NATIVE_BLOCKING, HEDDLE_NATIVE_FOREIGN_MEMORY, heddle_native_cuMemcpy3DPeer(pCopy, implicit));
}
CUresult heddle_hook_cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream) {
  return HEDDLE_NATIVE_CALL(hStream, HEDDLE_NATIVE_ASYNC, HEDDLE_NATIVE_FOREIGN_MEMORY, heddle_real.cuMemcpy3DPeerAsync(pCopy, hStream));
}
CUresult heddle_hook_cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count, CUmemcpyAttributes *attrs,
                                        size_t *attrsIdxs, size_t numAttrs, size_t *failIdx, CUstream hStream) {
  return HEDDLE_NATIVE_CALL(hStream, HEDDLE_NATIVE_BLOCKING, HEDDLE_NATIVE_FOREIGN_MEMORY,
                            heddle_real.cuMemcpyBatchAsync(dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, failIdx, hStream));
}
CUresult heddle_hook_cuMemcpyBatchAsync_v2(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count, CUmemcpyAttributes *attrs,
                                           size_t *attrsIdxs, size_t numAttrs, CUstream hStream) {
  return HEDDLE_NATIVE_CALL(hStream, HEDDLE_NATIVE_BLOCKING, HEDDLE_NATIVE_FOREIGN_MEMORY,
                            heddle_real.cuMemcpyBatchAsync_v2(dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, hStream));
}
CUresult heddle_hook_cuMemcpy3DBatchAsync(size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, size_t *failIdx, unsigned long long flags, CUstream hStream) {
  return HEDDLE_NATIVE_CALL(hStream, HEDDLE_NATIVE_BLOCKING, HEDDLE_NATIVE_FOREIGN_MEMORY,
                            heddle_real.cuMemcpy3DBatchAsync(numOps, opList, failIdx, flags, hStream));
}
CUresult heddle_hook_cuMemcpy3DBatchAsync_v2(size_t numOps, CUDA_MEMCPY3D_BATCH_OP *opList, unsigned long long flags, CUstream hStream) {
  return HEDDLE_NATIVE_CALL(hStream, HEDDLE_NATIVE_BLOCKING, HEDDLE_NATIVE_FOREIGN_MEMORY,
                            heddle_real.cuMemcpy3DBatchAsync_v2(numOps, opList, flags, hStream));
}
