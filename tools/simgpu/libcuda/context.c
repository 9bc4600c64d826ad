/* context.c: contexts, the stack of each thread, primary contexts, limits. */
#include <string.h>

#include "sim.h"

static pthread_mutex_t primary_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    struct sim_ctx *ctx;
    unsigned count, flags;
} primary[SIM_MAX_DEVICES];
/* The code of the fault that the device's primary context had when it ended: from then on the device is lost to this process
   (an H200 with driver 580 does so: reset succeeds, retain gives the code, and everything else that the context is destroyed). */
static _Atomic int lost[SIM_MAX_DEVICES];
static _Atomic uint64_t next_id = 1;

/* The fault of a context that may be a lost device's. */
static CUresult fault_of(const struct sim_ctx *ctx)
{
    const _Atomic uint32_t *errors = (const _Atomic uint32_t *)(const void *)(sim_status + SIM_STATUS_CTX_ERR);
    CUresult res = (CUresult)atomic_load_explicit(&errors[ctx->obj.index], memory_order_acquire);
    if (res != CUDA_SUCCESS)
        sim_printf_drain(ctx); /* the assertion that failed, for one */
    return res;
}

CUresult sim_ctx_error(const struct sim_ctx *ctx)
{
    return atomic_load_explicit(&lost[ctx->dev], memory_order_acquire) ? CUDA_ERROR_CONTEXT_IS_DESTROYED : fault_of(ctx);
}

struct sim_ctx *sim_ctx_peek(void)
{
    struct sim_thread *t = &sim_tls;
    return t->depth ? t->stack[t->depth - 1] : NULL;
}

/* The current context if it still exists. */
static CUresult current(struct sim_ctx **ctx)
{
    struct sim_thread *t = &sim_tls;
    struct sim_ctx *c = sim_ctx_peek();
    if (!c)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!atomic_load(&c->obj.live) || c->id != t->stack_id[t->depth - 1])
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    *ctx = c;
    return CUDA_SUCCESS;
}

CUresult sim_ctx_current(struct sim_ctx **ctx)
{
    CUresult res = current(ctx);
    return res == CUDA_SUCCESS ? sim_ctx_error(*ctx) : res;
}

CUresult sim_ctx_resolve(CUcontext handle, struct sim_ctx **ctx)
{
    if (!handle)
        return current(ctx);
    *ctx = SIM_OBJ(SIM_CTX, handle);
    return *ctx ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

struct sim_ctx *sim_ctx_primary(int dev)
{
    pthread_mutex_lock(&primary_lock);
    struct sim_ctx *c = primary[dev].ctx;
    pthread_mutex_unlock(&primary_lock);
    return c;
}

static void set_default_limits(struct sim_ctx *c)
{
    memset(c->limits, 0, sizeof c->limits);
    c->limits[CU_LIMIT_STACK_SIZE] = 1024;
    c->limits[CU_LIMIT_PRINTF_FIFO_SIZE] = 1 << 20;
    c->limits[CU_LIMIT_MALLOC_HEAP_SIZE] = 8 << 20;
    c->limits[CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH] = 2;
    c->limits[CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT] = 2048;
    c->limits[CU_LIMIT_MAX_L2_FETCH_GRANULARITY] = 64;
}

static CUresult ctx_new(struct sim_ctx **out, unsigned flags, int dev, bool is_primary)
{
    struct sim_ctx *c = sim_obj_new(SIM_CTX);
    if (!c)
        return CUDA_ERROR_OUT_OF_MEMORY;
    SIM_REQ(req, SIM_OP_CTX_CREATE, c->obj.index, (uint64_t)sim_devices[dev].server, flags);
    CUresult res = sim_call(&req);
    if (res == CUDA_SUCCESS) {
        c->dev = dev;
        c->flags = flags;
        c->primary = is_primary;
        c->attached = 1;
        c->id = atomic_fetch_add(&next_id, 1);
        c->cache = CU_FUNC_CACHE_PREFER_NONE;
        c->shared = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE;
        c->version = 3020;
        c->peers = 0;
        set_default_limits(c);
        c->legacy = sim_stream_new(c, CU_STREAM_DEFAULT, 0, SIM_STREAM_LEGACY);
        if (!c->legacy)
            res = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (res != CUDA_SUCCESS) {
        sim_obj_free(SIM_CTX, c);
        return res;
    }
    *out = c;
    return CUDA_SUCCESS;
}

static void ctx_free(struct sim_ctx *c)
{
    sim_printf_drain(c);
    SIM_REQ(req, SIM_OP_CTX_DESTROY, c->obj.index);
    sim_call(&req);
    sim_ctx_forget(c);
    pthread_rwlock_wrlock(&sim_map_lock);
    sim_map_drop_ctx(c);
    pthread_rwlock_unlock(&sim_map_lock);
    sim_obj_free(SIM_CTX, c);
}

/* Takes the primary context of dev away, for ctx_free; what it had of a fault outlives it. primary_lock held. */
static struct sim_ctx *primary_take(int dev)
{
    int none = 0;
    struct sim_ctx *dead = primary[dev].ctx;
    CUresult fault = dead ? fault_of(dead) : CUDA_SUCCESS;
    if (fault != CUDA_SUCCESS)
        atomic_compare_exchange_strong(&lost[dev], &none, (int)fault);
    primary[dev].ctx = NULL;
    return dead;
}

static CUresult push(struct sim_ctx *c)
{
    struct sim_thread *t = &sim_tls;
    if (t->depth == SIM_STACK_DEPTH)
        return CUDA_ERROR_OUT_OF_MEMORY;
    t->stack[t->depth] = c;
    t->stack_id[t->depth++] = c->id;
    return CUDA_SUCCESS;
}

static bool bad_flags(unsigned flags)
{
    unsigned sched = flags & CU_CTX_SCHED_MASK;
    return (flags & ~(unsigned)CU_CTX_FLAGS_MASK) || (sched & (sched - 1));
}

/* ---- creation and the stack ---- */

CUresult sim_cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    struct sim_ctx *c;
    if (!pctx || bad_flags(flags))
        return CUDA_ERROR_INVALID_VALUE;
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    if (sim_tls.depth == SIM_STACK_DEPTH)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult res = ctx_new(&c, flags | CU_CTX_MAP_HOST, dev, false);
    if (res != CUDA_SUCCESS)
        return res;
    *pctx = (CUcontext)c;
    return push(c);
}

CUresult sim_cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
    return sim_cuCtxCreate_v2(pctx, flags, dev);
}

