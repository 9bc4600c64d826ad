// Host memory: what we allocate is a sealed memfd at the same address in this process and in the executor, registered with the
// driver on both sides; what the client registers is only noted. Source: CUDA driver API, "Memory Management"; docs/protocol.md
// HOST_SEGMENT.
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../graph/graph.h"
#include "../hooks/hooks.h"
#include "../lane.h"
#include "../log.h"
#include "inner.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define CHUNK (UINT64_C(8) << 20) // registering costs about 0.7 ms a MiB, so small requests share
#define OWN (UINT64_C(2) << 20)   // requests of this size and more have their own segment
#define PAGE UINT64_C(4096)

static void host_drop_message(struct heddle_memory *m, uint64_t base, uint64_t bytes) {
  struct heddle_wire_range range = {.address = base, .bytes = bytes}, reply;
  int nfds = 0;
  heddle_graph_memory_gone(m->session, base, bytes);
  heddle_session_request(m->session, HEDDLE_WIRE_TYPE_HOST_SEGMENT_DROP, &range, sizeof range, NULL, 0, NULL, 0, &reply, sizeof reply, NULL,
                         &nfds);
}

// Maps and registers the memfd at its address. Nothing is left behind on failure.
static bool host_map(uint64_t base, uint64_t bytes, int fd) {
  void *want = (void *)(uintptr_t)base;
  void *got = mmap(want, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
  if (got == MAP_FAILED) return false;
  CUdeviceptr device = 0;
  bool same = got == want; // kernels before 4.17 take the flag for a hint
  if (same && heddle_real.cuMemHostRegister_v2(got, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP) == CUDA_SUCCESS) {
    // The executor uses the host address itself, so this device must know it by that address too.
    if (heddle_real.cuMemHostGetDevicePointer_v2(&device, got, 0) == CUDA_SUCCESS && device == base) return true;
    heddle_real.cuMemHostUnregister(got);
  }
  munmap(got, bytes);
  return false;
}

static struct heddle_segment *host_make(struct heddle_memory *m, uint64_t bytes) {
  struct heddle_wire_range ask = {.bytes = bytes}, reply = {0};
  int fds[HEDDLE_WIRE_MESSAGE_FDS], nfds = 0;
  int status = heddle_session_request(m->session, HEDDLE_WIRE_TYPE_HOST_SEGMENT, &ask, sizeof ask, NULL, 0, NULL, 0, &reply, sizeof reply,
                                      fds, &nfds);
  if (status != HEDDLE_WIRE_STATUS_OK) return NULL;
  struct heddle_region *region = heddle_region_find(reply.address);
  uint64_t base = reply.address;
  bool good = nfds == 1 && reply.bytes == bytes && !(base & (HEDDLE_GRANULE - 1)) && region && region->host && region->memory == m &&
              bytes <= region->bytes - (base - region->base);
  bool mapped = good && host_map(base, bytes, fds[0]);
  for (int i = 0; i < nfds; i++) close(fds[i]);
  struct heddle_segment *s = NULL;
  if (mapped) {
    pthread_mutex_lock(&m->lock);
    s = heddle_segment_new(m);
    if (s) {
      atomic_store_explicit(&s->base, base, memory_order_relaxed);
      atomic_store_explicit(&s->bytes, bytes, memory_order_relaxed);
      atomic_store_explicit(&s->kind, HEDDLE_SEGMENT_HOST, memory_order_relaxed);
      s->span = heddle_heap_add(&m->host, base, bytes, s);
      if (s->span) {
        heddle_segment_publish(region, s);
      } else {
        heddle_segment_recycle(m, s);
        s = NULL;
      }
    }
    pthread_mutex_unlock(&m->lock);
    if (!s) {
      heddle_real.cuMemHostUnregister((void *)(uintptr_t)base);
      munmap((void *)(uintptr_t)base, bytes);
    }
  }
  if (!s) {
    if (!mapped)
      heddle_log(HEDDLE_LOG_WARN, "device %d: shared host memory at 0x%llx (%llu MiB) could not be mapped and registered: pinned memory comes from the driver",
                 m->device, (unsigned long long)base, (unsigned long long)(bytes >> 20));
    host_drop_message(m, base, bytes);
  }
  return s;
}

void heddle_host_drop(struct heddle_memory *m, struct heddle_segment *s) {
  uint64_t base = s->base, bytes = s->bytes;
  CUstreamCaptureMode mode = heddle_capture_relax();
  host_drop_message(m, base, bytes);
  heddle_real.cuMemHostUnregister((void *)(uintptr_t)base);
  heddle_capture_restore(mode);
  munmap((void *)(uintptr_t)base, bytes);
  pthread_mutex_lock(&m->lock);
  heddle_segment_unpublish(heddle_region_find(base), s);
  heddle_segment_recycle(m, s);
  pthread_mutex_unlock(&m->lock);
}

static bool host_alloc(struct heddle_memory *m, size_t bytes, unsigned flags, void **pp) {
  uint64_t align = bytes >= PAGE ? PAGE : HEDDLE_UNIT; // a whole page or more is often used for direct I/O
  CUcontext context = NULL;
  heddle_real.cuCtxGetCurrent(&context);
  for (int i = 0; i < 2; i++) {
    pthread_mutex_lock(&m->lock);
    struct heddle_block *b = heddle_heap_alloc(&m->host, bytes, align);
    if (b) {
      b->requested = bytes;
      b->id = heddle_buffer_id();
      b->context = context;
      b->flags = flags;
      *pp = (void *)(uintptr_t)b->address;
    }
    bool first = !m->host.spans;
    pthread_mutex_unlock(&m->lock);
    if (b) return true;
    if (i) break;
    uint64_t segment = bytes >= OWN ? (bytes + HEDDLE_GRANULE - 1) & ~(HEDDLE_GRANULE - 1) : first ? HEDDLE_GRANULE : CHUNK;
    CUstreamCaptureMode mode = heddle_capture_relax();
    struct heddle_segment *s = host_make(m, segment);
    heddle_capture_restore(mode);
    if (!s) return false;
  }
  return false;
}

static bool host_bounds(size_t bytes) {
  // A third of the machine at once is for the driver to grant or refuse.
  long pages = sysconf(_SC_PHYS_PAGES);
  return pages > 0 && bytes <= (uint64_t)pages * PAGE / 3;
}

static CUresult serve_host(void **pp, size_t bytes, unsigned flags, bool *served) {
  CUresult sticky;
  struct heddle_memory *m = heddle_memory_serving(&sticky);
  *served = sticky != CUDA_SUCCESS || (m && host_bounds(bytes) && host_alloc(m, bytes, flags, pp));
  return sticky;
}

// Pinned memory that the driver served behind us: copies work, kernels that use it run natively.
static void host_foreign(void *p, size_t bytes) {
  CUdevice device = 0;
  if (heddle_real.cuCtxGetDevice(&device) != CUDA_SUCCESS || !heddle_memory_of_device(device)) return;
  heddle_ranges_add(&heddle_side_ranges, (uintptr_t)p, bytes, HEDDLE_WHERE_REGISTERED | (uint64_t)device << 8);
}

CUresult heddle_hook_cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags) {
  const unsigned known = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
  bool served = false;
  CUresult r = CUDA_SUCCESS;
  if (pp && bytesize && !(Flags & ~known)) r = serve_host(pp, bytesize, Flags, &served);
  if (served) return r;
  r = heddle_real.cuMemHostAlloc(pp, bytesize, Flags);
  if (r == CUDA_SUCCESS) host_foreign(*pp, bytesize);
  return r;
}

