// cuMemAlloc and friends. Small requests share segments, large ones have their own. Source: CUDA driver API, "Memory Management".
#include "../hooks/hooks.h"
#include "../lane.h"
#include "inner.h"

#define SMALL (UINT64_C(1) << 20) // above it an allocation has its own segments: at most half of one is waste

uint64_t heddle_buffer_id(void) {
  // Far from the driver's own small numbers, so that ids of memory it serves itself do not collide with ours.
  static _Atomic uint64_t next = UINT64_C(1) << 40;
  return atomic_fetch_add_explicit(&next, 1, memory_order_relaxed);
}

struct heddle_block *heddle_block_locked(uint64_t address, struct heddle_memory **m, struct heddle_segment **s) {
  struct heddle_region *region = heddle_region_find(address);
  if (!region) return NULL;
  struct heddle_memory *own = region->memory;
  pthread_mutex_lock(&own->lock);
  struct heddle_segment *segment = heddle_segment_find(region, address);
  if (segment && segment->span) {
    struct heddle_heap *h = region->host ? &own->host : segment->kind == HEDDLE_SEGMENT_STREAM ? &own->stream : &own->blocks;
    struct heddle_block *b = heddle_heap_find(h, address);
    if (b && !b->free) {
      *m = own;
      *s = segment;
      return b;
    }
  }
  pthread_mutex_unlock(&own->lock);
  return NULL;
}

static CUcontext current_context(void) {
  CUcontext c = NULL;
  heddle_real.cuCtxGetCurrent(&c);
  return c;
}

static void note(struct heddle_block *b, size_t bytes, CUcontext context) {
  b->requested = bytes;
  b->id = heddle_buffer_id();
  b->context = context;
}

// Size of the next segment for small blocks: an eighth of what they have already, so that few are made and little is idle.
static uint64_t small_segment(struct heddle_memory *m) {
  uint64_t want = m->blocks.used / 8;
  uint64_t bytes = HEDDLE_GRANULE;
  while (bytes < want && bytes < (UINT64_C(32) << 20)) bytes <<= 1;
  return bytes;
}

