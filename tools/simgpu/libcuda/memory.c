/* memory.c: cuMemAlloc and its kin, memory info, pointer attributes. */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

static CUresult alloc(struct sim_ctx *ctx, uint64_t size, enum sim_kind kind, struct sim_pool *pool, CUdeviceptr *dptr)
{
    SIM_REQ(req, SIM_OP_MEM_ALLOC, ctx->obj.index, (uint64_t)sim_devices[ctx->dev].server, size);
    CUresult res = sim_call(&req);
    if (res != CUDA_SUCCESS)
        return res;
    struct sim_range r = {.base = req.out[0], .size = size, .kind = kind, .ctx = ctx, .dev = ctx->dev, .id = sim_buffer_id(), .pool = pool};
    pthread_rwlock_wrlock(&sim_map_lock);
    bool added = sim_map_add(&r) != NULL;
    pthread_rwlock_unlock(&sim_map_lock);
    *dptr = r.base;
    return added ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
    struct sim_ctx *ctx;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS)
        return res;
    if (!dptr || !bytesize)
        return CUDA_ERROR_INVALID_VALUE;
    res = sim_capture_unsafe();
    return res == CUDA_SUCCESS ? alloc(ctx, bytesize, SIM_MAP_DEVICE, NULL, dptr) : res;
}

CUresult sim_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height, unsigned int ElementSizeBytes)
{
    if (!dptr || !pPitch || !WidthInBytes || !Height || (ElementSizeBytes != 4 && ElementSizeBytes != 8 && ElementSizeBytes != 16))
        return CUDA_ERROR_INVALID_VALUE;
    size_t pitch = (WidthInBytes + 511) & ~(size_t)511, total;
    if (pitch < WidthInBytes || __builtin_mul_overflow(pitch, Height, &total))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_cuMemAlloc_v2(dptr, total);
    if (res == CUDA_SUCCESS)
        *pPitch = pitch;
    return res;
}

CUresult sim_cuMemFree_v2(CUdeviceptr dptr)
{
    struct sim_ctx *ctx;
    struct sim_range r;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS || !dptr)
        return res;
    if (!sim_map_get(dptr, &r) || r.base != dptr || (r.kind != SIM_MAP_DEVICE && r.kind != SIM_MAP_POOL && r.kind != SIM_MAP_MANAGED))
        return CUDA_ERROR_INVALID_VALUE;
    res = sim_capture_unsafe();
    if (res != CUDA_SUCCESS)
        return res;
    if (r.kind == SIM_MAP_MANAGED)
        return sim_managed_free(&r);
    pthread_rwlock_wrlock(&sim_map_lock);
    sim_map_remove(dptr);
    pthread_rwlock_unlock(&sim_map_lock);
    if (r.pool)
        r.pool->used -= r.size;
    SIM_REQ(req, SIM_OP_MEM_FREE, dptr);
    return sim_call(&req);
}

CUresult sim_cuMemGetInfo_v2(size_t *free, size_t *total)
{
    struct sim_ctx *ctx;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS)
        return res;
    if (!free || !total)
        return CUDA_ERROR_INVALID_VALUE;
    SIM_REQ(req, SIM_OP_MEM_INFO, (uint64_t)sim_devices[ctx->dev].server);
    res = sim_call(&req);
    if (res == CUDA_SUCCESS) {
        *free = req.out[0];
        *total = req.out[1];
    }
    return res;
}

CUresult sim_cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
    struct sim_ctx *ctx;
    struct sim_range r;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS)
        return res;
    if (!sim_map_get(dptr, &r))
        return CUDA_ERROR_NOT_FOUND;
    if (pbase)
        *pbase = r.base;
    if (psize)
        *psize = r.size;
    return CUDA_SUCCESS;
}

/* ---- pointer attributes ---- */

static bool is_host(const struct sim_range *r)
{
    return r->kind == SIM_MAP_HOST || r->kind == SIM_MAP_REGISTERED;
}

