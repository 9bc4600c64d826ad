// The client's own virtual memory management (PyTorch's expandable segments, JAX, vLLM): reservations come from our window, handles
// are exportable, and what is mapped there is mapped in the executor too. Source: CUDA driver API, "Virtual Memory Management".
#include "../graph/graph.h"
#include "../hooks/hooks.h"
#include "../log.h"
#include "inner.h"

enum { RESERVED_BY_CLIENT = 1 }; // in the flags of a block of memory->space

// The memory whose window serves a reservation: the current device's, or that of the only device in use.
static struct heddle_memory *serving(void) {
  struct heddle_memory *m = heddle_memory_of(heddle_session_current());
  for (CUdevice d = 0; !m && d < HEDDLE_MAX_DEVICES; d++) m = heddle_memory_of_device(d);
  return m && atomic_load_explicit(&m->session->live, memory_order_acquire) ? m : NULL;
}

CUresult heddle_hook_cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr, unsigned long long flags) {
  struct heddle_region *region = addr ? heddle_region_find(addr) : NULL;
  bool plain = ptr && size && !(size & (HEDDLE_GRANULE - 1)) && !(alignment & (alignment - 1)) && !flags;
  // An address outside our windows is a wish that only the driver can grant; what is mapped there stays native.
  struct heddle_memory *m = !plain ? NULL : !addr ? serving() : region && !region->host ? region->memory : NULL;
  if (!m) return heddle_real.cuMemAddressReserve(ptr, size, alignment, addr, flags);
  struct heddle_block *b = addr && !(addr & (HEDDLE_GRANULE - 1)) ? heddle_window_take_at(m, addr, size) : NULL;
  if (!b) b = heddle_window_take(m, size, alignment > HEDDLE_GRANULE ? alignment : HEDDLE_GRANULE);
  if (!b) return heddle_real.cuMemAddressReserve(ptr, size, alignment, addr, flags);
  pthread_mutex_lock(&m->lock);
  b->flags = RESERVED_BY_CLIENT;
  b->requested = size;
  *ptr = b->address;
  pthread_mutex_unlock(&m->lock);
  return CUDA_SUCCESS;
}

// The client's reservation that holds [address, +bytes); lock held.
static struct heddle_block *reservation(struct heddle_memory *m, uint64_t address, uint64_t bytes) {
  struct heddle_block *b = heddle_heap_find(&m->space, address);
  if (!b || b->free || !(b->flags & RESERVED_BY_CLIENT)) return NULL;
  return bytes <= b->bytes - (address - b->address) ? b : NULL;
}

CUresult heddle_hook_cuMemAddressFree(CUdeviceptr ptr, size_t size) {
  struct heddle_region *region = heddle_region_find(ptr);
  if (!region || region->host) return heddle_real.cuMemAddressFree(ptr, size);
  struct heddle_memory *m = region->memory;
  CUresult r = CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&m->lock);
  struct heddle_block *b = reservation(m, ptr, size);
  if (b && b->address == ptr && b->requested == size) {
    bool mapped = false;
    for (uint64_t at = ptr; at < ptr + size; at += HEDDLE_GRANULE) mapped |= heddle_segment_find(region, at) != NULL;
    if (!mapped) {
      heddle_heap_free(&m->space, b);
      r = CUDA_SUCCESS;
    }
  }
  pthread_mutex_unlock(&m->lock);
  return r;
}

CUresult heddle_hook_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop, unsigned long long flags) {
  if (!handle || !prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED || prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
      (prop->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR))
    return heddle_real.cuMemCreate(handle, size, prop, flags);
  struct heddle_session *s = heddle_session_of_device(prop->location.id);
  struct heddle_memory *m = heddle_memory_of(s);
  if (!m) return heddle_real.cuMemCreate(handle, size, prop, flags);
  CUmemAllocationProp exportable = *prop;
  exportable.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR; // without it the executor could not map it
  CUresult r = heddle_real.cuMemCreate(handle, size, &exportable, flags);
  if (r == CUDA_ERROR_OUT_OF_MEMORY && heddle_memory_trim(m) > 0) r = heddle_real.cuMemCreate(handle, size, &exportable, flags);
  if (r != CUDA_SUCCESS && r != CUDA_ERROR_OUT_OF_MEMORY) r = heddle_real.cuMemCreate(handle, size, prop, flags);
  return r;
}

// Makes a mapping of the client's known to the executor; false: kernels that use it run natively.
static bool client_share(struct heddle_memory *m, struct heddle_region *region, CUdeviceptr ptr, size_t size, CUmemGenericAllocationHandle handle) {
  CUmemAllocationProp prop = {0};
  if ((ptr | size) & (HEDDLE_GRANULE - 1)) return false;
  if (heddle_real.cuMemGetAllocationPropertiesFromHandle(&prop, handle) != CUDA_SUCCESS) return false;
  if (prop.location.type != CU_MEM_LOCATION_TYPE_DEVICE || prop.location.id != m->device) return false;
  // What the client maps side by side may be one allocation to it, and what it maps twice is one memory at two addresses.
  if (!heddle_segment_share(m, ptr, size, HEDDLE_WIRE_SEGMENT_FLAG_PART, handle)) return false;
  pthread_mutex_lock(&m->lock);
  struct heddle_segment *s = heddle_segment_new(m);
  if (s) {
    s->handle = handle;
    atomic_store_explicit(&s->base, ptr, memory_order_relaxed);
    atomic_store_explicit(&s->bytes, size, memory_order_relaxed);
    atomic_store_explicit(&s->kind, HEDDLE_SEGMENT_CLIENT, memory_order_relaxed);
    heddle_segment_publish(region, s);
  }
  pthread_mutex_unlock(&m->lock);
  return s != NULL;
}

