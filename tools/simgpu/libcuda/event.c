/* event.c: events. A recorded event is a point (stream, sequence number); its
 * time and its use by other processes are the server's. */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

static CUresult event_resolve(CUevent handle, struct sim_event **event)
{
    *event = SIM_OBJ(SIM_EVENT, handle);
    return *event ? sim_ctx_error((*event)->ctx) : CUDA_ERROR_INVALID_HANDLE;
}

struct sim_event *sim_event_new(struct sim_ctx *ctx, unsigned flags, bool foreign)
{
    struct sim_event *e = sim_obj_new(SIM_EVENT);
    if (!e)
        return NULL;
    e->ctx = ctx;
    e->flags = flags;
    e->foreign = foreign;
    e->stream = NULL;
    e->seq = 0;
    e->graph = NULL;
    e->nodes = NULL;
    e->nnodes = 0;
    SIM_REQ(req, SIM_OP_EVENT_CREATE, e->obj.index, flags);
    if (sim_post(&req) != CUDA_SUCCESS) {
        sim_obj_free(SIM_EVENT, e);
        return NULL;
    }
    return e;
}

void sim_event_free(struct sim_event *e)
{
    SIM_REQ(req, SIM_OP_EVENT_DESTROY, e->obj.index);
    sim_post(&req);
    free(e->nodes);
    e->nodes = NULL;
    sim_obj_free(SIM_EVENT, e);
}

static CUresult event_new(struct sim_ctx *ctx, unsigned flags, bool foreign, CUevent *out)
{
    struct sim_event *e = sim_event_new(ctx, flags, foreign);
    *out = (CUevent)e;
    return e ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
    struct sim_ctx *ctx;
    const unsigned all = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    if (!phEvent || (Flags & ~all) || ((Flags & CU_EVENT_INTERPROCESS) && !(Flags & CU_EVENT_DISABLE_TIMING)))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS)
        return res;
    /* another process may record it, so only the server knows its state */
    return event_new(ctx, Flags, (Flags & CU_EVENT_INTERPROCESS) != 0, phEvent);
}

CUresult sim_cuEventDestroy_v2(CUevent hEvent)
{
    struct sim_event *e = SIM_OBJ(SIM_EVENT, hEvent);
    if (!e)
        return CUDA_ERROR_INVALID_HANDLE;
    sim_event_free(e);
    return CUDA_SUCCESS;
}

CUresult sim_cuEventDestroy(CUevent hEvent)
{
    return sim_cuEventDestroy_v2(hEvent);
}