CUresult sim_cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams, unsigned int flags, CUdevice dev)
{
    if (paramsArray || numParams)
        return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    return sim_cuCtxCreate_v2(pctx, flags, dev);
}

CUresult sim_cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags, CUdevice dev)
{
    if (ctxCreateParams && (ctxCreateParams->numExecAffinityParams || ctxCreateParams->cigParams))
        return CUDA_ERROR_NOT_SUPPORTED;
    return sim_cuCtxCreate_v2(pctx, flags, dev);
}

CUresult sim_cuCtxDestroy_v2(CUcontext ctx)
{
    struct sim_ctx *c = SIM_OBJ(SIM_CTX, ctx);
    if (!c || c->primary)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (sim_ctx_peek() == c)
        sim_tls.depth--;
    ctx_free(c);
    return CUDA_SUCCESS;
}

CUresult sim_cuCtxDestroy(CUcontext ctx)
{
    return sim_cuCtxDestroy_v2(ctx);
}

CUresult sim_cuCtxAttach(CUcontext *pctx, unsigned int flags)
{
    struct sim_ctx *c;
    if (!pctx || flags)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = current(&c);
    if (res != CUDA_SUCCESS)
        return res;
    c->attached++;
    *pctx = (CUcontext)c;
    return CUDA_SUCCESS;
}

CUresult sim_cuCtxDetach(CUcontext ctx)
{
    struct sim_ctx *c = SIM_OBJ(SIM_CTX, ctx);
    if (!c || c->primary)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (--c->attached > 0)
        return CUDA_SUCCESS;
    return sim_cuCtxDestroy_v2(ctx);
}

