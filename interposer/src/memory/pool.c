// Memory pools. The pool objects are the driver's own, so that handles, attributes and errors are natural; what is allocated from
// them comes from our segments, unless the pool is there to be exported or lies elsewhere than on the device.
#include "../hooks/hooks_gen.h"
#include "../hooks/real_gen.h"
#include "inner.h"

enum { POOLS = 256 }; // pools that a client created; those beyond it are served by the driver

static struct pool {
  CUmemoryPool handle;
  CUdevice device;
  bool served;
  int64_t used, high;
} pools[POOLS];
static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;

static struct pool *pool_find(CUmemoryPool handle) {
  for (int i = 0; i < POOLS; i++)
    if (pools[i].handle == handle) return &pools[i];
  return NULL;
}

static struct pool *pool_add(CUmemoryPool handle, CUdevice device, bool served) {
  struct pool *p = pool_find(handle);
  if (!p) p = pool_find(NULL);
  if (p) *p = (struct pool){.handle = handle, .device = device, .served = served};
  return p;
}

// The entry of a pool; a device's default pool, which nobody created, gets its entry here. The lock is held.
static struct pool *pool_known(CUmemoryPool handle, CUdevice device) {
  struct pool *p = handle ? pool_find(handle) : NULL;
  CUmemoryPool standard = NULL;
  if (!p && heddle_real.cuDeviceGetDefaultMemPool && heddle_real.cuDeviceGetDefaultMemPool(&standard, device) == CUDA_SUCCESS && standard == handle)
    p = pool_add(handle, device, true);
  return p;
}

bool heddle_pool_device(CUmemoryPool handle, CUdevice *device) {
  int devices = 0;
  struct pool *p = NULL;
  heddle_real.cuDeviceGetCount(&devices);
  pthread_mutex_lock(&pool_lock);
  for (CUdevice d = 0; !p && d < devices && d < HEDDLE_MAX_DEVICES; d++) p = pool_known(handle, d);
  bool served = p && p->served;
  if (served) *device = p->device;
  pthread_mutex_unlock(&pool_lock);
  return served;
}

bool heddle_pool_served(CUmemoryPool handle, CUdevice device) {
  pthread_mutex_lock(&pool_lock);
  struct pool *p = pool_known(handle, device);
  bool served = p && p->served && p->device == device;
  pthread_mutex_unlock(&pool_lock);
  return served;
}

void heddle_pool_account(CUmemoryPool handle, int64_t bytes) {
  pthread_mutex_lock(&pool_lock);
  struct pool *p = handle ? pool_find(handle) : NULL;
  if (p) {
    p->used += bytes;
    if (p->used > p->high) p->high = p->used;
  }
  pthread_mutex_unlock(&pool_lock);
}

CUresult heddle_hook_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps) {
  CUresult r = heddle_real.cuMemPoolCreate(pool, poolProps);
  if (r != CUDA_SUCCESS) return r;
  bool served = poolProps->allocType == CU_MEM_ALLOCATION_TYPE_PINNED && poolProps->handleTypes == CU_MEM_HANDLE_TYPE_NONE &&
                poolProps->location.type == CU_MEM_LOCATION_TYPE_DEVICE && poolProps->maxSize == 0;
  pthread_mutex_lock(&pool_lock);
  pool_add(*pool, poolProps->location.id, served);
  pthread_mutex_unlock(&pool_lock);
  return r;
}

CUresult heddle_hook_cuMemPoolDestroy(CUmemoryPool pool) {
  CUresult r = heddle_real.cuMemPoolDestroy(pool);
  if (r != CUDA_SUCCESS) return r;
  pthread_mutex_lock(&pool_lock);
  struct pool *p = pool ? pool_find(pool) : NULL;
  if (p) *p = (struct pool){0};
  pthread_mutex_unlock(&pool_lock);
  return r;
}

// The pool's entry when we serve it, with the memory of its device.
static struct pool *served_pool(CUmemoryPool handle, struct heddle_memory **m) {
  struct pool *p = handle ? pool_find(handle) : NULL;
  *m = p && p->served ? heddle_memory_of_device(p->device) : NULL;
  return *m ? p : NULL;
}

