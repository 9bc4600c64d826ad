/*
 * host.c: page-locked host memory. The server must reach it while kernels run,
 * so it is always shared memory: cuMemHostAlloc maps a memfd; cuMemHostRegister
 * finds the file behind shared pages, or replaces private pages by a memfd with
 * the same content at the same place. After a fork the child gets private
 * copies of such pages, so that the two processes do not share their heap.
 *
 * Limit: another thread's write to a private page in the few microseconds in
 * which cuMemHostRegister replaces it can be lost; the driver's contract does
 * not let the buffer itself be written then, but its first and last page may
 * hold a neighbour.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sim.h"

#define PAGE ((uintptr_t)4096)

/* Private pages that were replaced; under sim_map_lock. */
struct replaced {
    uintptr_t base, size;
    int prot;
    struct replaced *next;
};
static struct replaced *replaced;

/*
 * Copies size bytes from base to view, and moves view to base, in its place.
 * Nothing is written to memory in between: base may hold this thread's stack.
 */
static bool copy_and_move(void *view, uintptr_t base, size_t size)
{
#if defined(__x86_64__)
    void *to = view;
    const void *from = (const void *)base;
    size_t n = size;
    register long flags __asm__("r10") = MREMAP_MAYMOVE | MREMAP_FIXED;
    register uintptr_t place __asm__("r8") = base;
    register void *moved __asm__("r12") = view;
    register size_t len __asm__("r13") = size;
    long res;
    __asm__ volatile("rep movsb\n\t"
                     "mov %[moved], %%rdi\n\t"
                     "mov %[len], %%rsi\n\t"
                     "mov %[len], %%rdx\n\t"
                     "mov %[nr], %%eax\n\t"
                     "syscall"
                     : "+D"(to), "+S"(from), "+c"(n), "=&a"(res)
                     : [moved] "r"(moved), [len] "r"(len), [nr] "i"(SYS_mremap), "r"(flags), "r"(place)
                     : "rdx", "r11", "memory", "cc");
    return res == (long)base;
#else
    memcpy(view, (void *)base, size); /* not for this thread's own stack */
    return mremap(view, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)base) != MAP_FAILED;
#endif
}

/* Gives [base, base+size) private memory with its present content. */
static bool make_private(uintptr_t base, size_t size, int prot)
{
    void *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return false;
    bool moved = copy_and_move(copy, base, size);
    if (moved && prot != (PROT_READ | PROT_WRITE))
        mprotect((void *)base, size, prot);
    if (!moved)
        munmap(copy, size);
    return moved;
}

static void child_of_fork(void)
{
    for (struct replaced *r = replaced; r; r = r->next)
        make_private(r->base, r->size, r->prot);
}

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, child_of_fork);
}

static CUresult tell_server(uint64_t addr, uint64_t size, unsigned flags, int fd, uint64_t offset)
{
    SIM_REQ(req, SIM_OP_HOST_REGISTER, addr, size, flags, offset, fd >= 0);
    req.fd = fd;
    return sim_call(&req);
}

/* ---- allocation ---- */

static CUresult host_alloc(void **pp, size_t bytesize, unsigned flags, enum sim_kind kind)
{
    struct sim_ctx *ctx;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS)
        return res;
    if (!pp || !bytesize || (flags & ~7u) || bytesize > SIZE_MAX - PAGE)
        return CUDA_ERROR_INVALID_VALUE;
    res = sim_capture_unsafe();
    if (res != CUDA_SUCCESS)
        return res;
    size_t size = (bytesize + PAGE - 1) & ~(size_t)(PAGE - 1);
    int fd = memfd_create("simgpu-host", MFD_CLOEXEC);
    if (fd < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    void *p = MAP_FAILED;
    if (ftruncate(fd, (off_t)size) == 0)
        p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        close(fd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    res = tell_server((uint64_t)(uintptr_t)p, size, flags, fd, 0);
    close(fd);
    struct sim_range r = {.base = (uint64_t)(uintptr_t)p, .size = bytesize, .kind = kind, .ctx = ctx, .dev = ctx->dev,
                          .flags = flags | CU_MEMHOSTALLOC_DEVICEMAP, .id = sim_buffer_id()};
    if (res == CUDA_SUCCESS) {
        pthread_rwlock_wrlock(&sim_map_lock);
        if (!sim_map_add(&r))
            res = CUDA_ERROR_OUT_OF_MEMORY;
        pthread_rwlock_unlock(&sim_map_lock);
    }
    if (res != CUDA_SUCCESS)
        munmap(p, size);
    else
        *pp = p;
    return res;
}

CUresult sim_cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
    return host_alloc(pp, bytesize, Flags, SIM_MAP_HOST);
}