/* One attribute of a range; data points to the attribute's own type. */
static CUresult attribute(void *data, CUpointer_attribute a, const struct sim_range *r, uint64_t ptr)
{
    switch ((int)a) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)data = (CUcontext)r->ctx;
        break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = is_host(r) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)data = ptr;
        break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (!is_host(r) && r->kind != SIM_MAP_MANAGED)
            return CUDA_ERROR_INVALID_VALUE;
        *(void **)data = (void *)(uintptr_t)ptr;
        break;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        *(unsigned *)data = r->sync_memops;
        break;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        *(unsigned long long *)data = r->id;
        break;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(unsigned *)data = r->kind == SIM_MAP_MANAGED;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = r->dev;
        break;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        *(unsigned *)data = r->kind == SIM_MAP_DEVICE;
        break;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)data = r->res_size ? r->res_base : r->base;
        break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)data = r->res_size ? r->res_size : r->size;
        break;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *(unsigned *)data = 1;
        break;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        *(unsigned long long *)data = r->handle_types;
        break;
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        *(unsigned *)data = 0;
        break;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        *(int *)data = r->kind == SIM_MAP_VMM ? (int)((r->access >> (2 * r->dev)) & 3) : CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE;
        break;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        *(CUmemoryPool *)data = (CUmemoryPool)r->pool;
        break;
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
        *(size_t *)data = r->size;
        break;
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
        *(CUdeviceptr *)data = r->base;
        break;
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        *(unsigned long long *)data = r->handle ? r->handle : r->id;
        break;
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
        *(unsigned *)data = 0;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult sim_cuPointerGetAttribute(void *data, CUpointer_attribute attr, CUdeviceptr ptr)
{
    struct sim_range r;
    if (!data)
        return CUDA_ERROR_INVALID_VALUE;
    if (!sim_map_get(ptr, &r))
        return CUDA_ERROR_INVALID_VALUE;
    return attribute(data, attr, &r, ptr);
}

/* Unlike the single query, memory that the driver does not know is no error: the answers are 0 or NULL. */
static void unknown_attribute(void *data, CUpointer_attribute a)
{
    switch ((int)a) {
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = CU_DEVICE_INVALID;
        break;
    case CU_POINTER_ATTRIBUTE_CONTEXT:
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        memset(data, 0, 8);
        break;
    case CU_POINTER_ATTRIBUTE_P2P_TOKENS:
        break;
    default:
        memset(data, 0, 4);
    }
}

CUresult sim_cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute *attributes, void **data, CUdeviceptr ptr)
{
    struct sim_range r;
    if (!numAttributes || !attributes || !data)
        return CUDA_ERROR_INVALID_VALUE;
    bool known = sim_map_get(ptr, &r);
    for (unsigned i = 0; i < numAttributes; i++) {
        if (!data[i] || attributes[i] <= 0 || attributes[i] > CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE)
            return CUDA_ERROR_INVALID_VALUE;
        if (!known || attribute(data[i], attributes[i], &r, ptr) != CUDA_SUCCESS)
            unknown_attribute(data[i], attributes[i]);
    }
    return CUDA_SUCCESS;
}

CUresult sim_cuPointerSetAttribute(const void *value, CUpointer_attribute attr, CUdeviceptr ptr)
{
    if (!value || attr != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_rwlock_wrlock(&sim_map_lock);
    struct sim_range *r = sim_map_find(ptr);
    if (r)
        r->sync_memops = *(const unsigned *)value != 0;
    pthread_rwlock_unlock(&sim_map_lock);
    return r ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- stream-ordered memory and pools ---- */

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sim_pool *default_pool[SIM_MAX_DEVICES], *current_pool[SIM_MAX_DEVICES];

static struct sim_pool *pool_new(int dev, bool is_default)
{
    struct sim_pool *p = sim_obj_new(SIM_POOL);
    if (!p)
        return NULL;
    p->dev = dev;
    p->is_default = is_default;
    p->threshold = p->reserved_high = p->used = p->used_high = 0;
    p->reuse[0] = p->reuse[1] = p->reuse[2] = 1;
    p->access = 1u << dev;
    return p;
}

static CUresult pool_of(int dev, bool current, struct sim_pool **out)
{
    pthread_mutex_lock(&pool_lock);
    if (!default_pool[dev])
        default_pool[dev] = pool_new(dev, true);
    *out = current && current_pool[dev] ? current_pool[dev] : default_pool[dev];
    pthread_mutex_unlock(&pool_lock);
    return *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev)
{
    struct sim_pool *p;
    if (!pool_out)
        return CUDA_ERROR_INVALID_VALUE;
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    CUresult res = pool_of(dev, false, &p);
    *pool_out = (CUmemoryPool)p;
    return res;
}

CUresult sim_cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev)
{
    struct sim_pool *p;
    if (!pool)
        return CUDA_ERROR_INVALID_VALUE;
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    CUresult res = pool_of(dev, true, &p);
    *pool = (CUmemoryPool)p;
    return res;
}

CUresult sim_cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool)
{
    struct sim_pool *p = SIM_OBJ(SIM_POOL, pool);
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    if (!p || p->dev != dev)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&pool_lock);
    current_pool[dev] = p;
    pthread_mutex_unlock(&pool_lock);
    return CUDA_SUCCESS;
}

