/* launch.c: launches and occupancy. Arguments are checked here, with the
 * driver's codes, so that a launch needs no answer from the server. */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define MAX_SHARED_OPTIN 232448u
#define SHARED_PER_SM 233472u
#define RESERVED_SHARED 1024u

static bool bad_dims(const struct sim_launch *l)
{
    const unsigned *g = l->grid, *b = l->block;
    return !g[0] || !g[1] || !g[2] || !b[0] || !b[1] || !b[2] || g[0] > 2147483647u || g[1] > 65535 || g[2] > 65535 || b[0] > 1024 ||
           b[1] > 1024 || b[2] > 64;
}

static CUresult check_cluster(const struct sim_launch *l, const struct sim_attributes *a)
{
    uint64_t size = 1;
    for (int i = 0; i < 3; i++) {
        if (l->cluster[i] == 0 || l->grid[i] % l->cluster[i])
            return CUDA_ERROR_INVALID_CLUSTER_SIZE;
        size *= l->cluster[i];
    }
    return size > (a->non_portable ? 16u : 8u) ? CUDA_ERROR_INVALID_CLUSTER_SIZE : CUDA_SUCCESS;
}

static CUresult check(const struct sim_launch *l, const struct sim_entry *e, const struct sim_attributes *a)
{
    if (bad_dims(l))
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t threads = (uint64_t)l->block[0] * l->block[1] * l->block[2];
    if (threads > 1024 || threads > e->max_threads)
        return CUDA_ERROR_INVALID_VALUE;
    if (e->req_block[0] && (l->block[0] != e->req_block[0] || l->block[1] != e->req_block[1] || l->block[2] != e->req_block[2]))
        return CUDA_ERROR_INVALID_VALUE;
    int dynamic;
    sim_attribute_get(e, a, &dynamic, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
    if (l->shared > (unsigned)dynamic || (uint64_t)l->shared + e->shared > MAX_SHARED_OPTIN)
        return CUDA_ERROR_INVALID_VALUE;
    if (e->regs * threads > 65536)
        return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    return check_cluster(l, a);
}

/* The parameter block from kernelParams or extra; *blob is NULL if there are none. */
static CUresult gather(const struct sim_launch *l, const struct sim_entry *e, void **blob, size_t *size)
{
    *blob = NULL;
    *size = e->param_bytes;
    if (l->params && l->extra)
        return CUDA_ERROR_INVALID_VALUE;
    if (!e->param_bytes)
        return CUDA_SUCCESS;
    const void *buffer = NULL;
    size_t given = 0;
    if (l->extra) {
        for (void **p = l->extra; *p != CU_LAUNCH_PARAM_END; p += 2) {
            if (*p == CU_LAUNCH_PARAM_BUFFER_POINTER)
                buffer = p[1];
            else if (*p == CU_LAUNCH_PARAM_BUFFER_SIZE)
                given = *(const size_t *)p[1];
            else
                return CUDA_ERROR_INVALID_VALUE;
        }
        size_t end = 0;
        for (uint32_t i = 0; i < e->nparams; i++)
            if (e->offset[i] + (size_t)e->size[i] > end)
                end = e->offset[i] + (size_t)e->size[i];
        if (!buffer || given < end)
            return CUDA_ERROR_INVALID_VALUE;
    } else if (!l->params) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    unsigned char *block = calloc(1, e->param_bytes);
    if (!block)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (buffer) {
        memcpy(block, buffer, given < e->param_bytes ? given : e->param_bytes);
    } else {
        for (uint32_t i = 0; i < e->nparams; i++) {
            if (!l->params[i]) {
                free(block);
                return CUDA_ERROR_INVALID_VALUE;
            }
            memcpy(block + e->offset[i], l->params[i], e->size[i]);
        }
    }
    *blob = block;
    return CUDA_SUCCESS;
}

static CUresult check_cooperative(const struct sim_launch *l, const struct sim_entry *e, unsigned sms)
{
    int blocks;
    CUresult res = sim_occupancy(e, (int)(l->block[0] * l->block[1] * l->block[2]), l->shared, &blocks);
    if (res == CUDA_SUCCESS && (uint64_t)l->grid[0] * l->grid[1] * l->grid[2] > (uint64_t)blocks * sms)
        res = CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    return res;
}

CUresult sim_launch_prepare(struct sim_ctx *ctx, const struct sim_launch *l, struct sim_request *req, void **blob)
{
    struct sim_function *f;
    size_t size;
    *blob = NULL;
    CUresult res = sim_function_resolve(l->f, ctx, &f);
    if (res != CUDA_SUCCESS)
        return res;
    const struct sim_entry *e = sim_function_entry(f);
    if (e->broken) {
        sim_log("%s uses instructions that the simulated GPU does not have (see SIMGPU_SERVER_LOG)", e->name);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    res = check(l, e, &f->attr);
    if (res == CUDA_SUCCESS && l->cooperative)
        res = check_cooperative(l, e, 132);
    if (res == CUDA_SUCCESS)
        res = gather(l, e, blob, &size);
    if (res != CUDA_SUCCESS)
        return res;
    const uint64_t list[] = {SIM_OP_LAUNCH, 0, 0, f->module->instance, f->entry, l->grid[0], l->grid[1], l->grid[2], l->block[0], l->block[1],
                             l->block[2], l->cluster[0], l->cluster[1], l->cluster[2], l->shared, l->cooperative};
    sim_req_init(req, list, sizeof list / sizeof list[0]);
    req->function = l->f;
    req->blob = *blob;
    req->blob_len = size;
    return CUDA_SUCCESS;
}

/* What a partition of the SMs refuses although the chip takes it: clusters larger than the portable size (an H200 refused one of 16 on
 * 32 to 120 SMs), and cooperative grids that it cannot hold at once. */
static CUresult check_green(const struct sim_green *g, struct sim_ctx *ctx, const struct sim_launch *l)
{
    struct sim_function *f;
    if ((uint64_t)l->cluster[0] * l->cluster[1] * l->cluster[2] > 8)
        return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    CUresult res = l->cooperative ? sim_function_resolve(l->f, ctx, &f) : CUDA_SUCCESS;
    return res == CUDA_SUCCESS && l->cooperative ? check_cooperative(l, sim_function_entry(f), g->sms) : res;
}

static CUresult launch(const struct sim_launch *l, CUstream stream)
{
    struct sim_stream *s;
    struct sim_request req;
    void *blob;
    if (!l->f)
        return CUDA_ERROR_INVALID_HANDLE;
    CUresult res = sim_stream_resolve(stream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    res = sim_launch_prepare(s->ctx, l, &req, &blob);
    if (res == CUDA_SUCCESS && s->green)
        res = check_green(s->green, s->ctx, l);
    if (res == CUDA_SUCCESS)
        res = sim_submit(s, &req, false);
    free(blob);
    return res;
}

CUresult sim_cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ, unsigned int blockDimX,
                            unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream, void **kernelParams,
                            void **extra)
{
    struct sim_launch l = {.f = f, .grid = {gridDimX, gridDimY, gridDimZ}, .block = {blockDimX, blockDimY, blockDimZ}, .cluster = {1, 1, 1},
                           .shared = sharedMemBytes, .params = kernelParams, .extra = extra};
    return launch(&l, hStream);
}

CUresult sim_cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ, unsigned int blockDimX,
                                       unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                                       void **kernelParams)
{
    struct sim_launch l = {.f = f, .grid = {gridDimX, gridDimY, gridDimZ}, .block = {blockDimX, blockDimY, blockDimZ}, .cluster = {1, 1, 1},
                           .shared = sharedMemBytes, .cooperative = true, .params = kernelParams};
    return launch(&l, hStream);
}

CUresult sim_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra)
{
    if (!config || (config->numAttrs && !config->attrs))
        return CUDA_ERROR_INVALID_VALUE;
    struct sim_launch l = {.f = f, .grid = {config->gridDimX, config->gridDimY, config->gridDimZ},
                           .block = {config->blockDimX, config->blockDimY, config->blockDimZ}, .cluster = {1, 1, 1},
                           .shared = config->sharedMemBytes, .params = kernelParams, .extra = extra};
    CUevent after = NULL;
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const CUlaunchAttribute *a = &config->attrs[i];
        switch ((int)a->id) {
        case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
            l.cluster[0] = a->value.clusterDim.x;
            l.cluster[1] = a->value.clusterDim.y;
            l.cluster[2] = a->value.clusterDim.z;
            break;
        case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
            l.cooperative = a->value.cooperative != 0;
            break;
        case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
            after = a->value.launchCompletionEvent.event;
            break;
        case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
            after = a->value.programmaticEvent.event;
            break;
        case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE:
            return CUDA_ERROR_NOT_SUPPORTED;
        default:
            if (a->id < 0 || a->id >= CU_LAUNCH_ATTRIBUTE_MAX)
                return CUDA_ERROR_INVALID_VALUE;
            /* the others change when and how fast a kernel runs, not what it does */
        }
    }
    CUresult res = launch(&l, config->hStream);
    return res == CUDA_SUCCESS && after ? sim_cuEventRecord(after, config->hStream) : res;
}