CUresult sim_cuMemAllocHost_v2(void **pp, size_t bytesize)
{
    return host_alloc(pp, bytesize, 0, SIM_MAP_HOST);
}

/* Gives memory of host_alloc back. */
static CUresult host_free(const struct sim_range *r)
{
    SIM_REQ(req, SIM_OP_HOST_UNREGISTER, r->base);
    CUresult res = sim_call(&req);
    pthread_rwlock_wrlock(&sim_map_lock);
    sim_map_remove(r->base);
    pthread_rwlock_unlock(&sim_map_lock);
    munmap((void *)(uintptr_t)r->base, (r->size + PAGE - 1) & ~(size_t)(PAGE - 1));
    return res;
}

CUresult sim_cuMemFreeHost(void *p)
{
    struct sim_ctx *ctx;
    struct sim_range r;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS || !p)
        return res;
    if (!sim_map_get((uint64_t)(uintptr_t)p, &r) || r.kind != SIM_MAP_HOST || r.base != (uint64_t)(uintptr_t)p)
        return CUDA_ERROR_INVALID_VALUE;
    return host_free(&r);
}

/* ---- managed memory: host memory that kernels reach at the same address; nothing migrates ---- */

CUresult sim_cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
    void *p;
    if (!dptr || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = host_alloc(&p, bytesize, 0, SIM_MAP_MANAGED);
    if (res == CUDA_SUCCESS)
        *dptr = (CUdeviceptr)(uintptr_t)p;
    return res;
}

CUresult sim_managed_free(const struct sim_range *r)
{
    return host_free(r);
}

static CUresult managed_hint(CUdeviceptr addr, size_t count)
{
    struct sim_range r;
    if (!count || !sim_map_get(addr, &r) || r.kind != SIM_MAP_MANAGED || count > r.size - (addr - r.base))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

CUresult sim_cuMemPrefetchAsync_v2(CUdeviceptr devPtr, size_t count, CUmemLocation location, unsigned int flags, CUstream hStream)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res == CUDA_SUCCESS && (flags || (location.type == CU_MEM_LOCATION_TYPE_DEVICE && (location.id < 0 || location.id >= sim_device_count))))
        res = CUDA_ERROR_INVALID_VALUE;
    return res == CUDA_SUCCESS ? managed_hint(devPtr, count) : res;
}

CUresult sim_cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream)
{
    CUmemLocation where = {CU_MEM_LOCATION_TYPE_DEVICE, dstDevice};
    if (dstDevice == CU_DEVICE_CPU)
        where = (CUmemLocation){CU_MEM_LOCATION_TYPE_HOST, 0};
    return sim_cuMemPrefetchAsync_v2(devPtr, count, where, 0, hStream);
}

CUresult sim_cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUmemLocation location)
{
    (void)location;
    if (advice < CU_MEM_ADVISE_SET_READ_MOSTLY || advice > CU_MEM_ADVISE_UNSET_ACCESSED_BY)
        return CUDA_ERROR_INVALID_VALUE;
    return managed_hint(devPtr, count);
}

CUresult sim_cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device)
{
    return sim_cuMemAdvise_v2(devPtr, count, advice, (CUmemLocation){CU_MEM_LOCATION_TYPE_DEVICE, device});
}

