/* stream.c: streams, the default streams, memory operations, host callbacks. */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

/* Per-thread default streams: one for each context that a thread used. */
struct sim_own_stream {
    struct sim_ctx *ctx;
    uint64_t ctx_id;
    struct sim_stream *stream;
    struct sim_own_stream *next;
};

static _Atomic uint64_t next_id = 1;
static pthread_key_t own_key;
static pthread_once_t own_once = PTHREAD_ONCE_INIT;

/* Destroyed streams whose work goes on: their slot is not reused before it is done. */
static pthread_mutex_t retired_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sim_stream **retired;
static size_t nretired, retired_cap;

static void reap(void)
{
    pthread_mutex_lock(&retired_lock);
    size_t kept = 0;
    for (size_t i = 0; i < nretired; i++) {
        if (sim_stream_done(retired[i]) >= retired[i]->seq)
            sim_obj_free(SIM_STREAM, retired[i]);
        else
            retired[kept++] = retired[i];
    }
    nretired = kept;
    pthread_mutex_unlock(&retired_lock);
}

static void retire(struct sim_stream *s)
{
    atomic_store(&s->obj.live, 0); /* the handle is dead at once */
    pthread_mutex_lock(&retired_lock);
    if (nretired == retired_cap) {
        size_t n = retired_cap ? retired_cap * 2 : 64;
        struct sim_stream **bigger = realloc(retired, n * sizeof *bigger);
        if (bigger) {
            retired = bigger;
            retired_cap = n;
        }
    }
    if (nretired < retired_cap) {
        atomic_store(&s->obj.live, 2); /* lets sim_obj_free put it on the free list later */
        retired[nretired++] = s;
    }
    pthread_mutex_unlock(&retired_lock);
    reap();
}

struct sim_stream *sim_stream_new(struct sim_ctx *ctx, unsigned flags, int priority, int kind)
{
    return sim_stream_new_in(ctx, NULL, flags, priority, kind);
}

struct sim_stream *sim_stream_new_in(struct sim_ctx *ctx, struct sim_green *green, unsigned flags, int priority, int kind)
{
    reap();
    struct sim_stream *s = sim_obj_new(SIM_STREAM);
    if (!s)
        return NULL;
    s->ctx = ctx;
    s->flags = flags;
    s->priority = priority;
    s->kind = kind;
    s->green = green;
    s->green_id = green ? green->id : 0;
    s->id = atomic_fetch_add(&next_id, 1);
    s->capture = CU_STREAM_CAPTURE_STATUS_NONE;
    s->graph = NULL;
    s->deps = NULL;
    s->ndeps = 0;
    s->origin = s->join_pending = false;
    SIM_REQ(req, SIM_OP_STREAM_CREATE, ctx->obj.index, s->obj.index, flags, (uint64_t)(int64_t)priority, (uint64_t)kind,
            green ? green->first : 0, green ? green->sms : 0);
    if (sim_post(&req) != CUDA_SUCCESS) {
        sim_obj_free(SIM_STREAM, s);
        return NULL;
    }
    return s;
}

void sim_stream_end(struct sim_stream *s)
{
    SIM_REQ(req, SIM_OP_STREAM_DESTROY, s->obj.index);
    sim_post(&req);
    retire(s);
}

static void own_release(void *list)
{
    for (struct sim_own_stream *o = list, *next; o; o = next) {
        next = o->next;
        if (!atomic_load(&sim_forked) && atomic_load(&o->ctx->obj.live) && o->ctx->id == o->ctx_id)
            sim_stream_end(o->stream);
        free(o);
    }
}

static void own_init(void)
{
    pthread_key_create(&own_key, own_release);
}

static CUresult own_stream(struct sim_ctx *ctx, struct sim_stream **stream)
{
    struct sim_own_stream *o = sim_tls.own;
    for (; o; o = o->next)
        if (o->ctx == ctx && o->ctx_id == ctx->id) {
            *stream = o->stream;
            return CUDA_SUCCESS;
        }
    pthread_once(&own_once, own_init);
    o = malloc(sizeof *o);
    struct sim_stream *s = o ? sim_stream_new(ctx, CU_STREAM_DEFAULT, 0, SIM_STREAM_PER_THREAD) : NULL;
    if (!s) {
        free(o);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *o = (struct sim_own_stream){ctx, ctx->id, s, sim_tls.own};
    sim_tls.own = o;
    pthread_setspecific(own_key, o);
    *stream = s;
    return CUDA_SUCCESS;
}

CUresult sim_stream_resolve(CUstream handle, struct sim_stream **stream)
{
    if (handle && handle != CU_STREAM_LEGACY && handle != CU_STREAM_PER_THREAD) {
        struct sim_stream *s = SIM_OBJ(SIM_STREAM, handle);
        if (!s || atomic_load(&s->obj.live) != 1)
            return CUDA_ERROR_INVALID_HANDLE;
        if (s->green && (atomic_load(&s->green->obj.live) != 1 || s->green->id != s->green_id))
            return CUDA_ERROR_CONTEXT_IS_DESTROYED;
        *stream = s;
        return sim_ctx_error(s->ctx);
    }
    struct sim_ctx *ctx;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS)
        return res;
    if (handle == CU_STREAM_PER_THREAD || (!handle && sim_tls.per_thread))
        return own_stream(ctx, stream);
    *stream = ctx->legacy;
    return CUDA_SUCCESS;
}

