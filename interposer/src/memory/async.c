// Stream-ordered memory. A freed block serves its own lane at once, because what that lane does next comes after what it did
// before; other lanes get it when the lane's done word has passed the point of the free. Source: CUDA driver API,
// "Stream Ordered Memory Allocator".
#include <stdlib.h>

#include "../hooks/hooks.h"
#include "../lane.h"
#include "inner.h"

#define KEEP (UINT64_C(64) << 20) // free bytes kept whatever the release threshold says: the next allocation wants them

static bool capturing(CUstream stream) {
  if (atomic_load_explicit(&heddle_hooks_captures, memory_order_acquire) == 0) return false;
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  // An error is the legacy stream beside a capture, or a bad handle: the driver's to judge.
  return heddle_real.cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

static void block_release(struct heddle_memory *m, struct heddle_block *b) { heddle_heap_free(&m->stream, b); }

void heddle_stream_collect_locked(struct heddle_memory *m) {
  struct heddle_pending_list *l = &m->pending;
  size_t kept = 0;
  for (size_t i = 0; i < l->count; i++) {
    if (heddle_order_reached(m->session, l->entries[i].point)) block_release(m, l->entries[i].block);
    else l->entries[kept++] = l->entries[i];
  }
  l->count = kept;
}

struct heddle_pending_list heddle_stream_detach_locked(struct heddle_memory *m) {
  struct heddle_pending_list l = m->pending;
  m->pending = (struct heddle_pending_list){0};
  return l;
}

void heddle_stream_release_locked(struct heddle_memory *m, struct heddle_pending_list l) {
  for (size_t i = 0; i < l.count; i++) block_release(m, l.entries[i].block);
  free(l.entries);
}

void heddle_memory_collect(struct heddle_session *s) {
  struct heddle_memory *m = heddle_memory_of(s);
  if (!m) return;
  pthread_mutex_lock(&m->lock);
  heddle_stream_collect_locked(m);
  pthread_mutex_unlock(&m->lock);
}

// Wholly free segments beyond what may be kept (lock held).
static void shed(struct heddle_memory *m, struct heddle_segment **drop) {
  uint64_t keep = m->stream_keep > KEEP ? m->stream_keep : KEEP;
  for (struct heddle_span *span = m->stream.spans, *next; span && m->stream.total - m->stream.used > keep; span = next) {
    next = span->after;
    if (!span->used) heddle_segment_retire(m, &m->stream, span, drop);
  }
}

// A pending block of the stream's own lane, newest first (lock held).
static struct heddle_block *take_own(struct heddle_memory *m, size_t bytes, CUstream stream) {
  enum { LOOK = 256 };
  struct heddle_pending_list *l = &m->pending;
  for (size_t i = l->count, looked = 0; i-- > 0 && looked < LOOK; looked++) {
    struct heddle_block *b = l->entries[i].block;
    if (b->bytes < bytes || b->bytes - bytes > bytes / 4 + 4096) continue;
    if (!heddle_order_same_lane(m->session, l->entries[i].point, stream)) continue;
    for (size_t j = i; j + 1 < l->count; j++) l->entries[j] = l->entries[j + 1];
    l->count--;
    return b;
  }
  return NULL;
}

static uint64_t stream_segment(struct heddle_memory *m, size_t bytes) {
  uint64_t want = m->stream.used / 4, size = HEDDLE_GRANULE;
  while (size < want && size < (UINT64_C(64) << 20)) size <<= 1;
  return size > bytes ? size : bytes;
}

static void note(struct heddle_block *b, size_t bytes, CUcontext context, CUmemoryPool pool) {
  b->requested = bytes;
  b->id = heddle_buffer_id();
  b->context = context;
  b->pool = pool;
  b->flags = 0;
}

static CUresult stream_alloc(struct heddle_memory *m, CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool, CUstream stream) {
  if (bytes > m->device_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  CUcontext context = NULL;
  heddle_real.cuCtxGetCurrent(&context);
  pthread_mutex_lock(&m->lock);
  struct heddle_block *b = take_own(m, bytes, stream);
  if (!b) {
    heddle_stream_collect_locked(m);
    b = heddle_heap_alloc(&m->stream, bytes, HEDDLE_UNIT);
  }
  struct heddle_point oldest = {0};
  if (!b && m->pending.count) oldest = m->pending.entries[0].point;
  pthread_mutex_unlock(&m->lock);
  if (!b) {
    // What is pending would have served, or will serve the next: have the executor say when it is free.
    if (oldest.valid) heddle_order_signal(m->session, oldest);
    struct heddle_segment *s = NULL;
    CUresult r = heddle_segment_make(m, HEDDLE_SEGMENT_STREAM, stream_segment(m, bytes), &s);
    if (r == CUDA_ERROR_OUT_OF_MEMORY) r = heddle_segment_make(m, HEDDLE_SEGMENT_STREAM, bytes, &s);
    if (r != CUDA_SUCCESS) return r;
    pthread_mutex_lock(&m->lock);
    s->span = heddle_heap_add(&m->stream, s->base, s->bytes, s);
    if (s->span) b = heddle_heap_alloc_at(&m->stream, s->base, (bytes + HEDDLE_UNIT - 1) & ~(HEDDLE_UNIT - 1));
    if (!b && s->span) {
      heddle_heap_remove(&m->stream, s->span);
      s->span = NULL;
    }
    if (m->stream.total > m->stream_high) m->stream_high = m->stream.total;
    pthread_mutex_unlock(&m->lock);
    if (!b) {
      heddle_segment_drop(m, s);
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
  }
  note(b, bytes, context, pool); // ours alone until its address is returned
  heddle_pool_account(pool, (int64_t)b->bytes);
  *dptr = b->address;
  return CUDA_SUCCESS;
}

// Through the driver, in order with forwarded work of the stream; kernels that use the memory run natively.
static CUresult native_alloc(CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool, CUstream stream, struct heddle_memory *m, enum heddle_native_reason why) {
  struct heddle_order o;
  CUresult r = heddle_order_begin(&o, stream, HEDDLE_NATIVE_ASYNC, why);
  if (r != CUDA_SUCCESS) return r;
  r = pool ? heddle_real.cuMemAllocFromPoolAsync(dptr, bytes, pool, stream) : heddle_real.cuMemAllocAsync(dptr, bytes, stream);
  if (r == CUDA_SUCCESS && m) heddle_foreign_add(m->device, *dptr, bytes);
  return heddle_order_end(&o, r);
}

static CUresult any_alloc(CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool, CUstream stream) {
  CUresult sticky;
  struct heddle_memory *m = heddle_memory_serving(&sticky);
  if (sticky != CUDA_SUCCESS) return sticky;
  if (!m || !dptr || !bytes) return pool ? heddle_real.cuMemAllocFromPoolAsync(dptr, bytes, pool, stream) : heddle_real.cuMemAllocAsync(dptr, bytes, stream);
  if (capturing(stream)) return native_alloc(dptr, bytes, pool, stream, m, HEDDLE_NATIVE_CAPTURE);
  CUmemoryPool from = pool;
  if (!from && heddle_real.cuDeviceGetMemPool(&from, m->device) != CUDA_SUCCESS)
    return native_alloc(dptr, bytes, pool, stream, m, HEDDLE_NATIVE_ARGUMENT);
  if (!heddle_pool_served(from, m->device)) return native_alloc(dptr, bytes, pool, stream, m, HEDDLE_NATIVE_FOREIGN_MEMORY);
  CUresult r = stream_alloc(m, dptr, bytes, from, stream);
  if (r == CUDA_SUCCESS || r == CUDA_ERROR_OUT_OF_MEMORY) return r;
  return native_alloc(dptr, bytes, pool, stream, m, HEDDLE_NATIVE_FOREIGN_MEMORY);
}

CUresult heddle_hook_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream) {
  return any_alloc(dptr, bytesize, NULL, hStream);
}

CUresult heddle_hook_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream) {
  if (!pool) return heddle_real.cuMemAllocFromPoolAsync(dptr, bytesize, pool, hStream);
  return any_alloc(dptr, bytesize, pool, hStream);
}

static bool pending_add(struct heddle_memory *m, struct heddle_block *b, struct heddle_point point) {
  struct heddle_pending_list *l = &m->pending;
  if (l->count == l->capacity) {
    size_t capacity = l->capacity ? 2 * l->capacity : 64;
    struct heddle_pending *grown = realloc(l->entries, capacity * sizeof *grown);
    if (!grown) return false;
    l->entries = grown;
    l->capacity = capacity;
  }
  l->entries[l->count++] = (struct heddle_pending){b, point};
  return true;
}

static CUresult native_free(CUdeviceptr dptr, CUstream stream) {
  struct heddle_order o;
  CUresult r = heddle_order_begin(&o, stream, HEDDLE_NATIVE_ASYNC, HEDDLE_NATIVE_FOREIGN_MEMORY);
  if (r != CUDA_SUCCESS) return r;
  r = heddle_real.cuMemFreeAsync(dptr, stream);
  if (r == CUDA_SUCCESS) heddle_foreign_drop(dptr);
  return heddle_order_end(&o, r);
}

CUresult heddle_hook_cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) {
  struct heddle_region *region = dptr ? heddle_region_find(dptr) : NULL;
  if (!region || capturing(hStream)) return native_free(dptr, hStream);
  struct heddle_memory *m = NULL;
  struct heddle_segment *s = NULL;
  struct heddle_block *b = heddle_block_locked(dptr, &m, &s);
  if (!b) return native_free(dptr, hStream);
  bool good = b->address == dptr && !(b->flags & HEDDLE_BLOCK_FREEING);
  if (good && s->kind == HEDDLE_SEGMENT_DEVICE) { // memory of cuMemAlloc: nothing is gained by keeping it for a stream
    pthread_mutex_unlock(&m->lock);
    return heddle_hook_cuMemFree_v2(dptr);
  }
  good = good && s->kind == HEDDLE_SEGMENT_STREAM;
  if (good) b->flags |= HEDDLE_BLOCK_FREEING;
  pthread_mutex_unlock(&m->lock);
  if (!good) return CUDA_ERROR_INVALID_VALUE;
  CUresult r = heddle_sticky(m->session);
  struct heddle_point point = heddle_order_point(m->session, hStream);
  if (r == CUDA_SUCCESS && !point.valid) r = heddle_order_drain_all(m->session); // a stream without a lane
  pthread_mutex_lock(&m->lock);
  if (r != CUDA_SUCCESS) {
    b->flags &= ~(uint32_t)HEDDLE_BLOCK_FREEING;
    pthread_mutex_unlock(&m->lock);
    return r;
  }
  heddle_pool_account(b->pool, -(int64_t)b->bytes);
  bool kept = point.valid && pending_add(m, b, point);
  pthread_mutex_unlock(&m->lock);
  if (!kept && point.valid) r = heddle_order_wait(m->session, point); // no host memory to remember it by
  struct heddle_segment *drop = NULL;
  pthread_mutex_lock(&m->lock);
  if (!kept) block_release(m, b);
  if (m->stream.total - m->stream.used > KEEP) shed(m, &drop);
  pthread_mutex_unlock(&m->lock);
  heddle_segment_drop_list(m, drop);
  return r;
}