CUresult heddle_hook_cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep) {
  CUresult r = heddle_real.cuMemPoolTrimTo(pool, minBytesToKeep);
  if (r != CUDA_SUCCESS) return r;
  struct heddle_memory *m;
  pthread_mutex_lock(&pool_lock);
  served_pool(pool, &m);
  pthread_mutex_unlock(&pool_lock);
  if (!m) return r;
  struct heddle_segment *drop = NULL;
  pthread_mutex_lock(&m->lock);
  heddle_stream_collect_locked(m);
  for (struct heddle_span *span = m->stream.spans, *next; span && m->stream.total > minBytesToKeep; span = next) {
    next = span->after;
    if (!span->used) heddle_segment_retire(m, &m->stream, span, &drop);
  }
  while (m->cached) { // the client asks for memory back: what is cached goes too
    struct heddle_segment *s = m->cached;
    m->cached = s->next;
    s->next = drop;
    drop = s;
  }
  m->cached_bytes = 0;
  pthread_mutex_unlock(&m->lock);
  heddle_segment_drop_list(m, drop);
  return r;
}

CUresult heddle_hook_cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
  CUresult r = heddle_real.cuMemPoolSetAttribute(pool, attr, value);
  if (r != CUDA_SUCCESS) return r;
  struct heddle_memory *m;
  pthread_mutex_lock(&pool_lock);
  struct pool *p = served_pool(pool, &m);
  if (p && attr == CU_MEMPOOL_ATTR_USED_MEM_HIGH) p->high = p->used; // may only be set to 0: starts anew
  pthread_mutex_unlock(&pool_lock);
  if (!m) return r;
  pthread_mutex_lock(&m->lock);
  if (attr == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) {
    uint64_t keep = *(cuuint64_t *)value;
    if (keep > m->stream_keep) m->stream_keep = keep; // one heap serves all pools of a device
  } else if (attr == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH) {
    m->stream_high = m->stream.total;
  }
  pthread_mutex_unlock(&m->lock);
  return r;
}

CUresult heddle_hook_cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
  CUresult r = heddle_real.cuMemPoolGetAttribute(pool, attr, value);
  if (r != CUDA_SUCCESS) return r;
  struct heddle_memory *m;
  pthread_mutex_lock(&pool_lock);
  struct pool *p = served_pool(pool, &m);
  uint64_t used = p ? (uint64_t)p->used : 0, high = p ? (uint64_t)p->high : 0;
  pthread_mutex_unlock(&pool_lock);
  if (!m) return r;
  // Graph memory and our fallbacks come from the driver's side of the pool: both sides count.
  cuuint64_t *v = value;
  pthread_mutex_lock(&m->lock);
  switch (attr) {
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *v += used; break;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *v += high; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: *v += m->stream.total; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: *v += m->stream_high; break;
    default: break;
  }
  pthread_mutex_unlock(&m->lock);
  return r;
}

// Imported pool memory belongs to another process: mapped where the driver likes, unknown to the executor.
CUresult heddle_hook_cuMemPoolImportPointer(CUdeviceptr *ptr_out, CUmemoryPool pool, CUmemPoolPtrExportData *shareData) {
  CUresult r = heddle_real.cuMemPoolImportPointer(ptr_out, pool, shareData);
  CUdeviceptr base = 0;
  size_t bytes = 0;
  CUdevice device = 0;
  if (r == CUDA_SUCCESS && heddle_real.cuMemGetAddressRange_v2(&base, &bytes, *ptr_out) == CUDA_SUCCESS &&
      heddle_real.cuCtxGetDevice(&device) == CUDA_SUCCESS)
    heddle_foreign_add(device, base, bytes);
  return r;
}

// Which pool is current is asked from the driver at each allocation, so these have nothing to remember.
CUresult heddle_hook_cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) { return heddle_real.cuDeviceSetMemPool(dev, pool); }
CUresult heddle_hook_cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool) {
  return heddle_real.cuMemSetMemPool(location, type, pool);
}