CUresult sim_cuCtxPushCurrent_v2(CUcontext ctx)
{
    struct sim_ctx *c = SIM_OBJ(SIM_CTX, ctx);
    return c ? push(c) : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult sim_cuCtxPushCurrent(CUcontext ctx)
{
    return sim_cuCtxPushCurrent_v2(ctx);
}

CUresult sim_cuCtxPopCurrent_v2(CUcontext *pctx)
{
    struct sim_thread *t = &sim_tls;
    if (!t->depth)
        return CUDA_ERROR_INVALID_CONTEXT;
    t->depth--;
    if (pctx)
        *pctx = (CUcontext)t->stack[t->depth];
    return CUDA_SUCCESS;
}

CUresult sim_cuCtxPopCurrent(CUcontext *pctx)
{
    return sim_cuCtxPopCurrent_v2(pctx);
}

CUresult sim_cuCtxSetCurrent(CUcontext ctx)
{
    struct sim_thread *t = &sim_tls;
    struct sim_ctx *c = NULL;
    if (ctx && !(c = SIM_OBJ(SIM_CTX, ctx)))
        return CUDA_ERROR_INVALID_CONTEXT;
    if (t->depth)
        t->depth--;
    return c ? push(c) : CUDA_SUCCESS;
}

CUresult sim_cuCtxGetCurrent(CUcontext *pctx)
{
    if (!pctx)
        return CUDA_ERROR_INVALID_VALUE;
    *pctx = (CUcontext)sim_ctx_peek();
    return CUDA_SUCCESS;
}

CUresult sim_cuCtxGetDevice_v2(CUdevice *device, CUcontext ctx)
{
    struct sim_ctx *c;
    if (!device)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_resolve(ctx, &c);
    if (res == CUDA_SUCCESS)
        *device = c->dev;
    return res;
}

CUresult sim_cuCtxGetDevice(CUdevice *device)
{
    return sim_cuCtxGetDevice_v2(device, NULL);
}

CUresult sim_cuCtxGetId(CUcontext ctx, unsigned long long *ctxId)
{
    struct sim_ctx *c;
    if (!ctxId)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_resolve(ctx, &c);
    if (res == CUDA_SUCCESS)
        *ctxId = c->id;
    return res;
}

CUresult sim_cuCtxGetFlags(unsigned int *flags)
{
    struct sim_ctx *c;
    if (!flags)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = current(&c);
    if (res == CUDA_SUCCESS)
        *flags = c->flags;
    return res;
}

CUresult sim_cuCtxSetFlags(unsigned int flags)
{
    struct sim_ctx *c;
    if (bad_flags(flags))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = current(&c);
    if (res == CUDA_SUCCESS)
        c->flags = flags | CU_CTX_MAP_HOST;
    return res;
}

CUresult sim_cuCtxGetApiVersion(CUcontext ctx, unsigned int *version)
{
    struct sim_ctx *c;
    if (!version)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_resolve(ctx, &c);
    if (res == CUDA_SUCCESS)
        *version = c->version;
    return res;
}

CUresult sim_cuCtxSynchronize_v2(CUcontext ctx)
{
    struct sim_ctx *c;
    CUresult res = sim_ctx_resolve(ctx, &c);
    if (res == CUDA_SUCCESS)
        res = sim_ctx_error(c);
    if (res == CUDA_SUCCESS)
        res = sim_capture_context(c);
    if (res != CUDA_SUCCESS)
        return res;
    SIM_REQ(req, SIM_OP_CTX_SYNC, c->obj.index);
    res = sim_call(&req);
    sim_printf_drain(c);
    return res;
}

CUresult sim_cuCtxSynchronize(void)
{
    return sim_cuCtxSynchronize_v2(NULL);
}

CUresult sim_cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
    struct sim_ctx *c;
    CUresult res = sim_ctx_current(&c);
    if (res != CUDA_SUCCESS)
        return res;
    if (leastPriority)
        *leastPriority = 0;
    if (greatestPriority)
        *greatestPriority = -5;
    return CUDA_SUCCESS;
}

/* ---- limits and configuration ---- */