static bool forget_stream(void *obj, void *ctx)
{
    struct sim_stream *s = obj;
    if (s->ctx == ctx && atomic_load(&s->obj.live) == 1)
        retire(s);
    return true;
}

static bool forget_event(void *obj, void *ctx)
{
    struct sim_event *e = obj;
    if (e->ctx == ctx) {
        SIM_REQ(req, SIM_OP_EVENT_DESTROY, e->obj.index);
        sim_post(&req);
        sim_obj_free(SIM_EVENT, e);
    }
    return true;
}

static bool forget_module(void *obj, void *ctx)
{
    struct sim_module *m = obj;
    if (m->ctx == ctx)
        sim_module_drop(m, false);
    return true;
}

void sim_ctx_forget(struct sim_ctx *ctx)
{
    sim_obj_each(SIM_STREAM, forget_stream, ctx);
    sim_obj_each(SIM_EVENT, forget_event, ctx);
    sim_obj_each(SIM_MODULE, forget_module, ctx);
}

/* ---- streams ---- */

CUresult sim_cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
    struct sim_ctx *ctx;
    if (!phStream || (flags & ~(unsigned)CU_STREAM_NON_BLOCKING))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS)
        return res;
    priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;
    struct sim_stream *s = sim_stream_new(ctx, flags, priority, SIM_STREAM_NORMAL);
    *phStream = (CUstream)s;
    return s ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
    return sim_cuStreamCreateWithPriority(phStream, Flags, 0);
}

CUresult sim_cuStreamDestroy_v2(CUstream hStream)
{
    if (!hStream || hStream == CU_STREAM_LEGACY || hStream == CU_STREAM_PER_THREAD)
        return CUDA_ERROR_INVALID_HANDLE;
    struct sim_stream *s = SIM_OBJ(SIM_STREAM, hStream);
    if (!s || atomic_load(&s->obj.live) != 1 || s->kind != SIM_STREAM_NORMAL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (atomic_load(&s->capture) != CU_STREAM_CAPTURE_STATUS_NONE)
        sim_capture_forbid(s);
    sim_stream_end(s);
    return CUDA_SUCCESS;
}

CUresult sim_cuStreamDestroy(CUstream hStream)
{
    return sim_cuStreamDestroy_v2(hStream);
}

CUresult sim_stream_sync(struct sim_stream *stream)
{
    CUresult res;
    pthread_mutex_lock(&sim_send_lock);
    uint64_t seq = stream->seq;
    pthread_mutex_unlock(&sim_send_lock);
    if (stream->kind != SIM_STREAM_LEGACY && sim_stream_done(stream) >= seq) {
        res = sim_ctx_error(stream->ctx);
    } else {
        SIM_REQ(req, SIM_OP_STREAM_SYNC, stream->obj.index);
        res = sim_call(&req);
    }
    sim_printf_drain(stream->ctx);
    return res;
}

CUresult sim_cuStreamSynchronize(CUstream hStream)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (atomic_load(&s->capture) != CU_STREAM_CAPTURE_STATUS_NONE)
        return sim_capture_forbid(s);
    return sim_stream_sync(s);
}

CUresult sim_cuStreamQuery(CUstream hStream)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (atomic_load(&s->capture) != CU_STREAM_CAPTURE_STATUS_NONE)
        return sim_capture_forbid(s);
    pthread_mutex_lock(&sim_send_lock);
    uint64_t seq = s->seq;
    pthread_mutex_unlock(&sim_send_lock);
    bool done = sim_stream_done(s) >= seq;
    res = sim_ctx_error(s->ctx);
    return res != CUDA_SUCCESS ? res : done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult sim_cuStreamGetPriority(CUstream hStream, int *priority)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res == CUDA_SUCCESS && !priority)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        *priority = s->priority;
    return res;
}

CUresult sim_cuStreamGetFlags(CUstream hStream, unsigned int *flags)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res == CUDA_SUCCESS && !flags)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        *flags = s->flags;
    return res;
}

