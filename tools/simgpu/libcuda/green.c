/* green.c: green contexts, partitions of the SMs. A resource is a run of SMs, of which the first one's number stands in the part of
 * CUdevResource that is the driver's own. The context of a green context is the primary one; a graph's kernels run on all SMs. */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

enum { SMS = 132, UNIT = 8 };

/* What stands in _internal_padding. */
struct inside {
    uint32_t magic, first, split;
};
#define MAGIC 0x6e656572u

struct CUdevResourceDesc_st {
    uint32_t magic, first, sms;
};

static _Atomic uint64_t next_id = 1;

static bool inside_of(const CUdevResource *r, struct inside *in)
{
    memcpy(in, r->_internal_padding, sizeof *in);
    return r->type == CU_DEV_RESOURCE_TYPE_SM && in->magic == MAGIC && r->sm.smCount && in->first + r->sm.smCount <= SMS;
}

static void resource(CUdevResource *r, uint32_t first, uint32_t sms, bool split)
{
    const struct inside in = {MAGIC, first, split};
    memset(r, 0, sizeof *r);
    if (!sms)
        return; /* CU_DEV_RESOURCE_TYPE_INVALID */
    r->type = CU_DEV_RESOURCE_TYPE_SM;
    memcpy(r->_internal_padding, &in, sizeof in);
    r->sm.smCount = sms;
    r->sm.minSmPartitionSize = UNIT;
    r->sm.smCoscheduledAlignment = UNIT;
}

CUresult sim_cuDeviceGetDevResource(CUdevice device, CUdevResource *out, CUdevResourceType type)
{
    if (device < 0 || device >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    if (!out)
        return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_DEV_RESOURCE_TYPE_SM)
        return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    resource(out, 0, SMS, false);
    return CUDA_SUCCESS;
}

CUresult sim_cuDevSmResourceSplitByCount(CUdevResource *result, unsigned int *nbGroups, const CUdevResource *input, CUdevResource *remaining,
                                         unsigned int useFlags, unsigned int minCount)
{
    struct inside in;
    if (!nbGroups || !input || useFlags)
        return CUDA_ERROR_INVALID_VALUE;
    if (!inside_of(input, &in) || in.split) /* a group cannot be split again without a green context of it */
        return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    uint32_t have = input->sm.smCount, size = minCount ? (minCount + UNIT - 1) / UNIT * UNIT : UNIT, n;
    if (size > have) /* as an H200: 131 of 132 are all */
        size = have;
    n = have / size;
    if (minCount > have)
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    if (result) {
        n = *nbGroups < n ? *nbGroups : n;
        for (uint32_t i = 0; i < n; i++)
            resource(&result[i], in.first + i * size, size, true);
        if (remaining)
            resource(remaining, in.first + n * size, have - n * size, true);
    }
    *nbGroups = n;
    return CUDA_SUCCESS;
}

CUresult sim_cuDevResourceGenerateDesc(CUdevResourceDesc *phDesc, CUdevResource *resources, unsigned int nbResources)
{
    if (!phDesc || !resources || !nbResources)
        return CUDA_ERROR_INVALID_VALUE;
    uint32_t first = 0, sms = 0;
    for (unsigned i = 0; i < nbResources; i++) {
        struct inside in;
        if (!inside_of(&resources[i], &in))
            return CUDA_ERROR_INVALID_RESOURCE_TYPE;
        if (i && in.first != first + sms)
            return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
        first = i ? first : in.first;
        sms += resources[i].sm.smCount;
    }
    struct CUdevResourceDesc_st *d = malloc(sizeof *d); /* the driver has no call that frees one */
    if (!d)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *d = (struct CUdevResourceDesc_st){MAGIC, first, sms};
    *phDesc = d;
    return CUDA_SUCCESS;
}

CUresult sim_cuGreenCtxCreate(CUgreenCtx *phCtx, CUdevResourceDesc desc, CUdevice dev, unsigned int flags)
{
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    if (!phCtx || !desc || desc->magic != MAGIC || flags != CU_GREEN_CTX_DEFAULT_STREAM)
        return CUDA_ERROR_INVALID_VALUE;
    CUcontext primary;
    CUresult res = sim_cuDevicePrimaryCtxRetain(&primary, dev);
    if (res != CUDA_SUCCESS)
        return res;
    struct sim_green *g = sim_obj_new(SIM_GREEN);
    if (!g) {
        sim_cuDevicePrimaryCtxRelease_v2(dev);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    g->ctx = (struct sim_ctx *)primary;
    g->first = desc->first;
    g->sms = desc->sms;
    g->id = atomic_fetch_add(&next_id, 1);
    *phCtx = (CUgreenCtx)g;
    return CUDA_SUCCESS;
}

CUresult sim_cuGreenCtxDestroy(CUgreenCtx hCtx)
{
    struct sim_green *g = SIM_OBJ(SIM_GREEN, hCtx);
    if (!g)
        return CUDA_ERROR_INVALID_CONTEXT;
    int dev = g->ctx->dev;
    sim_obj_free(SIM_GREEN, g);
    return sim_cuDevicePrimaryCtxRelease_v2(dev);
}

CUresult sim_cuGreenCtxStreamCreate(CUstream *phStream, CUgreenCtx greenCtx, unsigned int flags, int priority)
{
    struct sim_green *g = SIM_OBJ(SIM_GREEN, greenCtx);
    if (!g)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!phStream || flags != CU_STREAM_NON_BLOCKING)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_error(g->ctx);
    if (res != CUDA_SUCCESS)
        return res;
    priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;
    struct sim_stream *s = sim_stream_new_in(g->ctx, g, flags, priority, SIM_STREAM_NORMAL);
    *phStream = (CUstream)s;
    return s ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_cuCtxFromGreenCtx(CUcontext *pContext, CUgreenCtx hCtx)
{
    struct sim_green *g = SIM_OBJ(SIM_GREEN, hCtx);
    if (!g)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!pContext)
        return CUDA_ERROR_INVALID_VALUE;
    *pContext = (CUcontext)g->ctx;
    return CUDA_SUCCESS;
}

CUresult sim_cuGreenCtxGetDevResource(CUgreenCtx hCtx, CUdevResource *out, CUdevResourceType type)
{
    struct sim_green *g = SIM_OBJ(SIM_GREEN, hCtx);
    if (!g)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!out)
        return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_DEV_RESOURCE_TYPE_SM)
        return CUDA_ERROR_INVALID_RESOURCE_TYPE;
    resource(out, g->first, g->sms, false);
    return CUDA_SUCCESS;
}

CUresult sim_cuGreenCtxGetId(CUgreenCtx greenCtx, unsigned long long *greenCtxId)
{
    struct sim_green *g = SIM_OBJ(SIM_GREEN, greenCtx);
    if (!g)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!greenCtxId)
        return CUDA_ERROR_INVALID_VALUE;
    *greenCtxId = g->id;
    return CUDA_SUCCESS;
}

CUresult sim_cuStreamGetGreenCtx(CUstream hStream, CUgreenCtx *phCtx)
{
    struct sim_stream *s;
    CUresult res = sim_stream_resolve(hStream, &s);
    if (res == CUDA_SUCCESS && !phCtx)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        *phCtx = (CUgreenCtx)s->green;
    return res;
}