CUresult heddle_device_alloc(struct heddle_memory *m, size_t bytes, CUdeviceptr *address) {
  if (bytes > m->device_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  CUcontext context = current_context();
  uint64_t segment_bytes = bytes;
  pthread_mutex_lock(&m->lock);
  if (bytes <= SMALL) {
    struct heddle_block *b = heddle_heap_alloc(&m->blocks, bytes, HEDDLE_UNIT);
    if (b) {
      note(b, bytes, context);
      *address = b->address;
      pthread_mutex_unlock(&m->lock);
      return CUDA_SUCCESS;
    }
    segment_bytes = small_segment(m);
  }
  pthread_mutex_unlock(&m->lock);
  struct heddle_segment *s = NULL;
  CUresult r = heddle_segment_make(m, HEDDLE_SEGMENT_DEVICE, segment_bytes, &s);
  if (r == CUDA_ERROR_OUT_OF_MEMORY && bytes <= SMALL && segment_bytes > HEDDLE_GRANULE)
    r = heddle_segment_make(m, HEDDLE_SEGMENT_DEVICE, HEDDLE_GRANULE, &s);
  if (r != CUDA_SUCCESS) return r;
  pthread_mutex_lock(&m->lock);
  uint64_t base = s->base;
  struct heddle_block *b = NULL;
  s->span = heddle_heap_add(&m->blocks, base, s->bytes, s);
  // The new span's own block, not just any: another thread may not take it first, and a large request takes the whole.
  if (s->span) b = heddle_heap_alloc_at(&m->blocks, base, bytes <= SMALL ? (bytes + HEDDLE_UNIT - 1) & ~(HEDDLE_UNIT - 1) : s->bytes);
  if (b) {
    note(b, bytes, context);
    *address = base;
  } else if (s->span) {
    heddle_heap_remove(&m->blocks, s->span);
    s->span = NULL;
  }
  pthread_mutex_unlock(&m->lock);
  if (b) return CUDA_SUCCESS;
  heddle_segment_drop(m, s); // no host memory for the bookkeeping; nothing ever ran in it
  return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult heddle_hook_cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize) {
  CUresult r;
  struct heddle_memory *m = heddle_memory_serving(&r);
  if (r != CUDA_SUCCESS) return r;
  if (!m || !dptr || !bytesize) return heddle_real.cuMemAlloc_v2(dptr, bytesize);
  r = heddle_device_alloc(m, bytesize, dptr);
  if (r == CUDA_SUCCESS || r == CUDA_ERROR_OUT_OF_MEMORY) return r;
  r = heddle_real.cuMemAlloc_v2(dptr, bytesize);
  if (r == CUDA_SUCCESS) heddle_foreign_add(m->device, *dptr, bytesize);
  return r;
}

// The driver's own pitch granule for this width class, asked once per device: guessing it would give other pitches than natively.
static size_t pitch_granule(CUdevice device) {
  static _Atomic size_t known[HEDDLE_MAX_DEVICES];
  size_t granule = atomic_load_explicit(&known[device], memory_order_relaxed);
  if (granule) return granule;
  CUdeviceptr p = 0;
  CUstreamCaptureMode mode = heddle_capture_relax();
  if (heddle_real.cuMemAllocPitch_v2(&p, &granule, 1, 1, 4) == CUDA_SUCCESS) heddle_real.cuMemFree_v2(p);
  else granule = 0;
  heddle_capture_restore(mode);
  atomic_store_explicit(&known[device], granule, memory_order_relaxed);
  return granule;
}

CUresult heddle_hook_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height, unsigned int ElementSizeBytes) {
  CUresult r;
  bool plain = dptr && pPitch && WidthInBytes && Height && (ElementSizeBytes == 4 || ElementSizeBytes == 8 || ElementSizeBytes == 16);
  struct heddle_memory *m = heddle_memory_serving(&r);
  if (r != CUDA_SUCCESS) return r;
  size_t granule = m && plain ? pitch_granule(m->device) : 0;
  size_t pitch = 0, bytes = 0;
  // Odd arguments are the driver's to judge.
  bool fits = granule && WidthInBytes <= SIZE_MAX - granule && !__builtin_mul_overflow(pitch = (WidthInBytes + granule - 1) / granule * granule, Height, &bytes);
  if (fits) {
    r = heddle_device_alloc(m, bytes, dptr);
    if (r == CUDA_SUCCESS) *pPitch = pitch;
    if (r == CUDA_SUCCESS || r == CUDA_ERROR_OUT_OF_MEMORY) return r;
  }
  r = heddle_real.cuMemAllocPitch_v2(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
  if (r == CUDA_SUCCESS && m) heddle_foreign_add(m->device, *dptr, *pPitch * Height);
  return r;
}

CUresult heddle_hook_cuMemFree_v2(CUdeviceptr dptr) {
  struct heddle_region *region = dptr ? heddle_region_find(dptr) : NULL;
  struct heddle_memory *m = NULL;
  struct heddle_segment *s = NULL;
  if (!region || region->host) {
    // Earlier forwarded kernels cannot have used foreign memory, so the driver's own wait is enough.
    CUresult r = heddle_real.cuMemFree_v2(dptr);
    if (r == CUDA_SUCCESS && dptr) heddle_foreign_drop(dptr);
    return r;
  }
  struct heddle_block *b = heddle_block_locked(dptr, &m, &s);
  if (!b) return heddle_real.cuMemFree_v2(dptr); // in no block of ours: the driver knows the code for a wrong pointer
  if (b->address != dptr || b->flags & HEDDLE_BLOCK_FREEING) {
    pthread_mutex_unlock(&m->lock);
    return CUDA_ERROR_INVALID_VALUE;
  }
  b->flags |= HEDDLE_BLOCK_FREEING;
  bool shared = b->flags & HEDDLE_BLOCK_SHARED;
  pthread_mutex_unlock(&m->lock);
  if (shared) heddle_share_drop(m, dptr);
  // Native cuMemFree waits for everything that was submitted before it; nobody can reuse the block meanwhile.
  CUresult r = heddle_order_drain_all(m->session);
  struct heddle_segment *drop = NULL;
  pthread_mutex_lock(&m->lock);
  if (r != CUDA_SUCCESS) {
    b->flags &= ~(uint32_t)HEDDLE_BLOCK_FREEING; // after a fault nothing is freed any more, as natively
    pthread_mutex_unlock(&m->lock);
    return r;
  }
  struct heddle_heap *h = s->kind == HEDDLE_SEGMENT_STREAM ? &m->stream : &m->blocks;
  if (b->pool) heddle_pool_account(b->pool, -(int64_t)b->bytes);
  heddle_blocks_change();
  struct heddle_span *span = heddle_heap_free(h, b);
  if (!span->used) heddle_segment_retire(m, h, span, &drop);
  pthread_mutex_unlock(&m->lock);
  heddle_segment_drop_list(m, drop);
  return CUDA_SUCCESS;
}

CUresult heddle_hook_cuMemGetInfo_v2(size_t *free, size_t *total) {
  CUresult r = heddle_memory_sticky();
  if (r != CUDA_SUCCESS) return r;
  r = heddle_real.cuMemGetInfo_v2(free, total);
  struct heddle_memory *m = NULL;
  CUdevice device;
  if (r == CUDA_SUCCESS && free && heddle_real.cuCtxGetDevice(&device) == CUDA_SUCCESS && (m = heddle_memory_of_device(device))) {
    pthread_mutex_lock(&m->lock);
    *free += m->cached_bytes; // given up before anything runs out
    pthread_mutex_unlock(&m->lock);
  }
  return r;
}

CUresult heddle_hook_cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags) {
  CUresult sticky;
  struct heddle_memory *m = heddle_memory_serving(&sticky);
  if (sticky != CUDA_SUCCESS) return sticky;
  CUresult r = heddle_real.cuMemAllocManaged(dptr, bytesize, flags);
  if (r == CUDA_SUCCESS && m) heddle_foreign_add(m->device, *dptr, bytesize);
  return r;
}

