// The windows: addresses that the daemon set aside for this process on one device. Source: design.md section 4.
#include <stdio.h>
#include <string.h>

#include "../lane.h"
#include "../log.h"
#include "inner.h"

static struct heddle_memory memories[HEDDLE_MAX_DEVICES];
static _Atomic uint32_t attached; // bit d: memories[d] is in use, and stays so when the session closes

struct heddle_memory *heddle_memory_of_device(CUdevice device) {
  if (device < 0 || device >= HEDDLE_MAX_DEVICES) return NULL;
  return atomic_load_explicit(&attached, memory_order_acquire) >> device & 1 ? &memories[device] : NULL;
}

struct heddle_memory *heddle_memory_of(struct heddle_session *s) { return s ? heddle_memory_of_device(s->device) : NULL; }

struct heddle_memory *heddle_memory_serving(CUresult *sticky) {
  CUdevice device;
  *sticky = CUDA_SUCCESS;
  if (heddle_real.cuCtxGetDevice(&device) != CUDA_SUCCESS) return NULL;
  struct heddle_session *s = heddle_session_of_device(device), *ever = s ? s : heddle_session_peek(device);
  if (ever) *sticky = heddle_sticky(ever);
  return heddle_memory_of(s);
}

CUresult heddle_memory_sticky(void) {
  CUdevice device;
  struct heddle_session *s = heddle_real.cuCtxGetDevice(&device) == CUDA_SUCCESS ? heddle_session_peek(device) : NULL;
  return s ? heddle_sticky(s) : CUDA_SUCCESS;
}

// Reserves exactly [base, base+bytes): the driver treats an address as a hint, so what comes back is compared.
static bool reserve(uint64_t base, uint64_t bytes) {
  CUdeviceptr got = 0;
  if (heddle_real.cuMemAddressReserve(&got, bytes, 0, base, 0) != CUDA_SUCCESS) return false;
  if (got == base) return true;
  heddle_real.cuMemAddressFree(got, bytes);
  return false;
}

static bool window_good(uint64_t base, uint64_t bytes) {
  return base && bytes >= HEDDLE_GRANULE && !((base | bytes) & (HEDDLE_GRANULE - 1)) && base + bytes > base;
}

// Reserves the window, or others that the daemon offers, until one is ours.
static bool window_add(struct heddle_memory *m, uint64_t base, uint64_t bytes) {
  enum { TRIES = 4 }; // each refusal is an address range that something else in this process occupies
  for (int i = 0; i < TRIES; i++) {
    if (window_good(base, bytes) && reserve(base, bytes)) {
      pthread_mutex_lock(&m->lock);
      struct heddle_span *span = heddle_heap_add(&m->space, base, bytes, NULL);
      bool ok = span != NULL && heddle_region_add(m, base, bytes, false);
      if (span != NULL && !ok) heddle_heap_remove(&m->space, span); // nobody has taken an address of it: the lock was held
      pthread_mutex_unlock(&m->lock);
      if (!ok) heddle_real.cuMemAddressFree(base, bytes);
      return ok;
    }
    struct heddle_wire_range ask = {.bytes = bytes}, reply = {0};
    int nfds = 0;
    if (heddle_session_request(m->session, HEDDLE_WIRE_TYPE_WINDOW, &ask, sizeof ask, NULL, 0, NULL, 0, &reply, sizeof reply, NULL,
                               &nfds) != HEDDLE_WIRE_STATUS_OK)
      return false;
    base = reply.address;
    bytes = reply.bytes;
  }
  return false;
}

bool heddle_memory_attach(struct heddle_session *s) {
  struct heddle_memory *m = &memories[s->device];
  CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                              .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = s->device},
                              .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR};
  size_t granule = 0;
  CUresult r = heddle_real.cuMemGetAllocationGranularity
                   ? heddle_real.cuMemGetAllocationGranularity(&granule, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM)
                   : CUDA_ERROR_NOT_SUPPORTED;
  if (r != CUDA_SUCCESS || !granule || HEDDLE_GRANULE % granule) {
    heddle_log(HEDDLE_LOG_WARN,
               "device %d: cuMemGetAllocationGranularity gave error %d, %zu bytes; a divisor of 2 MiB is needed: running natively",
               s->device, (int)r, granule);
    return false;
  }
  pthread_mutex_init(&m->lock, NULL);
  m->session = s;
  m->device = s->device;
  heddle_heap_init(&m->space, HEDDLE_GRANULE);
  heddle_heap_init(&m->blocks, HEDDLE_UNIT);
  heddle_heap_init(&m->stream, HEDDLE_UNIT);
  heddle_heap_init(&m->host, HEDDLE_UNIT);
  size_t total = 0;
  heddle_real.cuDeviceTotalMem_v2(&total, s->device);
  m->device_bytes = total;
  m->cache_limit = total / 256 < (256u << 20) ? total / 256 : (256u << 20);
  int rdma = 0;
  heddle_real.cuDeviceGetAttribute(&rdma, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED, s->device);
  m->rdma = rdma != 0;
  if (!window_add(m, s->window_base, s->window_bytes)) {
    heddle_log(HEDDLE_LOG_WARN,
               "device %d: cannot reserve the window of %llu GiB at 0x%llx, nor three others: running natively (is something else "
               "mapped there? see /proc/self/maps)",
               s->device, (unsigned long long)(s->window_bytes >> 30), (unsigned long long)s->window_base);
    return false;
  }
  // Host segments are an extra: without their table pinned memory comes from the driver.
  if (s->host_base && s->host_bytes && !(s->host_base & (HEDDLE_GRANULE - 1))) heddle_region_add(m, s->host_base, s->host_bytes, true);
  atomic_fetch_or_explicit(&attached, 1u << s->device, memory_order_release);
  return true;
}

static struct heddle_block *take(struct heddle_memory *m, uint64_t bytes, uint64_t align) {
  pthread_mutex_lock(&m->lock);
  struct heddle_block *b = heddle_heap_alloc(&m->space, bytes, align);
  pthread_mutex_unlock(&m->lock);
  return b;
}

struct heddle_block *heddle_window_take(struct heddle_memory *m, uint64_t bytes, uint64_t align) {
  struct heddle_block *b = take(m, bytes, align);
  if (b) return b;
  if (bytes > UINT64_MAX / 4 || align > UINT64_MAX / 4) return NULL;
  // Room for this one at least; the daemon rounds up to its own window size.
  uint64_t want = bytes + (align > HEDDLE_GRANULE ? align : 0);
  struct heddle_wire_range ask = {.bytes = want}, reply = {0};
  int nfds = 0;
  if (heddle_session_request(m->session, HEDDLE_WIRE_TYPE_WINDOW, &ask, sizeof ask, NULL, 0, NULL, 0, &reply, sizeof reply, NULL,
                             &nfds) != HEDDLE_WIRE_STATUS_OK)
    return NULL;
  if (reply.bytes < want || !window_add(m, reply.address, reply.bytes)) return NULL;
  return take(m, bytes, align);
}

struct heddle_block *heddle_window_take_at(struct heddle_memory *m, uint64_t address, uint64_t bytes) {
  pthread_mutex_lock(&m->lock);
  struct heddle_block *b = heddle_heap_alloc_at(&m->space, address, bytes);
  pthread_mutex_unlock(&m->lock);
  return b;
}

void heddle_window_give(struct heddle_memory *m, struct heddle_block *place) {
  pthread_mutex_lock(&m->lock);
  heddle_heap_free(&m->space, place);
  pthread_mutex_unlock(&m->lock);
}
