/*
 * vmm.c: virtual memory management. Reservations are mappings without access
 * in this process, so that nothing else lands there and the CPU cannot touch
 * device memory; what is behind them only the server knows.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sim.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

struct reservation {
    uint64_t base, size;
};

/* Both lists are under sim_map_lock. */
static struct reservation *reservations;
static size_t nreservations, reservations_cap;

struct handle {
    uint64_t id, size;
    int dev;
    unsigned refs, handle_types, flags;
};
static struct handle *handles;
static size_t nhandles, handles_cap;

static struct handle *handle_find(uint64_t id)
{
    for (size_t i = 0; i < nhandles; i++)
        if (handles[i].id == id && handles[i].refs)
            return &handles[i];
    return NULL;
}

static bool handle_add(const struct handle *h)
{
    for (size_t i = 0; i < nhandles; i++)
        if (!handles[i].refs) {
            handles[i] = *h;
            return true;
        }
    if (nhandles == handles_cap) {
        size_t n = handles_cap ? handles_cap * 2 : 64;
        struct handle *bigger = realloc(handles, n * sizeof *bigger);
        if (!bigger)
            return false;
        handles = bigger;
        handles_cap = n;
    }
    handles[nhandles++] = *h;
    return true;
}

static struct reservation *reservation_of(uint64_t addr, uint64_t size)
{
    for (size_t i = 0; i < nreservations; i++) {
        struct reservation *r = &reservations[i];
        if (addr >= r->base && addr - r->base <= r->size && size <= r->size - (addr - r->base))
            return r;
    }
    return NULL;
}