CUresult sim_cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags)
{
    struct sim_event *e;
    struct sim_stream *s;
    if (flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = event_resolve(hEvent, &e);
    if (res == CUDA_SUCCESS)
        res = sim_stream_resolve(hStream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (e->ctx != s->ctx)
        return CUDA_ERROR_INVALID_HANDLE;
    if (atomic_load(&s->capture) != CU_STREAM_CAPTURE_STATUS_NONE)
        return flags & CU_EVENT_RECORD_EXTERNAL ? sim_capture_event_node(s, hEvent, true) : sim_capture_event_record(s, e);
    if (flags & CU_EVENT_RECORD_EXTERNAL) /* it has no meaning outside of a capture */
        return CUDA_ERROR_INVALID_VALUE;
    if (s->kind == SIM_STREAM_LEGACY && (res = sim_capture_legacy(s->ctx)) != CUDA_SUCCESS)
        return res;
    e->graph = NULL;
    SIM_REQ(req, SIM_OP_EVENT_RECORD, 0, 0, e->obj.index);
    res = sim_submit_event(s, &req, e);
    if (res == CUDA_SUCCESS && e->foreign) {
        /* Once this call has returned, another process's wait must see the record, and that comes to the server by another socket. */
        SIM_REQ(there, SIM_OP_EVENT_QUERY, e->obj.index);
        sim_call(&there);
    }
    return res;
}

CUresult sim_cuEventRecord(CUevent hEvent, CUstream hStream)
{
    return sim_cuEventRecordWithFlags(hEvent, hStream, 0);
}

CUresult sim_cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
    struct sim_event *e;
    struct sim_stream *s;
    bool handled = false;
    if (Flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = event_resolve(hEvent, &e);
    if (res == CUDA_SUCCESS)
        res = sim_stream_resolve(hStream, &s);
    if (res == CUDA_SUCCESS && (Flags & CU_EVENT_WAIT_EXTERNAL))
        return atomic_load(&s->capture) != CU_STREAM_CAPTURE_STATUS_NONE ? sim_capture_event_node(s, hEvent, false) : CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        res = sim_capture_event_wait(s, e, &handled);
    if (res != CUDA_SUCCESS || handled)
        return res;
    SIM_REQ(req, SIM_OP_EVENT_WAIT, 0, 0, e->obj.index);
    return sim_submit(s, &req, false);
}

/* CUDA_SUCCESS if e's last record has happened, or it was never recorded. */
static CUresult event_state(struct sim_event *e)
{
    if (e->foreign) {
        SIM_REQ(req, SIM_OP_EVENT_QUERY, e->obj.index);
        return sim_call(&req);
    }
    pthread_mutex_lock(&sim_send_lock);
    const struct sim_stream *s = e->stream;
    uint64_t seq = e->seq;
    pthread_mutex_unlock(&sim_send_lock);
    if (!s || sim_stream_done(s) >= seq)
        return sim_ctx_error(e->ctx);
    CUresult res = sim_ctx_error(e->ctx);
    return res != CUDA_SUCCESS ? res : CUDA_ERROR_NOT_READY;
}

CUresult sim_cuEventQuery(CUevent hEvent)
{
    struct sim_event *e;
    CUresult res = event_resolve(hEvent, &e);
    if (res == CUDA_SUCCESS && e->graph)
        res = CUDA_ERROR_CAPTURED_EVENT;
    return res == CUDA_SUCCESS ? event_state(e) : res;
}

CUresult sim_cuEventSynchronize(CUevent hEvent)
{
    struct sim_event *e;
    CUresult res = event_resolve(hEvent, &e);
    if (res == CUDA_SUCCESS && e->graph)
        res = CUDA_ERROR_CAPTURED_EVENT;
    if (res == CUDA_SUCCESS)
        res = e->foreign ? CUDA_ERROR_NOT_READY : event_state(e);
    if (res == CUDA_ERROR_NOT_READY) {
        SIM_REQ(req, SIM_OP_EVENT_SYNC, e->obj.index);
        res = sim_call(&req);
    }
    sim_printf_drain(e->ctx);
    return res;
}

CUresult sim_cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
    struct sim_event *a, *b;
    if (!pMilliseconds)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = event_resolve(hStart, &a);
    if (res == CUDA_SUCCESS)
        res = event_resolve(hEnd, &b);
    if (res != CUDA_SUCCESS)
        return res;
    if (a->ctx != b->ctx || ((a->flags | b->flags) & CU_EVENT_DISABLE_TIMING))
        return CUDA_ERROR_INVALID_HANDLE;
    SIM_REQ(req, SIM_OP_EVENT_ELAPSED, a->obj.index, b->obj.index);
    res = sim_call(&req);
    if (res == CUDA_SUCCESS && req.nout > 0)
        *pMilliseconds = (float)((double)(int64_t)req.out[0] / 1e6);
    return res;
}

CUresult sim_cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
    return sim_cuEventElapsedTime_v2(pMilliseconds, hStart, hEnd);
}

/* ---- events and memory of other processes ---- */

CUresult sim_cuIpcGetEventHandle(CUipcEventHandle *pHandle, CUevent event)
{
    struct sim_event *e;
    if (!pHandle)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = event_resolve(event, &e);
    if (res != CUDA_SUCCESS)
        return res;
    if (!(e->flags & CU_EVENT_INTERPROCESS))
        return CUDA_ERROR_INVALID_HANDLE;
    SIM_REQ(req, SIM_OP_IPC_EVENT_GET, e->obj.index);
    res = sim_call(&req);
    memset(pHandle, 0, sizeof *pHandle);
    if (res == CUDA_SUCCESS)
        memcpy(pHandle->reserved, req.out, 8);
    return res;
}

CUresult sim_cuIpcOpenEventHandle(CUevent *phEvent, CUipcEventHandle handle)
{
    struct sim_ctx *ctx;
    uint64_t token;
    if (!phEvent)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS)
        return res;
    CUevent event;
    res = event_new(ctx, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING, true, &event);
    if (res != CUDA_SUCCESS)
        return res;
    memcpy(&token, handle.reserved, 8);
    SIM_REQ(req, SIM_OP_IPC_EVENT_OPEN, ((struct sim_event *)event)->obj.index, token);
    res = sim_call(&req);
    if (res == CUDA_SUCCESS)
        *phEvent = event;
    else
        sim_cuEventDestroy_v2(event);
    return res;
}