CUresult sim_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
    if (!pool || !poolProps || poolProps->allocType != CU_MEM_ALLOCATION_TYPE_PINNED || poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    if (poolProps->location.id < 0 || poolProps->location.id >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    if (poolProps->handleTypes != CU_MEM_HANDLE_TYPE_NONE)
        return CUDA_ERROR_NOT_SUPPORTED; /* MEMPOOL_SUPPORTED_HANDLE_TYPES is 0 */
    struct sim_pool *p = pool_new(poolProps->location.id, false);
    *pool = (CUmemoryPool)p;
    return p ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_cuMemPoolDestroy(CUmemoryPool pool)
{
    struct sim_pool *p = SIM_OBJ(SIM_POOL, pool);
    if (!p || p->is_default)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&pool_lock);
    if (current_pool[p->dev] == p)
        current_pool[p->dev] = NULL;
    pthread_mutex_unlock(&pool_lock);
    sim_obj_free(SIM_POOL, p);
    return CUDA_SUCCESS;
}

CUresult sim_cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep)
{
    (void)minBytesToKeep; /* freed memory goes back to the device at once */
    return SIM_OBJ(SIM_POOL, pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
    struct sim_pool *p = SIM_OBJ(SIM_POOL, pool);
    if (!p || !value)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)attr) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        p->reuse[attr - CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES] = *(int *)value;
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        p->threshold = *(cuuint64_t *)value;
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        p->reserved_high = p->used;
        return *(cuuint64_t *)value ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        p->used_high = p->used;
        return *(cuuint64_t *)value ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult sim_cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
    struct sim_pool *p = SIM_OBJ(SIM_POOL, pool);
    if (!p || !value)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)attr) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        *(int *)value = p->reuse[attr - CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES];
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        *(cuuint64_t *)value = p->threshold;
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        *(cuuint64_t *)value = p->used;
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        *(cuuint64_t *)value = p->used_high;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult sim_cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count)
{
    struct sim_pool *p = SIM_OBJ(SIM_POOL, pool);
    if (!p || !map || !count)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) {
        int dev = map[i].location.id;
        if (map[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE || dev < 0 || dev >= sim_device_count)
            return CUDA_ERROR_INVALID_DEVICE;
        if (dev == p->dev && map[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            return CUDA_ERROR_INVALID_VALUE;
        if (map[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            p->access |= 1u << dev;
        else
            p->access &= ~(1u << dev);
    }
    return CUDA_SUCCESS;
}

CUresult sim_cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool memPool, CUmemLocation *location)
{
    struct sim_pool *p = SIM_OBJ(SIM_POOL, memPool);
    if (!p || !flags || !location || location->type != CU_MEM_LOCATION_TYPE_DEVICE || location->id < 0 || location->id >= sim_device_count)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = (p->access >> location->id) & 1 ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
}

static CUresult alloc_async(CUdeviceptr *dptr, size_t size, struct sim_pool *pool, CUstream stream)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(stream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (!dptr || !size)
        return CUDA_ERROR_INVALID_VALUE;
    if (atomic_load(&s->capture) != CU_STREAM_CAPTURE_STATUS_NONE)
        return sim_capture_forbid(s);
    if (!pool)
        res = pool_of(s->ctx->dev, true, &pool);
    if (res == CUDA_SUCCESS)
        res = alloc(s->ctx, size, SIM_MAP_POOL, pool, dptr);
    if (res == CUDA_SUCCESS) {
        pool->used += size;
        if (pool->used > pool->used_high)
            pool->used_high = pool->used;
    }
    return res;
}

CUresult sim_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
    return alloc_async(dptr, bytesize, NULL, hStream);
}

CUresult sim_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream)
{
    struct sim_pool *p = SIM_OBJ(SIM_POOL, pool);
    return p ? alloc_async(dptr, bytesize, p, hStream) : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
    struct sim_stream *s;
    struct sim_range r;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (!sim_map_get(dptr, &r) || r.base != dptr || (r.kind != SIM_MAP_DEVICE && r.kind != SIM_MAP_POOL))
        return CUDA_ERROR_INVALID_VALUE;
    if (atomic_load(&s->capture) != CU_STREAM_CAPTURE_STATUS_NONE)
        return sim_capture_forbid(s);
    pthread_rwlock_wrlock(&sim_map_lock);
    sim_map_remove(dptr);
    pthread_rwlock_unlock(&sim_map_lock);
    if (r.pool)
        r.pool->used -= r.size;
    SIM_REQ(req, SIM_OP_ASYNC_FREE, 0, 0, dptr);
    return sim_submit(s, &req, false);
}