static CUresult check_prop(const CUmemAllocationProp *prop)
{
    if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_NOT_SUPPORTED; /* HOST_..._VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED are 0 */
    if (prop->location.id < 0 || prop->location.id >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    if (prop->requestedHandleTypes & ~(unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    return CUDA_SUCCESS;
}

CUresult sim_cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop, CUmemAllocationGranularity_flags option)
{
    if (!granularity || (option != CU_MEM_ALLOC_GRANULARITY_MINIMUM && option != CU_MEM_ALLOC_GRANULARITY_RECOMMENDED))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = check_prop(prop);
    if (res == CUDA_SUCCESS)
        *granularity = SIM_GRANULARITY;
    return res;
}

CUresult sim_cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr, unsigned long long flags)
{
    if (!ptr || !size || size % SIM_GRANULARITY || flags || (alignment & (alignment - 1)))
        return CUDA_ERROR_INVALID_VALUE;
    if (alignment < SIM_GRANULARITY)
        alignment = SIM_GRANULARITY;
    const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *p = MAP_FAILED;
    /* A hint is taken only where this process has nothing; otherwise another address comes back. */
    if (addr && addr % alignment == 0 && addr >= SIM_GRANULARITY)
        p = mmap((void *)(uintptr_t)addr, size, PROT_NONE, kind | MAP_FIXED_NOREPLACE, -1, 0);
    if (p != MAP_FAILED && (uintptr_t)p != addr) {
        munmap(p, size);
        p = MAP_FAILED;
    }
    if (p == MAP_FAILED) {
        if (size + alignment < size)
            return CUDA_ERROR_OUT_OF_MEMORY;
        p = mmap(NULL, size + alignment, PROT_NONE, kind, -1, 0);
        if (p == MAP_FAILED)
            return CUDA_ERROR_OUT_OF_MEMORY;
        uintptr_t start = (uintptr_t)p, base = (start + alignment - 1) & ~(uintptr_t)(alignment - 1);
        if (base > start)
            munmap(p, base - start);
        if (base + size < start + size + alignment)
            munmap((void *)(base + size), start + alignment - base);
        p = (void *)base;
    }
    CUresult res = CUDA_SUCCESS;
    pthread_rwlock_wrlock(&sim_map_lock);
    if (nreservations == reservations_cap) {
        size_t n = reservations_cap ? reservations_cap * 2 : 64;
        struct reservation *bigger = realloc(reservations, n * sizeof *bigger);
        if (bigger) {
            reservations = bigger;
            reservations_cap = n;
        } else {
            res = CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    if (res == CUDA_SUCCESS)
        reservations[nreservations++] = (struct reservation){(uintptr_t)p, size};
    pthread_rwlock_unlock(&sim_map_lock);
    if (res != CUDA_SUCCESS)
        munmap(p, size);
    else
        *ptr = (CUdeviceptr)(uintptr_t)p;
    return res;
}

CUresult sim_cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
    CUresult res = CUDA_ERROR_INVALID_VALUE;
    pthread_rwlock_wrlock(&sim_map_lock);
    for (size_t i = 0; i < nreservations; i++) {
        if (reservations[i].base != ptr || reservations[i].size != size)
            continue;
        res = CUDA_SUCCESS;
        for (size_t j = 0; j < sim_map_count(); j++) {
            const struct sim_range *r = sim_map_at(j);
            if (r->base >= ptr && r->base - ptr < size)
                res = CUDA_ERROR_INVALID_VALUE; /* something is still mapped there */
        }
        if (res == CUDA_SUCCESS)
            reservations[i] = reservations[--nreservations];
        break;
    }
    if (res == CUDA_SUCCESS)
        munmap((void *)(uintptr_t)ptr, size);
    pthread_rwlock_unlock(&sim_map_lock);
    return res;
}

CUresult sim_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop, unsigned long long flags)
{
    if (!handle || !size || size % SIM_GRANULARITY || flags)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = check_prop(prop);
    if (res != CUDA_SUCCESS)
        return res;
    int dev = prop->location.id;
    SIM_REQ(req, SIM_OP_VMM_CREATE, (uint64_t)sim_devices[dev].server, size, prop->requestedHandleTypes != CU_MEM_HANDLE_TYPE_NONE);
    res = sim_call(&req);
    if (res != CUDA_SUCCESS)
        return res;
    struct handle h = {req.out[0], size, dev, 1, prop->requestedHandleTypes, prop->allocFlags.gpuDirectRDMACapable};
    pthread_rwlock_wrlock(&sim_map_lock);
    if (!handle_add(&h))
        res = CUDA_ERROR_OUT_OF_MEMORY;
    pthread_rwlock_unlock(&sim_map_lock);
    *handle = h.id;
    return res;
}

CUresult sim_cuMemRelease(CUmemGenericAllocationHandle handle)
{
    pthread_rwlock_wrlock(&sim_map_lock);
    struct handle *h = handle_find(handle);
    bool last = h && --h->refs == 0;
    pthread_rwlock_unlock(&sim_map_lock);
    if (!h)
        return CUDA_ERROR_INVALID_VALUE;
    if (!last)
        return CUDA_SUCCESS;
    SIM_REQ(req, SIM_OP_VMM_RELEASE, handle);
    return sim_call(&req);
}

CUresult sim_cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType handleType, unsigned long long flags)
{
    if (!shareableHandle || flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    pthread_rwlock_rdlock(&sim_map_lock);
    const struct handle *h = handle_find(handle);
    bool ok = h && (h->handle_types & (unsigned)handleType);
    pthread_rwlock_unlock(&sim_map_lock);
    if (!ok)
        return CUDA_ERROR_INVALID_VALUE;
    SIM_REQ(req, SIM_OP_VMM_EXPORT, handle);
    CUresult res = sim_call(&req);
    if (res == CUDA_SUCCESS && req.out_fd < 0)
        res = CUDA_ERROR_OPERATING_SYSTEM;
    if (res == CUDA_SUCCESS)
        *(int *)shareableHandle = req.out_fd;
    return res;
}

CUresult sim_cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *osHandle, CUmemAllocationHandleType shHandleType)
{
    if (!handle)
        return CUDA_ERROR_INVALID_VALUE;
    if (shHandleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    SIM_REQ(req, SIM_OP_VMM_IMPORT);
    req.fd = (int)(intptr_t)osHandle;
    if (req.fd < 0 || lseek(req.fd, 0, SEEK_CUR) >= 0 || errno == EBADF)
        return CUDA_ERROR_INVALID_VALUE; /* what the driver exports cannot be sought in */
    CUresult res = sim_call(&req);
    if (res != CUDA_SUCCESS)
        return res;
    int dev = 0;
    while (dev < sim_device_count && sim_devices[dev].server != (int)req.out[2])
        dev++;
    if (dev == sim_device_count) {
        SIM_REQ(drop, SIM_OP_VMM_RELEASE, req.out[0]);
        sim_call(&drop);
        return CUDA_ERROR_INVALID_DEVICE;
    }
    struct handle h = {req.out[0], req.out[1], dev, 1, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0};
    pthread_rwlock_wrlock(&sim_map_lock);
    if (!handle_add(&h))
        res = CUDA_ERROR_OUT_OF_MEMORY;
    pthread_rwlock_unlock(&sim_map_lock);
    *handle = h.id;
    return res;
}

CUresult sim_cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop, CUmemGenericAllocationHandle handle)
{
    if (!prop)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_rwlock_rdlock(&sim_map_lock);
    const struct handle *h = handle_find(handle);
    if (h) {
        memset(prop, 0, sizeof *prop);
        prop->type = CU_MEM_ALLOCATION_TYPE_PINNED;
        prop->requestedHandleTypes = (CUmemAllocationHandleType)h->handle_types;
        prop->location.type = CU_MEM_LOCATION_TYPE_DEVICE;
        prop->location.id = h->dev;
        prop->allocFlags.gpuDirectRDMACapable = (unsigned char)h->flags;
    }
    pthread_rwlock_unlock(&sim_map_lock);
    return h ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
    CUresult res = CUDA_ERROR_INVALID_VALUE;
    if (!handle)
        return res;
    pthread_rwlock_wrlock(&sim_map_lock);
    const struct sim_range *r = sim_map_find((uint64_t)(uintptr_t)addr);
    if (r && r->kind == SIM_MAP_VMM) {
        struct handle *h = handle_find(r->handle);
        if (h) {
            h->refs++;
            *handle = h->id;
            res = CUDA_SUCCESS;
        }
    }
    uint64_t gone = r && res != CUDA_SUCCESS && r->kind == SIM_MAP_VMM ? r->base : 0;
    pthread_rwlock_unlock(&sim_map_lock);
    if (gone) {
        /* Released, but alive through this mapping: the server gives a new handle. */
        SIM_REQ(req, SIM_OP_VMM_IMPORT, gone);
        res = sim_call(&req);
        if (res == CUDA_SUCCESS) {
            pthread_rwlock_wrlock(&sim_map_lock);
            struct sim_range *again = sim_map_find(gone);
            struct handle h = {req.out[0], req.out[1], again ? again->dev : 0, 1, again ? again->handle_types : 0, 0};
            if (again)
                again->handle = h.id;
            if (!handle_add(&h))
                res = CUDA_ERROR_OUT_OF_MEMORY;
            pthread_rwlock_unlock(&sim_map_lock);
            *handle = h.id;
        }
    }
    return res;
}