// Blocks that a destroyed context had allocated. Their work is over: the caller drained.
static void forget_context(struct heddle_memory *m, struct heddle_heap *h, CUcontext context, struct heddle_segment **drop) {
  for (struct heddle_span *span = h->spans, *next; span; span = next) {
    next = span->after;
    struct heddle_block *b = span->first;
    while (b) {
      if (b->free || b->context != context) {
        b = b->after;
        continue;
      }
      uint64_t behind = b->address + b->bytes;
      heddle_blocks_change();
      heddle_heap_free(h, b);
      b = behind < span->base + span->bytes ? heddle_heap_find(h, behind) : NULL;
    }
    if (!span->used) heddle_segment_retire(m, h, span, drop);
  }
}

void heddle_memory_context_gone(CUcontext context) {
  heddle_session_context_gone(context);
  for (CUdevice d = 0; d < HEDDLE_MAX_DEVICES; d++) {
    struct heddle_memory *m = heddle_memory_of_device(d);
    if (!m || !context) continue;
    struct heddle_segment *drop = NULL;
    heddle_order_drain(m->session, NULL);
    heddle_sharing_context_gone(m, context);
    pthread_mutex_lock(&m->lock);
    heddle_stream_release_locked(m, heddle_stream_detach_locked(m));
    forget_context(m, &m->blocks, context, &drop);
    forget_context(m, &m->stream, context, &drop);
    pthread_mutex_unlock(&m->lock);
    heddle_segment_drop_list(m, drop);
  }
}
