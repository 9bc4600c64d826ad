// Physical memory at a window address, in this process and in the executor. Source: design.md section 4, measurements.md section 1
// (a 2 MiB segment costs about 200 us to make, so freed ones are kept for the next allocation).
#include <stdlib.h>
#include <unistd.h>

#include "../graph/graph.h"
#include "../hooks/real_gen.h"
#include "../log.h"
#include "inner.h"

struct heddle_segment *heddle_segment_new(struct heddle_memory *m) {
  struct heddle_segment *s = m->recycled;
  if (s) m->recycled = s->next;
  else s = calloc(1, sizeof *s);
  if (!s) return NULL;
  s->handle = 0;
  s->span = NULL;
  s->place = NULL;
  s->next = NULL;
  return s;
}

void heddle_segment_recycle(struct heddle_memory *m, struct heddle_segment *s) {
  atomic_store_explicit(&s->bytes, 0, memory_order_relaxed);
  s->next = m->recycled;
  m->recycled = s;
}

// Sends a segment's descriptor, which stays the caller's.
static bool share_fd(struct heddle_memory *m, uint64_t address, uint64_t bytes, uint64_t flags, int fd) {
  struct heddle_wire_range range = {.address = address, .bytes = bytes, .flags = flags}, reply = {0};
  int nfds = 0;
  return heddle_session_request(m->session, HEDDLE_WIRE_TYPE_SEGMENT, &range, sizeof range, NULL, 0, &fd, 1, &reply, sizeof reply, NULL,
                                &nfds) == HEDDLE_WIRE_STATUS_OK;
}

bool heddle_segment_share(struct heddle_memory *m, uint64_t address, uint64_t bytes, uint64_t flags, CUmemGenericAllocationHandle handle) {
  int fd = -1;
  if (heddle_real.cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0) != CUDA_SUCCESS) return false;
  bool shared = share_fd(m, address, bytes, flags, fd);
  close(fd);
  return shared;
}

static struct heddle_segment *cache_take(struct heddle_memory *m, enum heddle_segment_kind kind, uint64_t bytes) {
  pthread_mutex_lock(&m->lock);
  struct heddle_segment **at = &m->cached, **best = NULL;
  for (; *at; at = &(*at)->next) {
    uint64_t has = (*at)->bytes;
    if (has >= bytes && has - bytes <= bytes / 8 && (!best || has < (*best)->bytes)) best = at;
  }
  struct heddle_segment *s = NULL;
  if (best) {
    s = *best;
    *best = s->next;
    s->next = NULL;
    m->cached_bytes -= s->bytes;
    atomic_store_explicit(&s->kind, kind, memory_order_relaxed);
    heddle_segment_publish(heddle_region_find(s->base), s);
  }
  pthread_mutex_unlock(&m->lock);
  return s;
}

// cuMemCreate, giving up what is cached when the device is full.
static CUresult create(struct heddle_memory *m, uint64_t bytes, CUmemGenericAllocationHandle *handle) {
  CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                              .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = m->device},
                              .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR};
  prop.allocFlags.gpuDirectRDMACapable = m->rdma;
  CUresult r = heddle_real.cuMemCreate(handle, bytes, &prop, 0);
  if (r == CUDA_ERROR_OUT_OF_MEMORY && heddle_memory_trim(m) > 0) r = heddle_real.cuMemCreate(handle, bytes, &prop, 0);
  return r;
}

// Maps a handle, whose memory an exported fd may stand for (-1: none is at hand), at an address of ours, here and in the executor. The
// handle is the segment's, or released.
static CUresult put(struct heddle_memory *m, enum heddle_segment_kind kind, uint64_t bytes, uint64_t flags, CUmemGenericAllocationHandle handle,
                    int fd, struct heddle_segment **made) {
  struct heddle_block *place = heddle_window_take(m, bytes, HEDDLE_GRANULE);
  if (!place) {
    heddle_real.cuMemRelease(handle);
    return CUDA_ERROR_NOT_SUPPORTED; // no addresses: the real driver may still serve it
  }
  uint64_t base = place->address;
  CUmemAccessDesc access[HEDDLE_MAX_DEVICES];
  uint32_t peers = atomic_load(&heddle_peers[m->device]);
  CUresult r = heddle_real.cuMemMap(base, bytes, 0, handle, 0);
  if (r == CUDA_SUCCESS) {
    r = heddle_real.cuMemSetAccess(base, bytes, access, heddle_peer_access(m->device, access));
    if (r == CUDA_SUCCESS && !(fd < 0 ? heddle_segment_share(m, base, bytes, flags, handle) : share_fd(m, base, bytes, flags, fd)))
      r = CUDA_ERROR_NOT_SUPPORTED;
    if (r != CUDA_SUCCESS) heddle_real.cuMemUnmap(base, bytes);
  }
  struct heddle_segment *s = NULL;
  if (r == CUDA_SUCCESS) {
    pthread_mutex_lock(&m->lock);
    s = heddle_segment_new(m);
    if (s) {
      s->handle = handle;
      s->place = place;
      atomic_store_explicit(&s->base, base, memory_order_relaxed);
      atomic_store_explicit(&s->bytes, bytes, memory_order_relaxed);
      atomic_store_explicit(&s->kind, kind, memory_order_relaxed);
      heddle_segment_publish(heddle_region_find(base), s);
    }
    pthread_mutex_unlock(&m->lock);
    if (!s) {
      struct heddle_wire_range range = {.address = base, .bytes = bytes}, reply;
      int nfds = 0;
      heddle_session_request(m->session, HEDDLE_WIRE_TYPE_SEGMENT_DROP, &range, sizeof range, NULL, 0, NULL, 0, &reply, sizeof reply, NULL,
                             &nfds);
      heddle_real.cuMemUnmap(base, bytes);
      r = CUDA_ERROR_OUT_OF_MEMORY;
    }
  }
  if (r != CUDA_SUCCESS) {
    heddle_window_give(m, place);
    heddle_real.cuMemRelease(handle);
    return r;
  }
  // Peer access that was enabled meanwhile may have missed this one.
  if (atomic_load(&heddle_peers[m->device]) != peers) heddle_real.cuMemSetAccess(base, bytes, access, heddle_peer_access(m->device, access));
  *made = s;
  return CUDA_SUCCESS;
}

