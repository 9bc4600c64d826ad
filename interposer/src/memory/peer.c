// Access from other devices. The driver gives memory of cuMemAlloc to every device that enabled peer access; mapped memory must be
// given to each by name. Source: CUDA driver API, "Peer Context Memory Access", cuMemSetAccess.
#include <stdlib.h>

#include "../hooks/hooks.h"
#include "inner.h"

_Atomic uint32_t heddle_peers[HEDDLE_MAX_DEVICES];

size_t heddle_peer_access(CUdevice owner, CUmemAccessDesc *desc) {
  uint32_t peers = atomic_load(&heddle_peers[owner]);
  size_t n = 0;
  desc[n++] = (CUmemAccessDesc){.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = owner}, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  for (CUdevice d = 0; d < HEDDLE_MAX_DEVICES; d++)
    if (peers >> d & 1 && d != owner)
      desc[n++] = (CUmemAccessDesc){.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = d}, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  return n;
}

struct extent {
  uint64_t base, bytes;
};

// Every segment of ours at this moment; *n receives their number, the caller frees the list. NULL: none, or no host memory.
static struct extent *extents(struct heddle_memory *m, size_t *n) {
  size_t room = 0;
  *n = 0;
  pthread_mutex_lock(&m->lock);
  for (struct heddle_span *s = m->blocks.spans; s; s = s->after) room++;
  for (struct heddle_span *s = m->stream.spans; s; s = s->after) room++;
  for (struct heddle_segment *s = m->cached; s; s = s->next) room++;
  for (struct heddle_opened *o = m->opened; o; o = o->next) room++;
  struct extent *list = room ? malloc(room * sizeof *list) : NULL;
  if (list) {
    for (struct heddle_span *s = m->blocks.spans; s; s = s->after) list[(*n)++] = (struct extent){s->base, s->bytes};
    for (struct heddle_span *s = m->stream.spans; s; s = s->after) list[(*n)++] = (struct extent){s->base, s->bytes};
    for (struct heddle_segment *s = m->cached; s; s = s->next) list[(*n)++] = (struct extent){s->base, s->bytes};
    for (struct heddle_opened *o = m->opened; o; o = o->next) list[(*n)++] = (struct extent){o->segment->base, o->segment->bytes};
  }
  pthread_mutex_unlock(&m->lock);
  return list;
}

static void grant(CUdevice owner, CUdevice peer) {
  if (owner < 0 || owner >= HEDDLE_MAX_DEVICES || peer < 0 || peer >= HEDDLE_MAX_DEVICES || owner == peer) return;
  // From now on new segments are made with it; then those that exist follow.
  if (atomic_fetch_or(&heddle_peers[owner], 1u << peer) >> peer & 1) return;
  struct heddle_memory *m = heddle_memory_of_device(owner);
  if (!m) return;
  size_t n;
  struct extent *list = extents(m, &n);
  CUmemAccessDesc desc = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = peer}, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  for (size_t i = 0; i < n; i++) heddle_real.cuMemSetAccess(list[i].base, list[i].bytes, &desc, 1);
  free(list);
}

// The device of a context that need not be current.
static bool device_of(CUcontext context, CUdevice *device) {
  CUcontext popped;
  if (heddle_real.cuCtxPushCurrent_v2(context) != CUDA_SUCCESS) return false;
  bool ok = heddle_real.cuCtxGetDevice(device) == CUDA_SUCCESS;
  heddle_real.cuCtxPopCurrent_v2(&popped);
  return ok;
}

CUresult heddle_hook_cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags) {
  CUresult r = heddle_real.cuCtxEnablePeerAccess(peerContext, Flags);
  CUdevice here, owner;
  if (r == CUDA_SUCCESS && heddle_real.cuCtxGetDevice(&here) == CUDA_SUCCESS && device_of(peerContext, &owner)) grant(owner, here);
  return r;
}

CUresult heddle_hook_cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count) {
  CUresult r = heddle_real.cuMemPoolSetAccess(pool, map, count);
  CUdevice owner;
  if (r != CUDA_SUCCESS || !heddle_pool_device(pool, &owner)) return r;
  for (size_t i = 0; i < count; i++)
    if (map[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE && map[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE) grant(owner, map[i].location.id);
  return r;
}