CUresult heddle_hook_cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags) {
  struct heddle_region *region = heddle_region_find(ptr);
  struct heddle_memory *m = region && !region->host ? region->memory : NULL;
  if (m) {
    pthread_mutex_lock(&m->lock);
    bool reserved = reservation(m, ptr, size) != NULL;
    pthread_mutex_unlock(&m->lock);
    if (!reserved) return CUDA_ERROR_INVALID_VALUE; // the window is reserved for the driver, but not by this client
  }
  CUresult r = heddle_real.cuMemMap(ptr, size, offset, handle, flags);
  if (r != CUDA_SUCCESS) return r;
  if (m && !offset && client_share(m, region, ptr, size, handle)) return r;
  struct heddle_memory *any = m ? m : serving();
  if (any) heddle_foreign_add(any->device, ptr, size);
  return r;
}

// Takes the client's segments inside [ptr, +size) out of the table and tells the executor.
static void client_unshare(struct heddle_region *region, CUdeviceptr ptr, size_t size) {
  struct heddle_memory *m = region->memory;
  for (uint64_t at = ptr; at < ptr + size;) {
    struct heddle_segment *s = heddle_segment_find(region, at);
    if (!s || s->kind != HEDDLE_SEGMENT_CLIENT) {
      at += HEDDLE_GRANULE;
      continue;
    }
    struct heddle_wire_range range = {.address = s->base, .bytes = s->bytes}, reply;
    int nfds = 0;
    at = range.address + range.bytes;
    heddle_graph_memory_gone(m->session, range.address, range.bytes);
    heddle_session_request(m->session, HEDDLE_WIRE_TYPE_SEGMENT_DROP, &range, sizeof range, NULL, 0, NULL, 0, &reply, sizeof reply, NULL,
                           &nfds);
    pthread_mutex_lock(&m->lock);
    heddle_segment_unpublish(region, s);
    heddle_segment_recycle(m, s);
    pthread_mutex_unlock(&m->lock);
  }
}

CUresult heddle_hook_cuMemUnmap(CUdeviceptr ptr, size_t size) {
  struct heddle_region *region = heddle_region_find(ptr);
  struct heddle_memory *m = region && !region->host ? region->memory : NULL;
  if (m) {
    pthread_mutex_lock(&m->lock);
    bool reserved = reservation(m, ptr, size) != NULL;
    pthread_mutex_unlock(&m->lock);
    if (!reserved) return CUDA_ERROR_INVALID_VALUE; // our own segments are not the client's to unmap
    CUresult drained = heddle_order_drain_all(m->session);
    if (drained != CUDA_SUCCESS) return drained;
  }
  CUresult r = heddle_real.cuMemUnmap(ptr, size);
  if (r != CUDA_SUCCESS) return r;
  if (m) client_unshare(region, ptr, size);
  for (struct heddle_range range; heddle_ranges_find(&heddle_side_ranges, ptr, &range) && range.base >= ptr && range.base < ptr + size;) {
    heddle_foreign_drop(range.base);
    if (range.bytes >= size) break;
    ptr += range.bytes; // several mappings may be unmapped at once
    size -= range.bytes;
  }
  return r;
}

// Access rights of the client's mappings are the client's: the executor maps read-write whatever is shared with it.
CUresult heddle_hook_cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count) {
  return heddle_real.cuMemSetAccess(ptr, size, desc, count);
}
CUresult heddle_hook_cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr) {
  return heddle_real.cuMemGetAccess(flags, location, ptr);
}

// A handle that a mapping still uses stays valid until it is unmapped, here and in the executor.
CUresult heddle_hook_cuMemRelease(CUmemGenericAllocationHandle handle) { return heddle_real.cuMemRelease(handle); }
CUresult heddle_hook_cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType handleType,
                                                  unsigned long long flags) {
  return heddle_real.cuMemExportToShareableHandle(shareableHandle, handle, handleType, flags);
}
CUresult heddle_hook_cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *osHandle, CUmemAllocationHandleType shHandleType) {
  return heddle_real.cuMemImportFromShareableHandle(handle, osHandle, shHandleType);
}
CUresult heddle_hook_cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop, CUmemGenericAllocationHandle handle) {
  return heddle_real.cuMemGetAllocationPropertiesFromHandle(prop, handle);
}

CUresult heddle_hook_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr) {
  struct heddle_region *region = heddle_region_find((uintptr_t)addr);
  struct heddle_segment *s = region ? heddle_segment_find(region, (uintptr_t)addr) : NULL;
  // Memory of cuMemAlloc has no handle natively; giving out ours would let the client keep a whole shared segment alive.
  if (s && s->kind != HEDDLE_SEGMENT_CLIENT) return CUDA_ERROR_INVALID_VALUE;
  return heddle_real.cuMemRetainAllocationHandle(handle, addr);
}