/* ---- occupancy ---- */

CUresult sim_occupancy(const struct sim_entry *e, int block, size_t dynamic, int *blocks)
{
    if (block <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    *blocks = 0;
    if (block > (int)e->max_threads || block > 1024 || e->shared + dynamic > MAX_SHARED_OPTIN)
        return CUDA_SUCCESS;
    unsigned warps = ((unsigned)block + 31) / 32;
    unsigned regs_per_warp = (e->regs * 32 + 255) & ~255u; /* registers are given to a warp in units of 256 */
    unsigned by_threads = 64 / warps, by_regs = regs_per_warp ? 65536 / regs_per_warp / warps : 32;
    unsigned shared = (unsigned)((e->shared + dynamic + RESERVED_SHARED + 127) & ~(size_t)127);
    unsigned by_shared = SHARED_PER_SM / shared, n = 32;
    n = by_threads < n ? by_threads : n;
    n = by_regs < n ? by_regs : n;
    n = by_shared < n ? by_shared : n;
    *blocks = (int)n;
    return CUDA_SUCCESS;
}

CUresult sim_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *numBlocks, CUfunction func, int blockSize, size_t dynamicSMemSize, unsigned int flags)
{
    struct sim_function *f;
    if (!numBlocks || (flags & ~(unsigned)CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_function_resolve(func, NULL, &f);
    return res == CUDA_SUCCESS ? sim_occupancy(sim_function_entry(f), blockSize, dynamicSMemSize, numBlocks) : res;
}

CUresult sim_cuOccupancyMaxActiveBlocksPerMultiprocessor(int *numBlocks, CUfunction func, int blockSize, size_t dynamicSMemSize)
{
    return sim_cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(numBlocks, func, blockSize, dynamicSMemSize, 0);
}

CUresult sim_cuOccupancyMaxPotentialBlockSizeWithFlags(int *minGridSize, int *blockSize, CUfunction func, CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                                       size_t dynamicSMemSize, int blockSizeLimit, unsigned int flags)
{
    struct sim_function *f;
    int best_threads = 0, best_block = 0, best_n = 0;
    (void)flags;
    if (!minGridSize || !blockSize)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_function_resolve(func, NULL, &f);
    if (res != CUDA_SUCCESS)
        return res;
    const struct sim_entry *e = sim_function_entry(f);
    int limit = (int)e->max_threads;
    if (blockSizeLimit > 0 && blockSizeLimit < limit)
        limit = blockSizeLimit;
    for (int b = (limit + 31) & ~31; b > 0; b -= 32) {
        int n, size = b < limit ? b : limit;
        res = sim_occupancy(e, size, blockSizeToDynamicSMemSize ? blockSizeToDynamicSMemSize(size) : dynamicSMemSize, &n);
        if (res == CUDA_SUCCESS && n * size > best_threads) {
            best_threads = n * size;
            best_block = size;
            best_n = n;
        }
    }
    *minGridSize = best_n * 132;
    *blockSize = best_block;
    return CUDA_SUCCESS;
}

CUresult sim_cuOccupancyMaxPotentialBlockSize(int *minGridSize, int *blockSize, CUfunction func, CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                              size_t dynamicSMemSize, int blockSizeLimit)
{
    return sim_cuOccupancyMaxPotentialBlockSizeWithFlags(minGridSize, blockSize, func, blockSizeToDynamicSMemSize, dynamicSMemSize, blockSizeLimit, 0);
}

CUresult sim_cuOccupancyAvailableDynamicSMemPerBlock(size_t *dynamicSmemSize, CUfunction func, int numBlocks, int blockSize)
{
    struct sim_function *f;
    if (!dynamicSmemSize || numBlocks <= 0 || blockSize <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_function_resolve(func, NULL, &f);
    if (res != CUDA_SUCCESS)
        return res;
    size_t each = (SHARED_PER_SM / (unsigned)numBlocks) & ~(size_t)127, used = RESERVED_SHARED + sim_function_entry(f)->shared;
    *dynamicSmemSize = each > used ? each - used : 0;
    return CUDA_SUCCESS;
}

CUresult sim_cuOccupancyMaxPotentialClusterSize(int *clusterSize, CUfunction func, const CUlaunchConfig *config)
{
    struct sim_function *f;
    if (!clusterSize || !config)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_function_resolve(func, NULL, &f);
    if (res == CUDA_SUCCESS)
        *clusterSize = f->attr.non_portable ? 16 : 8;
    return res;
}

CUresult sim_cuOccupancyMaxActiveClusters(int *numClusters, CUfunction func, const CUlaunchConfig *config)
{
    struct sim_function *f;
    int blocks;
    unsigned size = 1;
    if (!numClusters || !config)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_function_resolve(func, NULL, &f);
    if (res != CUDA_SUCCESS)
        return res;
    for (unsigned i = 0; i < config->numAttrs; i++)
        if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
            size = config->attrs[i].value.clusterDim.x * config->attrs[i].value.clusterDim.y * config->attrs[i].value.clusterDim.z;
    if (!size)
        return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    res = sim_occupancy(sim_function_entry(f), (int)(config->blockDimX * config->blockDimY * config->blockDimZ), config->sharedMemBytes, &blocks);
    if (res == CUDA_SUCCESS)
        *numClusters = blocks * 132 / (int)size;
    struct sim_stream *s = SIM_OBJ(SIM_STREAM, config->hStream);
    if (res == CUDA_SUCCESS && s && s->green)
        *numClusters = size > 8 ? 0 : blocks * (int)s->green->sms / (int)size;
    return res;
}