CUresult sim_cuCtxSetLimit(CUlimit limit, size_t value)
{
    struct sim_ctx *c;
    CUresult res = sim_ctx_current(&c);
    if (res != CUDA_SUCCESS)
        return res;
    switch ((int)limit) {
    case CU_LIMIT_STACK_SIZE:
        if (value > (512 << 10))
            return CUDA_ERROR_INVALID_VALUE;
        value = (value + 15) & ~(size_t)15;
        break;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
    case CU_LIMIT_MALLOC_HEAP_SIZE:
        if (value > sim_devices[c->dev].memory)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_LIMIT_MAX_L2_FETCH_GRANULARITY:
        if (value > 128)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT:
    case CU_LIMIT_PERSISTING_L2_CACHE_SIZE:
        break;
    case CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH:
    case CU_LIMIT_SHMEM_SIZE:
    case CU_LIMIT_CIG_ENABLED:
    case CU_LIMIT_CIG_SHMEM_FALLBACK_ENABLED:
        return CUDA_ERROR_UNSUPPORTED_LIMIT;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    c->limits[limit] = value;
    return CUDA_SUCCESS;
}

CUresult sim_cuCtxGetLimit(size_t *pvalue, CUlimit limit)
{
    struct sim_ctx *c;
    CUresult res = sim_ctx_current(&c);
    if (res != CUDA_SUCCESS)
        return res;
    if (!pvalue || limit < 0 || limit >= CU_LIMIT_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    if (limit == CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH)
        return CUDA_ERROR_UNSUPPORTED_LIMIT;
    *pvalue = c->limits[limit];
    return CUDA_SUCCESS;
}

CUresult sim_cuCtxGetCacheConfig(CUfunc_cache *pconfig)
{
    struct sim_ctx *c;
    if (!pconfig)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_current(&c);
    if (res == CUDA_SUCCESS)
        *pconfig = c->cache;
    return res;
}

CUresult sim_cuCtxSetCacheConfig(CUfunc_cache config)
{
    struct sim_ctx *c;
    if (config < CU_FUNC_CACHE_PREFER_NONE || config > CU_FUNC_CACHE_PREFER_EQUAL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_current(&c);
    if (res == CUDA_SUCCESS)
        c->cache = config;
    return res;
}

CUresult sim_cuCtxGetSharedMemConfig(CUsharedconfig *pConfig)
{
    struct sim_ctx *c;
    if (!pConfig)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_current(&c);
    if (res == CUDA_SUCCESS)
        *pConfig = c->shared;
    return res;
}

CUresult sim_cuCtxSetSharedMemConfig(CUsharedconfig config)
{
    struct sim_ctx *c;
    (void)config; /* the banks of compute capability 9.0 have one size */
    return sim_ctx_current(&c);
}

CUresult sim_cuCtxResetPersistingL2Cache(void)
{
    struct sim_ctx *c;
    return sim_ctx_current(&c);
}

/* ---- peers ---- */

static CUresult peer(CUcontext peerContext, unsigned flags, bool enable)
{
    struct sim_ctx *c, *p = SIM_OBJ(SIM_CTX, peerContext);
    CUresult res = sim_ctx_current(&c);
    if (res != CUDA_SUCCESS)
        return res;
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    if (!p)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (p->dev == c->dev)
        return enable ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
    uint32_t bit = 1u << p->dev;
    uint32_t old = enable ? atomic_fetch_or(&c->peers, bit) : atomic_fetch_and(&c->peers, ~bit);
    if (enable && (old & bit))
        return CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
    if (!enable && !(old & bit))
        return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
    SIM_REQ(req, SIM_OP_PEER, c->obj.index, (uint64_t)sim_devices[p->dev].server, enable);
    return sim_call(&req);
}

CUresult sim_cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags)
{
    return peer(peerContext, Flags, true);
}

CUresult sim_cuCtxDisablePeerAccess(CUcontext peerContext)
{
    return peer(peerContext, 0, false);
}

/* ---- primary contexts ---- */

CUresult sim_cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
    CUresult res = CUDA_SUCCESS;
    if (!pctx)
        return CUDA_ERROR_INVALID_VALUE;
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&primary_lock);
    if (!primary[dev].ctx)
        res = ctx_new(&primary[dev].ctx, primary[dev].flags | CU_CTX_MAP_HOST, dev, true);
    if (res == CUDA_SUCCESS) {
        *pctx = (CUcontext)primary[dev].ctx;
        res = atomic_load(&lost[dev]) ? (CUresult)atomic_load(&lost[dev]) : fault_of(primary[dev].ctx);
        if (res == CUDA_SUCCESS)
            primary[dev].count++;
    }
    pthread_mutex_unlock(&primary_lock);
    return res;
}

CUresult sim_cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
    struct sim_ctx *dead = NULL;
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&primary_lock);
    CUresult res = primary[dev].count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
    if (res == CUDA_SUCCESS && --primary[dev].count == 0)
        dead = primary_take(dev);
    pthread_mutex_unlock(&primary_lock);
    if (dead)
        ctx_free(dead);
    return res;
}

CUresult sim_cuDevicePrimaryCtxRelease(CUdevice dev)
{
    return sim_cuDevicePrimaryCtxRelease_v2(dev);
}

/* The context's resources go at once; whoever retained it retains a new, empty one. */
CUresult sim_cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&primary_lock);
    struct sim_ctx *dead = primary_take(dev);
    primary[dev].count = 0;
    pthread_mutex_unlock(&primary_lock);
    if (dead)
        ctx_free(dead);
    return CUDA_SUCCESS;
}

CUresult sim_cuDevicePrimaryCtxReset(CUdevice dev)
{
    return sim_cuDevicePrimaryCtxReset_v2(dev);
}

CUresult sim_cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags)
{
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    if (bad_flags(flags))
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&primary_lock);
    primary[dev].flags = flags;
    if (primary[dev].ctx)
        primary[dev].ctx->flags = flags | CU_CTX_MAP_HOST;
    pthread_mutex_unlock(&primary_lock);
    return CUDA_SUCCESS;
}

CUresult sim_cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags)
{
    return sim_cuDevicePrimaryCtxSetFlags_v2(dev, flags);
}

CUresult sim_cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
    if (!flags || !active)
        return CUDA_ERROR_INVALID_VALUE;
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&primary_lock);
    *flags = primary[dev].flags;
    *active = primary[dev].ctx != NULL;
    pthread_mutex_unlock(&primary_lock);
    return CUDA_SUCCESS;
}