CUresult heddle_hook_cuMemAllocHost_v2(void **pp, size_t bytesize) {
  bool served = false;
  CUresult r = CUDA_SUCCESS;
  if (pp && bytesize) r = serve_host(pp, bytesize, 0, &served);
  if (served) return r;
  r = heddle_real.cuMemAllocHost_v2(pp, bytesize);
  if (r == CUDA_SUCCESS) host_foreign(*pp, bytesize);
  return r;
}

static void side_drop(void *p) {
  struct heddle_range range;
  if (heddle_ranges_empty(&heddle_side_ranges) || !heddle_ranges_find(&heddle_side_ranges, (uintptr_t)p, &range)) return;
  if ((range.value & 0xff) == HEDDLE_WHERE_REGISTERED) heddle_ranges_drop(&heddle_side_ranges, range.base, NULL);
}

CUresult heddle_hook_cuMemFreeHost(void *p) {
  struct heddle_region *region = p ? heddle_region_find((uintptr_t)p) : NULL;
  if (!region || !region->host) {
    // Native copies use it in order with their stream, so the driver's own wait covers them once the forwarded work they
    // follow is done.
    struct heddle_memory *m = NULL;
    CUdevice device;
    if (heddle_real.cuCtxGetDevice(&device) == CUDA_SUCCESS && (m = heddle_memory_of_device(device))) heddle_order_drain_all(m->session);
    CUresult r = heddle_real.cuMemFreeHost(p);
    if (r == CUDA_SUCCESS) side_drop(p);
    return r;
  }
  struct heddle_memory *m = NULL;
  struct heddle_segment *s = NULL;
  struct heddle_block *b = heddle_block_locked((uintptr_t)p, &m, &s);
  if (!b) return CUDA_ERROR_INVALID_VALUE;
  if (b->address != (uintptr_t)p || b->flags & HEDDLE_BLOCK_FREEING) {
    pthread_mutex_unlock(&m->lock);
    return CUDA_ERROR_INVALID_VALUE;
  }
  b->flags |= HEDDLE_BLOCK_FREEING;
  pthread_mutex_unlock(&m->lock);
  CUresult r = heddle_order_drain_all(m->session);
  struct heddle_segment *drop = NULL;
  pthread_mutex_lock(&m->lock);
  if (r != CUDA_SUCCESS) {
    b->flags &= ~(uint32_t)HEDDLE_BLOCK_FREEING;
  } else {
    struct heddle_span *span = heddle_heap_free(&m->host, b);
    // One empty segment of the shared size stays for the next small request.
    if (!span->used && (span->bytes > CHUNK || m->host.total - m->host.used > 2 * CHUNK)) {
      drop = span->owner;
      heddle_heap_remove(&m->host, span);
      drop->span = NULL;
    }
  }
  pthread_mutex_unlock(&m->lock);
  if (drop) heddle_host_drop(m, drop);
  return r;
}