/* ---- registration ---- */

struct vma {
    uintptr_t start, end;
    int prot;
    bool shared;
    uint64_t offset, inode;
    unsigned major, minor;
};

/*
 * Looks up the mappings behind [base, base+size). Returns how many there are,
 * the first in *first; 0 if part of the range is not mapped; *shared tells
 * whether any of them is shared.
 */
static int find_vmas(uintptr_t base, size_t size, struct vma *first, bool *shared)
{
    FILE *f = fopen("/proc/self/maps", "re");
    char *line = NULL;
    size_t cap = 0;
    uintptr_t at = base;
    int n = 0;
    *shared = false;
    while (f && at < base + size && getline(&line, &cap, f) > 0) {
        struct vma v;
        char perm[5];
        if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu", &v.start, &v.end, perm, &v.offset, &v.major, &v.minor, &v.inode) != 7)
            continue;
        if (v.end <= at)
            continue;
        if (v.start > at) {
            n = 0;
            break;
        }
        v.prot = (perm[0] == 'r' ? PROT_READ : 0) | (perm[1] == 'w' ? PROT_WRITE : 0);
        v.shared = perm[3] == 's';
        *shared |= v.shared;
        if (n++ == 0)
            *first = v;
        at = v.end;
    }
    if (at < base + size)
        n = 0;
    free(line);
    if (f)
        fclose(f);
    return n;
}

/* SIMGPU_HOST_FILES=0 has registered memory treated as if no file could be had, for tests. */
static bool files_allowed(void)
{
    const char *v = getenv("SIMGPU_HOST_FILES");
    return !v || strcmp(v, "0") != 0;
}