CUresult sim_cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags)
{
    if (!size || size % SIM_GRANULARITY || ptr % SIM_GRANULARITY || offset % SIM_GRANULARITY || flags)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_rwlock_wrlock(&sim_map_lock);
    const struct handle *h = handle_find(handle);
    const struct reservation *res = reservation_of(ptr, size);
    struct sim_range r = {.base = ptr, .size = size, .kind = SIM_MAP_VMM, .offset = offset, .handle = handle};
    bool ok = h && res && offset <= h->size && size <= h->size - offset;
    for (uint64_t a = ptr; ok && a - ptr < size; a += SIM_GRANULARITY)
        ok = !sim_map_find(a);
    if (ok) {
        r.dev = h->dev;
        r.handle_types = h->handle_types;
        r.res_base = res->base;
        r.res_size = res->size;
        r.id = sim_buffer_id();
        ok = sim_map_add(&r) != NULL;
    }
    pthread_rwlock_unlock(&sim_map_lock);
    if (!ok)
        return CUDA_ERROR_INVALID_VALUE;
    SIM_REQ(req, SIM_OP_VMM_MAP, ptr, size, offset, handle);
    CUresult status = sim_call(&req);
    if (status != CUDA_SUCCESS) {
        pthread_rwlock_wrlock(&sim_map_lock);
        sim_map_remove(ptr);
        pthread_rwlock_unlock(&sim_map_lock);
    }
    return status;
}