CUresult heddle_hook_cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags) {
  // Our segments are registered whole, so the driver answers for any address inside them; only a freed block must be told apart.
  struct heddle_region *region = heddle_region_find((uintptr_t)p);
  if (region && region->host) {
    struct heddle_memory *m;
    struct heddle_segment *s;
    struct heddle_block *b = heddle_block_locked((uintptr_t)p, &m, &s);
    if (!b) return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_unlock(&m->lock);
  }
  return heddle_real.cuMemHostGetDevicePointer_v2(pdptr, p, Flags);
}

CUresult heddle_hook_cuMemHostGetFlags(unsigned int *pFlags, void *p) {
  struct heddle_region *region = heddle_region_find((uintptr_t)p);
  if (!region || !region->host || !pFlags) return heddle_real.cuMemHostGetFlags(pFlags, p);
  struct heddle_memory *m;
  struct heddle_segment *s;
  struct heddle_block *b = heddle_block_locked((uintptr_t)p, &m, &s);
  if (!b) return CUDA_ERROR_INVALID_VALUE;
  // With unified addressing every allocation is mapped, and the driver says so.
  *pFlags = (b->flags & ~(uint32_t)HEDDLE_BLOCK_FREEING) | CU_MEMHOSTALLOC_DEVICEMAP;
  pthread_mutex_unlock(&m->lock);
  return CUDA_SUCCESS;
}

CUresult heddle_hook_cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags) {
  struct heddle_region *region = p ? heddle_region_find((uintptr_t)p) : NULL;
  if (region && region->host) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  CUresult r = heddle_memory_sticky();
  if (r != CUDA_SUCCESS) return r;
  r = heddle_real.cuMemHostRegister_v2(p, bytesize, Flags);
  if (r == CUDA_SUCCESS) {
    heddle_session_current(); // registering may be the first thing a program does; kernels must find the range
    host_foreign(p, bytesize);
  }
  return r;
}

CUresult heddle_hook_cuMemHostUnregister(void *p) {
  struct heddle_region *region = p ? heddle_region_find((uintptr_t)p) : NULL;
  if (region && region->host) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  struct heddle_memory *m = NULL;
  CUdevice device;
  if (heddle_real.cuCtxGetDevice(&device) == CUDA_SUCCESS && (m = heddle_memory_of_device(device))) {
    CUresult r = heddle_order_drain_all(m->session);
    if (r != CUDA_SUCCESS) return r;
  }
  CUresult r = heddle_real.cuMemHostUnregister(p);
  if (r == CUDA_SUCCESS) side_drop(p);
  return r;
}