/* Opens the file behind a shared mapping; -1 if this process cannot. */
static int open_backing(const struct vma *v)
{
    char name[64];
    struct stat st;
    snprintf(name, sizeof name, "/proc/self/map_files/%lx-%lx", v->start, v->end);
    int fd = open(name, (v->prot & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    /* Without the privilege for map_files: perhaps the descriptor is still open. */
    long limit = sysconf(_SC_OPEN_MAX);
    for (int i = 0; i < limit && i < 65536; i++)
        if (fstat(i, &st) == 0 && st.st_ino == v->inode && S_ISREG(st.st_mode) && (fd = fcntl(i, F_DUPFD_CLOEXEC, 3)) >= 0)
            return fd;
    return -1;
}

/* Replaces the private pages around [base, base+size) by a memfd; returns it or -1. */
static int replace_private(uintptr_t base, size_t size, int prot)
{
    struct replaced *r = malloc(sizeof *r);
    int fd = memfd_create("simgpu-registered", MFD_CLOEXEC);
    if (!r || fd < 0 || ftruncate(fd, (off_t)size) < 0)
        goto fail;
    void *view = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (view == MAP_FAILED)
        goto fail;
    if (!copy_and_move(view, base, size)) {
        munmap(view, size);
        goto fail;
    }
    if (prot != (PROT_READ | PROT_WRITE))
        mprotect((void *)base, size, prot);
    pthread_once(&fork_once, watch_forks);
    *r = (struct replaced){base, size, prot, replaced};
    replaced = r;
    return fd;
fail:
    free(r);
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool overlaps_known(uint64_t base, uint64_t size)
{
    for (size_t i = 0; i < sim_map_count(); i++) {
        const struct sim_range *r = sim_map_at(i);
        if (r->base < base + size && base < r->base + r->size)
            return true;
    }
    return false;
}

CUresult sim_cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
    struct sim_ctx *ctx;
    struct vma first = {0};
    bool any_shared;
    uintptr_t addr = (uintptr_t)p, base = addr & ~(PAGE - 1), end;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS)
        return res;
    if (!p || !bytesize || (Flags & ~15u) || __builtin_add_overflow(addr, bytesize, &end) || end > UINTPTR_MAX - PAGE)
        return CUDA_ERROR_INVALID_VALUE;
    if (Flags & CU_MEMHOSTREGISTER_IOMEMORY)
        return CUDA_ERROR_NOT_PERMITTED;
    end = (end + PAGE - 1) & ~(PAGE - 1);
    pthread_rwlock_wrlock(&sim_map_lock);
    int n = find_vmas(base, end - base, &first, &any_shared);
    uint64_t offset = 0;
    int fd = -1;
    struct replaced *mine = replaced;
    if (!n || !(first.prot & PROT_READ))
        res = CUDA_ERROR_INVALID_VALUE;
    else if (overlaps_known(addr, bytesize))
        res = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    if (res == CUDA_SUCCESS && !files_allowed()) {
        fd = -1;
    } else if (res == CUDA_SUCCESS && n == 1 && first.shared) {
        fd = open_backing(&first);
        offset = first.offset + (base - first.start);
    } else if (res == CUDA_SUCCESS && !any_shared) {
        fd = replace_private(base, end - base, first.prot);
    }
    if (res == CUDA_SUCCESS) {
        /* Without a file kernels reach it by system calls: slowly, and what they store shows late. */
        if (fd < 0)
            sim_log("cuMemHostRegister: no file behind %p: kernels will reach it slowly", p);
        struct sim_range r = {.base = addr, .size = bytesize, .kind = SIM_MAP_REGISTERED, .ctx = ctx, .dev = ctx->dev,
                              .flags = Flags, .id = sim_buffer_id(), .offset = replaced != mine};
        if (!sim_map_add(&r))
            res = CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_rwlock_unlock(&sim_map_lock);
    if (res == CUDA_SUCCESS) {
        /* the server sees whole pages, so that vectors at the edges work */
        res = tell_server(addr, bytesize, Flags, fd, offset + (addr - base));
        if (res != CUDA_SUCCESS) {
            pthread_rwlock_wrlock(&sim_map_lock);
            sim_map_remove(addr);
            pthread_rwlock_unlock(&sim_map_lock);
        }
    }
    if (fd >= 0)
        close(fd);
    return res;
}

CUresult sim_cuMemHostRegister(void *p, size_t bytesize, unsigned int Flags)
{
    return sim_cuMemHostRegister_v2(p, bytesize, Flags);
}

CUresult sim_cuMemHostUnregister(void *p)
{
    struct sim_ctx *ctx;
    struct sim_range r;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS)
        return res;
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    if (!sim_map_get((uint64_t)(uintptr_t)p, &r) || r.kind != SIM_MAP_REGISTERED || r.base != (uint64_t)(uintptr_t)p)
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    SIM_REQ(req, SIM_OP_HOST_UNREGISTER, r.base);
    res = sim_call(&req);
    pthread_rwlock_wrlock(&sim_map_lock);
    sim_map_remove(r.base);
    for (struct replaced **q = &replaced; *q; q = &(*q)->next) {
        struct replaced *old = *q;
        if (old->base == (r.base & ~(uint64_t)(PAGE - 1)) && r.offset) {
            make_private(old->base, old->size, old->prot);
            *q = old->next;
            free(old);
            break;
        }
    }
    pthread_rwlock_unlock(&sim_map_lock);
    return res;
}

CUresult sim_cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags)
{
    struct sim_range r;
    if (!pdptr || Flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (!sim_map_get((uint64_t)(uintptr_t)p, &r) || (r.kind != SIM_MAP_HOST && r.kind != SIM_MAP_REGISTERED))
        return CUDA_ERROR_INVALID_VALUE;
    *pdptr = (CUdeviceptr)(uintptr_t)p;
    return CUDA_SUCCESS;
}

CUresult sim_cuMemHostGetFlags(unsigned int *pFlags, void *p)
{
    struct sim_range r;
    if (!pFlags || !sim_map_get((uint64_t)(uintptr_t)p, &r) || r.kind != SIM_MAP_HOST)
        return CUDA_ERROR_INVALID_VALUE;
    *pFlags = r.flags;
    return CUDA_SUCCESS;
}
