// Answers about pointers. What sub-allocation would make visible (a whole segment instead of the allocation) is answered from our
// records; everything else is the driver's answer. Source: CUDA driver API, "Unified Addressing".
#include <string.h>

#include "../hooks/hooks.h"
#include "inner.h"

// A copy of what is recorded about the allocation that holds an address.
struct facts {
  uint64_t base, bytes, id;
  CUcontext context;
  CUmemoryPool pool;
  bool host, shareable;
};

static bool opened_facts(CUdeviceptr address, struct facts *f) {
  struct heddle_region *region = heddle_region_find(address);
  if (!region || region->host) return false;
  pthread_mutex_lock(&region->memory->lock);
  const struct heddle_opened *o = heddle_opened_at(region->memory, address);
  if (o) *f = (struct facts){o->address, o->bytes, o->id, o->context, NULL, false, false};
  pthread_mutex_unlock(&region->memory->lock);
  return o != NULL;
}

static bool block_facts(CUdeviceptr address, struct facts *f) {
  struct heddle_memory *m;
  struct heddle_segment *s;
  struct heddle_block *b = heddle_block_locked(address, &m, &s);
  if (!b) return opened_facts(address, f);
  *f = (struct facts){b->address, b->requested, b->id, b->context, b->pool, s->kind == HEDDLE_SEGMENT_HOST, s->kind == HEDDLE_SEGMENT_DEVICE};
  pthread_mutex_unlock(&m->lock);
  // Behind the bytes asked for lies padding: natively nobody's.
  return address - f->base < f->bytes;
}

// True when the address is in memory of ours that is not allocated to the client at the moment.
static bool nobodys(CUdeviceptr address) {
  struct heddle_region *region = heddle_region_find(address);
  if (!region) return false;
  struct heddle_segment *s = heddle_segment_find(region, address);
  struct heddle_range range; // a mapping of the client's that the executor does not have
  return s ? s->kind != HEDDLE_SEGMENT_CLIENT : !heddle_ranges_find(&heddle_side_ranges, address, &range);
}

CUresult heddle_hook_cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr) {
  struct facts f;
  if (block_facts(dptr, &f)) {
    if (pbase) *pbase = f.base;
    if (psize) *psize = f.bytes;
    return CUDA_SUCCESS;
  }
  if (nobodys(dptr)) return CUDA_ERROR_NOT_FOUND;
  struct heddle_range range;
  if (heddle_memory_where(dptr, 1, NULL) == HEDDLE_WHERE_GLOBAL && heddle_ranges_find(&heddle_side_ranges, dptr, &range)) {
    if (pbase) *pbase = range.base;
    if (psize) *psize = range.bytes;
    return CUDA_SUCCESS;
  }
  return heddle_real.cuMemGetAddressRange_v2(pbase, psize, dptr);
}

// Replaces the driver's answer for memory that we serve. False: the driver's stands.
static bool attribute_of_block(void *data, CUpointer_attribute attribute, CUdeviceptr ptr, const struct facts *f) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: memcpy(data, &f->context, sizeof f->context); return true;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: memcpy(data, &ptr, sizeof ptr); return true;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID: memcpy(data, &f->id, sizeof f->id); return true;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: memcpy(data, &f->base, sizeof f->base); return true;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: {
      size_t bytes = f->bytes;
      memcpy(data, &bytes, sizeof bytes);
      return true;
    }
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES: { // natively none: the segment's handle is not the client's to export
      uint64_t none = 0;
      memcpy(data, &none, sizeof none);
      return true;
    }
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: {
      int yes = f->shareable;
      memcpy(data, &yes, sizeof yes);
      return true;
    }
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE: memcpy(data, &f->pool, sizeof f->pool); return true;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      if (!f->host) return false;
      memcpy(data, &ptr, sizeof ptr);
      return true;
    default: return false;
  }
}

// Natural answers for a device global that lives in the executor, which this process's driver has never heard of.
static bool attribute_of_global(void *data, CUpointer_attribute attribute, CUdeviceptr ptr) {
  struct heddle_session *s = NULL;
  struct heddle_range range;
  if (heddle_memory_where(ptr, 1, &s) != HEDDLE_WHERE_GLOBAL || !s || !heddle_ranges_find(&heddle_side_ranges, ptr, &range)) return false;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: {
      unsigned type = CU_MEMORYTYPE_DEVICE;
      memcpy(data, &type, sizeof type);
      return true;
    }
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: memcpy(data, &ptr, sizeof ptr); return true;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: memcpy(data, &s->device, sizeof s->device); return true;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: {
      int no = 0;
      memcpy(data, &no, sizeof no);
      return true;
    }
    case CU_POINTER_ATTRIBUTE_MAPPED: {
      int yes = 1;
      memcpy(data, &yes, sizeof yes);
      return true;
    }
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: memcpy(data, &range.base, sizeof range.base); return true;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: {
      size_t bytes = range.bytes;
      memcpy(data, &bytes, sizeof bytes);
      return true;
    }
    default: return false;
  }
}

CUresult heddle_hook_cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr) {
  struct facts f;
  if (data && block_facts(ptr, &f)) {
    if (attribute_of_block(data, attribute, ptr, &f)) return CUDA_SUCCESS;
  } else if (data && nobodys(ptr)) {
    return CUDA_ERROR_INVALID_VALUE; // freed, or padding: the driver would know the segment and say yes
  } else if (data && attribute_of_global(data, attribute, ptr)) {
    return CUDA_SUCCESS;
  }
  return heddle_real.cuPointerGetAttribute(data, attribute, ptr);
}

CUresult heddle_hook_cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute *attributes, void **data, CUdeviceptr ptr) {
  CUdeviceptr asked = ptr;
  // The driver answers unknown pointers with zeros; one that is certainly nobody's gives those for freed memory.
  if (nobodys(ptr)) {
    struct facts f;
    if (!block_facts(ptr, &f)) asked = 0;
  }
  CUresult r = heddle_real.cuPointerGetAttributes(numAttributes, attributes, data, asked);
  if (r != CUDA_SUCCESS || asked != ptr) return r;
  struct facts f;
  bool block = block_facts(ptr, &f);
  for (unsigned i = 0; i < numAttributes; i++) {
    if (!data[i]) continue;
    if (block) attribute_of_block(data[i], attributes[i], ptr, &f);
    else attribute_of_global(data[i], attributes[i], ptr);
  }
  return r;
}

CUresult heddle_hook_cuPointerSetAttribute(const void *value, CUpointer_attribute attribute, CUdeviceptr ptr) {
  CUresult r = heddle_real.cuPointerSetAttribute(value, attribute, ptr);
  struct facts f;
  // Mapped memory may refuse SYNC_MEMOPS; our synchronous copies always complete before they return, which is what it asks for.
  if (r != CUDA_SUCCESS && value && attribute == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS && block_facts(ptr, &f)) return CUDA_SUCCESS;
  return r;
}

// A dma-buf of a range is cut from the mapping, so sub-allocation does not show.
CUresult heddle_hook_cuMemGetHandleForAddressRange(void *handle, CUdeviceptr dptr, size_t size, CUmemRangeHandleType handleType,
                                                   unsigned long long flags) {
  return heddle_real.cuMemGetHandleForAddressRange(handle, dptr, size, handleType, flags);
}