CUresult sim_cuStreamGetId(CUstream hStream, unsigned long long *streamId)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res == CUDA_SUCCESS && !streamId)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        *streamId = s->id;
    return res;
}

CUresult sim_cuStreamGetDevice(CUstream hStream, CUdevice *device)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res == CUDA_SUCCESS && !device)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        *device = s->ctx->dev;
    return res;
}

CUresult sim_cuStreamGetCtx(CUstream hStream, CUcontext *pctx)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res == CUDA_SUCCESS && !pctx)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        *pctx = (CUcontext)s->ctx;
    return res;
}

CUresult sim_cuStreamGetCtx_v2(CUstream hStream, CUcontext *pCtx, CUgreenCtx *pGreenCtx)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res == CUDA_SUCCESS && pGreenCtx)
        *pGreenCtx = (CUgreenCtx)s->green;
    return res == CUDA_SUCCESS ? sim_cuStreamGetCtx(hStream, pCtx) : res;
}

CUresult sim_cuStreamCopyAttributes(CUstream dst, CUstream src)
{
    struct sim_stream *d, *s;
    CUresult res = sim_stream_resolve(dst, &d);
    return res == CUDA_SUCCESS ? sim_stream_resolve(src, &s) : res;
}

CUresult sim_cuStreamGetAttribute(CUstream hStream, CUstreamAttrID attr, CUstreamAttrValue *value_out)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (!value_out)
        return CUDA_ERROR_INVALID_VALUE;
    memset(value_out, 0, sizeof *value_out);
    switch ((int)attr) {
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        value_out->priority = s->priority;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
        value_out->syncPolicy = CU_SYNC_POLICY_AUTO;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult sim_cuStreamSetAttribute(CUstream hStream, CUstreamAttrID attr, const CUstreamAttrValue *value)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (!value)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)attr) {
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        s->priority = value->priority > 0 ? 0 : value->priority < -5 ? -5 : value->priority;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult sim_cuStreamAttachMemAsync(CUstream hStream, CUdeviceptr dptr, size_t length, unsigned int flags)
{
    struct sim_stream *s;
    (void)length;
    (void)flags;
    CUresult res = sim_stream_resolve(hStream, &s);
    return res == CUDA_SUCCESS ? sim_map_check(dptr, 1) : res;
}

/* ---- memory operations ---- */

static CUresult memop_check(uint64_t addr, size_t size, unsigned flags, bool wait)
{
    if (addr % size)
        return CUDA_ERROR_INVALID_VALUE;
    if (wait && (flags & CU_STREAM_WAIT_VALUE_FLUSH))
        return CUDA_ERROR_NOT_SUPPORTED; /* CAN_FLUSH_REMOTE_WRITES is 0 */
    if (wait ? flags > CU_STREAM_WAIT_VALUE_NOR : (flags & ~(unsigned)CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER))
        return CUDA_ERROR_INVALID_VALUE;
    return sim_map_check(addr, size);
}

static CUresult memop(CUstream stream, int kind, uint64_t addr, uint64_t value, unsigned flags)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(stream, &s);
    size_t size = kind == SIM_MEMOP_WRITE64 || kind == SIM_MEMOP_WAIT64 ? 8 : 4;
    if (res == CUDA_SUCCESS)
        res = memop_check(addr, size, flags, kind == SIM_MEMOP_WAIT32 || kind == SIM_MEMOP_WAIT64);
    if (res != CUDA_SUCCESS)
        return res;
    SIM_REQ(req, SIM_OP_MEMOP, 0, 0, 1, (uint64_t)kind, addr, value, flags);
    return sim_submit(s, &req, false);
}

CUresult sim_cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags)
{
    return memop(stream, SIM_MEMOP_WRITE32, addr, value, flags);
}

CUresult sim_cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags)
{
    return memop(stream, SIM_MEMOP_WRITE64, addr, value, flags);
}

CUresult sim_cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags)
{
    return memop(stream, SIM_MEMOP_WAIT32, addr, value, flags);
}

CUresult sim_cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags)
{
    return memop(stream, SIM_MEMOP_WAIT64, addr, value, flags);
}

CUresult sim_cuStreamWriteValue32(CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags)
{
    return memop(stream, SIM_MEMOP_WRITE32, addr, value, flags);
}

CUresult sim_cuStreamWriteValue64(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags)
{
    return memop(stream, SIM_MEMOP_WRITE64, addr, value, flags);
}

CUresult sim_cuStreamWaitValue32(CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags)
{
    return memop(stream, SIM_MEMOP_WAIT32, addr, value, flags);
}