/* Layout of a CUipcMemHandle: token, offset into the allocation, its size, its device. */
CUresult sim_cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr)
{
    struct sim_range r;
    if (!pHandle)
        return CUDA_ERROR_INVALID_VALUE;
    if (!sim_map_get(dptr, &r) || r.kind != SIM_MAP_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    SIM_REQ(req, SIM_OP_IPC_MEM_GET, r.base);
    CUresult res = sim_call(&req);
    memset(pHandle, 0, sizeof *pHandle);
    if (res == CUDA_SUCCESS) {
        uint64_t body[3] = {req.out[0], 0, r.size};
        memcpy(pHandle->reserved, body, sizeof body);
    }
    return res;
}

/* Held while memory of another process is opened or closed: opening it again counts, and gives the same address. */
static pthread_mutex_t ipc_lock = PTHREAD_MUTEX_INITIALIZER;

/* Adds `by` to how often the memory of a token (or, with token 0, at an address) is open in a context (or, NULL, in any); what it is
 * then, and where. 0: it is not open. ipc_lock is held. */
static unsigned ipc_count(const struct sim_ctx *ctx, uint64_t token, uint64_t base, int by, uint64_t *at)
{
    unsigned count = 0;
    pthread_rwlock_wrlock(&sim_map_lock);
    for (size_t i = 0; i < sim_map_count(); i++) {
        struct sim_range *r = sim_map_at(i);
        if (r->kind != SIM_MAP_IPC || (ctx && r->ctx != ctx) || (token ? r->handle != token : r->base != base))
            continue;
        count = r->flags += (unsigned)by;
        *at = r->base;
        break;
    }
    pthread_rwlock_unlock(&sim_map_lock);
    return count;
}

static CUresult ipc_open(struct sim_ctx *ctx, uint64_t token, CUdeviceptr *pdptr)
{
    uint64_t at;
    if (token && ipc_count(ctx, token, 0, 1, &at)) {
        *pdptr = at;
        return CUDA_SUCCESS;
    }
    SIM_REQ(req, SIM_OP_IPC_MEM_OPEN, ctx->obj.index, token);
    CUresult res = sim_call(&req);
    if (res != CUDA_SUCCESS)
        return res;
    struct sim_range r = {.base = req.out[0], .size = req.out[1], .kind = SIM_MAP_IPC, .ctx = ctx, .dev = ctx->dev, .flags = 1,
                          .handle = token, .id = sim_buffer_id()};
    pthread_rwlock_wrlock(&sim_map_lock);
    sim_map_add(&r);
    pthread_rwlock_unlock(&sim_map_lock);
    *pdptr = r.base;
    return CUDA_SUCCESS;
}

CUresult sim_cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
    struct sim_ctx *ctx;
    uint64_t body[3];
    if (!pdptr || (Flags & ~(unsigned)CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_current(&ctx);
    if (res != CUDA_SUCCESS)
        return res;
    memcpy(body, handle.reserved, sizeof body);
    pthread_mutex_lock(&ipc_lock);
    res = ipc_open(ctx, body[0], pdptr);
    pthread_mutex_unlock(&ipc_lock);
    return res;
}

CUresult sim_cuIpcOpenMemHandle(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
    return sim_cuIpcOpenMemHandle_v2(pdptr, handle, Flags);
}

CUresult sim_cuIpcCloseMemHandle(CUdeviceptr dptr)
{
    struct sim_range r;
    uint64_t at;
    CUresult res = CUDA_SUCCESS;
    pthread_mutex_lock(&ipc_lock);
    if (!sim_map_get(dptr, &r) || r.kind != SIM_MAP_IPC || r.base != dptr) {
        res = CUDA_ERROR_INVALID_VALUE;
    } else if (ipc_count(NULL, 0, dptr, -1, &at) == 0) {
        SIM_REQ(req, SIM_OP_IPC_MEM_CLOSE, dptr);
        res = sim_call(&req);
        pthread_rwlock_wrlock(&sim_map_lock);
        sim_map_remove(dptr);
        pthread_rwlock_unlock(&sim_map_lock);
    }
    pthread_mutex_unlock(&ipc_lock);
    return res;
}