CUresult heddle_segment_make(struct heddle_memory *m, enum heddle_segment_kind kind, uint64_t bytes, struct heddle_segment **made) {
  bytes = (bytes + HEDDLE_GRANULE - 1) & ~(HEDDLE_GRANULE - 1);
  if ((*made = cache_take(m, kind, bytes))) return CUDA_SUCCESS;
  CUstreamCaptureMode mode = heddle_capture_relax();
  CUmemGenericAllocationHandle handle = 0;
  CUresult r = create(m, bytes, &handle);
  if (r == CUDA_SUCCESS) r = put(m, kind, bytes, 0, handle, -1, made);
  heddle_capture_restore(mode);
  return r;
}

CUresult heddle_segment_open(struct heddle_memory *m, uint64_t bytes, int fd, struct heddle_segment **opened) {
  CUstreamCaptureMode mode = heddle_capture_relax();
  CUmemGenericAllocationHandle handle = 0;
  CUresult r = heddle_real.cuMemImportFromShareableHandle(&handle, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  // The memory stands at other addresses too, if only in the executor.
  if (r == CUDA_SUCCESS) r = put(m, HEDDLE_SEGMENT_OPENED, bytes, HEDDLE_WIRE_SEGMENT_FLAG_PART, handle, fd, opened);
  heddle_capture_restore(mode);
  return r;
}

void heddle_segment_drop(struct heddle_memory *m, struct heddle_segment *s) {
  uint64_t base = s->base, bytes = s->bytes;
  struct heddle_wire_range range = {.address = base, .bytes = bytes}, reply;
  int nfds = 0;
  CUstreamCaptureMode mode = heddle_capture_relax();
  heddle_graph_memory_gone(m->session, base, bytes);
  heddle_session_request(m->session, HEDDLE_WIRE_TYPE_SEGMENT_DROP, &range, sizeof range, NULL, 0, NULL, 0, &reply, sizeof reply, NULL,
                         &nfds);
  CUresult r = heddle_real.cuMemUnmap(base, bytes);
  heddle_real.cuMemRelease(s->handle);
  heddle_capture_restore(mode);
  pthread_mutex_lock(&m->lock);
  heddle_segment_unpublish(heddle_region_find(base), s);
  // Addresses that the driver would not unmap (after a device fault) are never used again.
  if (r == CUDA_SUCCESS) heddle_heap_free(&m->space, s->place);
  heddle_segment_recycle(m, s);
  pthread_mutex_unlock(&m->lock);
}

void heddle_segment_retire(struct heddle_memory *m, struct heddle_heap *h, struct heddle_span *span, struct heddle_segment **drop) {
  struct heddle_segment *s = span->owner;
  heddle_heap_remove(h, span);
  s->span = NULL;
  heddle_segment_unpublish(heddle_region_find(s->base), s);
  s->next = m->cached;
  m->cached = s;
  m->cached_bytes += s->bytes;
  while (m->cached_bytes > m->cache_limit) { // the oldest, at the end of the list, go first
    struct heddle_segment **last = &m->cached;
    while ((*last)->next) last = &(*last)->next;
    struct heddle_segment *old = *last;
    *last = NULL;
    m->cached_bytes -= old->bytes;
    old->next = *drop;
    *drop = old;
  }
}

void heddle_segment_drop_list(struct heddle_memory *m, struct heddle_segment *list) {
  if (!list) return;
  heddle_order_drain(m->session, NULL);
  while (list) {
    struct heddle_segment *next = list->next;
    heddle_segment_drop(m, list);
    list = next;
  }
}

// Moves every wholly free span of h to the drop list (lock held).
static void trim_heap(struct heddle_heap *h, struct heddle_segment **drop) {
  for (struct heddle_span *span = h->spans, *next; span; span = next) {
    next = span->after;
    if (span->used) continue;
    struct heddle_segment *s = span->owner;
    heddle_heap_remove(h, span);
    s->span = NULL;
    s->next = *drop;
    *drop = s;
  }
}

uint64_t heddle_memory_trim(struct heddle_memory *m) {
  struct heddle_segment *drop = NULL;
  pthread_mutex_lock(&m->lock);
  struct heddle_pending_list pending = heddle_stream_detach_locked(m);
  pthread_mutex_unlock(&m->lock);
  heddle_order_drain_all(m->session);
  pthread_mutex_lock(&m->lock);
  heddle_stream_release_locked(m, pending);
  trim_heap(&m->blocks, &drop);
  trim_heap(&m->stream, &drop);
  while (m->cached) {
    struct heddle_segment *s = m->cached;
    m->cached = s->next;
    s->next = drop;
    drop = s;
  }
  m->cached_bytes = 0;
  uint64_t freed = 0;
  for (struct heddle_segment *s = drop; s; s = s->next) freed += s->bytes;
  pthread_mutex_unlock(&m->lock);
  heddle_segment_drop_list(m, drop);
  return freed;
}