CUresult sim_cuStreamWaitValue64(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags)
{
    return memop(stream, SIM_MEMOP_WAIT64, addr, value, flags);
}

CUresult sim_memop_item(const CUstreamBatchMemOpParams *p, uint64_t out[4])
{
    out[1] = p->waitValue.address;
    out[3] = p->waitValue.flags;
    switch (p->operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
        out[0] = SIM_MEMOP_WAIT32;
        out[2] = p->waitValue.value;
        return memop_check(out[1], 4, p->waitValue.flags, true);
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
        out[0] = SIM_MEMOP_WAIT64;
        out[2] = p->waitValue.value64;
        return memop_check(out[1], 8, p->waitValue.flags, true);
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        out[0] = SIM_MEMOP_WRITE32;
        out[2] = p->writeValue.value;
        return memop_check(out[1], 4, p->writeValue.flags, false);
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        out[0] = SIM_MEMOP_WRITE64;
        out[2] = p->writeValue.value64;
        return memop_check(out[1], 8, p->writeValue.flags, false);
    case CU_STREAM_MEM_OP_BARRIER:
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
        out[0] = SIM_MEMOP_BARRIER;
        out[1] = out[2] = out[3] = 0;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult sim_cuStreamBatchMemOp_v2(CUstream stream, unsigned int count, CUstreamBatchMemOpParams *paramArray, unsigned int flags)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(stream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (!paramArray || !count || count > SIM_MAX_MEMOPS || flags)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t *list = malloc(count * 4 * sizeof *list);
    if (!list)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (unsigned i = 0; i < count && res == CUDA_SUCCESS; i++)
        res = sim_memop_item(&paramArray[i], list + (size_t)i * 4);
    if (res == CUDA_SUCCESS) {
        SIM_REQ(req, SIM_OP_MEMOP, 0, 0, count);
        req.more = list;
        req.nmore = (size_t)count * 4;
        res = sim_submit(s, &req, false);
    }
    free(list);
    return res;
}

CUresult sim_cuStreamBatchMemOp(CUstream stream, unsigned int count, CUstreamBatchMemOpParams *paramArray, unsigned int flags)
{
    return sim_cuStreamBatchMemOp_v2(stream, count, paramArray, flags);
}

/* ---- host functions ---- */

enum { HOST_FUNC, HOST_CALLBACK };

static pthread_mutex_t helper_lock = PTHREAD_MUTEX_INITIALIZER;
static bool helper_running;

/* Runs host functions, one after the other, as they fall due. */
static void *helper(void *unused)
{
    (void)unused;
    for (;;) {
        SIM_REQ(next, SIM_OP_NEXT_CALLBACK);
        if (sim_call(&next) != CUDA_SUCCESS || next.nout < 6)
            return NULL;
        if (next.out[3] == HOST_FUNC) {
            CUhostFn fn;
            uintptr_t p = next.out[1];
            memcpy(&fn, &p, sizeof fn);
            fn((void *)(uintptr_t)next.out[2]);
        } else {
            CUstreamCallback fn;
            uintptr_t p = next.out[1];
            memcpy(&fn, &p, sizeof fn);
            fn((CUstream)(uintptr_t)next.out[4], (CUresult)next.out[5], (void *)(uintptr_t)next.out[2]);
        }
        SIM_REQ(done, SIM_OP_CALLBACK_DONE, next.out[0]);
        sim_post(&done);
    }
}

CUresult sim_callback_helper(void)
{
    CUresult res = CUDA_SUCCESS;
    pthread_mutex_lock(&helper_lock);
    if (!helper_running) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, helper, NULL) == 0) {
            pthread_detach(thread);
            helper_running = true;
        } else {
            res = CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    pthread_mutex_unlock(&helper_lock);
    return res;
}

static CUresult host_call(CUstream stream, uintptr_t fn, void *data, uint64_t kind, uint64_t handle)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(stream, &s);
    if (res == CUDA_SUCCESS && !fn)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        res = sim_callback_helper();
    if (res != CUDA_SUCCESS)
        return res;
    SIM_REQ(req, SIM_OP_HOST_FUNC, 0, 0, fn, (uint64_t)(uintptr_t)data, kind, handle);
    return sim_submit(s, &req, false);
}

CUresult sim_cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
    uintptr_t p;
    memcpy(&p, &fn, sizeof p);
    return host_call(hStream, p, userData, HOST_FUNC, 0);
}

CUresult sim_cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void *userData, unsigned int flags)
{
    uintptr_t p;
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&p, &callback, sizeof p);
    return host_call(hStream, p, userData, HOST_CALLBACK, (uint64_t)(uintptr_t)hStream);
}