/* Whether [ptr, ptr+size) is made of whole mappings; sim_map_lock is held. */
static bool whole_mappings(uint64_t ptr, uint64_t size)
{
    uint64_t at = ptr;
    while (at - ptr < size) {
        const struct sim_range *r = sim_map_find(at);
        if (!r || r->kind != SIM_MAP_VMM || r->base != at || r->size > size - (at - ptr))
            return false;
        at += r->size;
    }
    return true;
}

CUresult sim_cuMemUnmap(CUdeviceptr ptr, size_t size)
{
    if (!size || size % SIM_GRANULARITY || ptr % SIM_GRANULARITY || ptr + size < ptr)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_rwlock_wrlock(&sim_map_lock);
    bool ok = whole_mappings(ptr, size);
    for (uint64_t at = ptr; ok && at - ptr < size;) {
        uint64_t len = sim_map_find(at)->size;
        sim_map_remove(at);
        at += len;
    }
    pthread_rwlock_unlock(&sim_map_lock);
    if (!ok)
        return CUDA_ERROR_INVALID_VALUE;
    SIM_REQ(req, SIM_OP_VMM_UNMAP, ptr, size);
    return sim_call(&req);
}

CUresult sim_cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
    if (!size || size % SIM_GRANULARITY || ptr % SIM_GRANULARITY || !desc || !count || ptr + size < ptr)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) {
        if (desc[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE)
            return CUDA_ERROR_NOT_SUPPORTED;
        if (desc[i].location.id < 0 || desc[i].location.id >= sim_device_count)
            return CUDA_ERROR_INVALID_DEVICE;
        if (desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE && desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
            desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            return CUDA_ERROR_INVALID_VALUE;
    }
    pthread_rwlock_wrlock(&sim_map_lock);
    bool ok = whole_mappings(ptr, size);
    for (uint64_t at = ptr; ok && at - ptr < size;) {
        struct sim_range *r = sim_map_find(at);
        for (size_t i = 0; i < count; i++) {
            int shift = 2 * desc[i].location.id;
            r->access = (r->access & ~(3u << shift)) | (unsigned)desc[i].flags << shift;
        }
        at += r->size;
    }
    pthread_rwlock_unlock(&sim_map_lock);
    if (!ok)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = CUDA_SUCCESS;
    for (size_t i = 0; i < count && res == CUDA_SUCCESS; i++) {
        SIM_REQ(req, SIM_OP_VMM_ACCESS, ptr, size, (uint64_t)sim_devices[desc[i].location.id].server, desc[i].flags);
        res = sim_call(&req);
    }
    return res;
}

CUresult sim_cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr)
{
    struct sim_range r;
    if (!flags || !location || location->type != CU_MEM_LOCATION_TYPE_DEVICE || location->id < 0 || location->id >= sim_device_count)
        return CUDA_ERROR_INVALID_VALUE;
    if (!sim_map_get(ptr, &r) || r.kind != SIM_MAP_VMM)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = (r.access >> (2 * location->id)) & 3;
    return CUDA_SUCCESS;
}
