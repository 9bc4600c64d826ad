/*
 * copy.c: copies and fills. Small copies from pageable memory travel inside
 * the message; larger ones are read by the server out of this process before
 * the call returns, as the driver stages them.
 */
#include <string.h>

#include "sim.h"

#define SNAPSHOT_LIMIT ((uint64_t)64 << 20)

struct copy {
    uint64_t dst, dst_pitch, dst_slice, src, src_pitch, src_slice, width, height, depth;
};

enum place { PAGEABLE, PINNED, DEVICE };
enum want { WANT_ANY, WANT_HOST, WANT_DEVICE };

static bool extent(uint64_t pitch, uint64_t slice, const struct copy *c, uint64_t *bytes)
{
    uint64_t a, b;
    return !__builtin_mul_overflow(c->depth - 1, slice, &a) && !__builtin_mul_overflow(c->height - 1, pitch, &b) &&
           !__builtin_add_overflow(a, b, &a) && !__builtin_add_overflow(a, c->width, bytes);
}

/* Where [addr, addr+size) lies; CUDA_ERROR_INVALID_VALUE if it is not what the caller said. */
static CUresult classify(uint64_t addr, uint64_t size, enum want want, enum place *place)
{
    CUresult res = CUDA_SUCCESS;
    pthread_rwlock_rdlock(&sim_map_lock);
    const struct sim_range *r = sim_map_find(addr);
    if (!r)
        *place = PAGEABLE;
    else
        *place = r->kind == SIM_MAP_HOST || r->kind == SIM_MAP_REGISTERED ? PINNED : DEVICE;
    if (want == WANT_DEVICE && !sim_map_covered(addr, size, false))
        res = CUDA_ERROR_INVALID_VALUE;
    else if (want == WANT_HOST && *place == DEVICE && r->kind != SIM_MAP_MANAGED)
        res = CUDA_ERROR_INVALID_VALUE;
    else if (*place == DEVICE && !sim_map_covered(addr, size, false))
        res = CUDA_ERROR_INVALID_VALUE;
    else if (*place == PINNED && !sim_map_covered(addr, size, false))
        *place = PAGEABLE;
    pthread_rwlock_unlock(&sim_map_lock);
    return res;
}

static CUresult do_copy(CUstream stream, const struct copy *c, enum want dst_want, enum want src_want, bool async)
{
    struct sim_stream *s;
    enum place dst, src;
    uint64_t dst_bytes, src_bytes;
    CUresult res = sim_stream_resolve(stream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (!c->width || !c->height || !c->depth)
        return CUDA_SUCCESS;
    if (!extent(c->dst_pitch, c->dst_slice, c, &dst_bytes) || !extent(c->src_pitch, c->src_slice, c, &src_bytes))
        return CUDA_ERROR_INVALID_VALUE;
    res = classify(c->dst, dst_bytes, dst_want, &dst);
    if (res == CUDA_SUCCESS)
        res = classify(c->src, src_bytes, src_want, &src);
    if (res != CUDA_SUCCESS)
        return res;
    bool capturing = atomic_load(&s->capture) != CU_STREAM_CAPTURE_STATUS_NONE;
    if (!async && (capturing || (res = sim_capture_unsafe()) != CUDA_SUCCESS))
        return capturing ? sim_capture_forbid(s) : res;
    SIM_REQ(req, SIM_OP_COPY, 0, 0, SIM_COPY_ASYNC, c->dst, c->dst_pitch, c->dst_slice, c->src, c->src_pitch, c->src_slice, c->width,
            c->height, c->depth);
    bool wait = !async && !(dst == DEVICE && src == DEVICE);
    if (wait)
        req.args[2] = SIM_COPY_SYNC;
    if (!capturing && src == PAGEABLE && dst != PAGEABLE) {
        /* A synchronous copy ends before it returns: the documentation allows less, no run on an H200 showed it, and programs rely on it. */
        if (async && c->height == 1 && c->depth == 1 && c->width <= SIM_INLINE_COPY_BYTES) {
            req.args[2] = SIM_COPY_INLINE;
            req.blob = (const void *)(uintptr_t)c->src;
            req.blob_len = c->width;
            wait = false;
        } else {
            req.args[2] = async && src_bytes <= SNAPSHOT_LIMIT && c->height <= SIM_SNAPSHOT_ROWS && c->height * c->depth <= SIM_SNAPSHOT_ROWS ? SIM_COPY_SNAPSHOT : SIM_COPY_SYNC;
            wait = true;
        }
    } else if (!capturing && dst == PAGEABLE) {
        req.args[2] = SIM_COPY_SYNC;
        wait = true;
    }
    res = sim_submit(s, &req, wait);
    if (wait && !async)
        sim_printf_drain(s->ctx);
    return res;
}

static CUresult linear(CUstream stream, uint64_t dst, uint64_t src, uint64_t n, enum want dw, enum want sw, bool async)
{
    struct copy c = {dst, n, n, src, n, n, n, 1, 1};
    return do_copy(stream, &c, dw, sw, async);
}

#define HOST(p) ((uint64_t)(uintptr_t)(p))

CUresult sim_cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount)
{
    return linear(NULL, dstDevice, HOST(srcHost), ByteCount, WANT_DEVICE, WANT_HOST, false);
}

CUresult sim_cuMemcpyDtoH_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount)
{
    return linear(NULL, HOST(dstHost), srcDevice, ByteCount, WANT_HOST, WANT_DEVICE, false);
}

CUresult sim_cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount)
{
    return linear(NULL, dstDevice, srcDevice, ByteCount, WANT_DEVICE, WANT_DEVICE, false);
}

CUresult sim_cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
    return linear(NULL, dst, src, ByteCount, WANT_ANY, WANT_ANY, false);
}

CUresult sim_cuMemcpyPeer(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount)
{
    if (!SIM_OBJ(SIM_CTX, dstContext) || !SIM_OBJ(SIM_CTX, srcContext))
        return CUDA_ERROR_INVALID_CONTEXT;
    return linear(NULL, dstDevice, srcDevice, ByteCount, WANT_DEVICE, WANT_DEVICE, false);
}

CUresult sim_cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)
{
    return linear(hStream, dstDevice, HOST(srcHost), ByteCount, WANT_DEVICE, WANT_HOST, true);
}

CUresult sim_cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
    return linear(hStream, HOST(dstHost), srcDevice, ByteCount, WANT_HOST, WANT_DEVICE, true);
}

CUresult sim_cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
    return linear(hStream, dstDevice, srcDevice, ByteCount, WANT_DEVICE, WANT_DEVICE, true);
}

CUresult sim_cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount, CUstream hStream)
{
    return linear(hStream, dst, src, ByteCount, WANT_ANY, WANT_ANY, true);
}

CUresult sim_cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount, CUstream hStream)
{
    if (!SIM_OBJ(SIM_CTX, dstContext) || !SIM_OBJ(SIM_CTX, srcContext))
        return CUDA_ERROR_INVALID_CONTEXT;
    return linear(hStream, dstDevice, srcDevice, ByteCount, WANT_DEVICE, WANT_DEVICE, true);
}

/* ---- pitched copies ---- */

/* The operand of a pitched copy that starts at base; CUDA_ERROR_NOT_SUPPORTED for arrays. */
static CUresult operand(CUmemorytype type, const void *host, CUdeviceptr device, uint64_t *base, enum want *want)
{
    switch ((int)type) {
    case CU_MEMORYTYPE_HOST:
        *base = HOST(host);
        *want = WANT_HOST;
        return CUDA_SUCCESS;
    case CU_MEMORYTYPE_DEVICE:
        *base = device;
        *want = WANT_DEVICE;
        return CUDA_SUCCESS;
    case CU_MEMORYTYPE_UNIFIED:
        *base = device;
        *want = WANT_ANY;
        return CUDA_SUCCESS;
    case CU_MEMORYTYPE_ARRAY:
        sim_log("copies of arrays are not supported by the simulated GPU");
        return CUDA_ERROR_NOT_SUPPORTED;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult copy_2d(const CUDA_MEMCPY2D *p, CUstream stream, bool async)
{
    struct copy c = {0};
    enum want dw, sw;
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = operand(p->dstMemoryType, p->dstHost, p->dstDevice, &c.dst, &dw);
    if (res == CUDA_SUCCESS)
        res = operand(p->srcMemoryType, p->srcHost, p->srcDevice, &c.src, &sw);
    if (res != CUDA_SUCCESS)
        return res;
    c.width = p->WidthInBytes;
    c.height = p->Height;
    c.depth = 1;
    c.dst_pitch = p->dstPitch ? p->dstPitch : p->WidthInBytes + p->dstXInBytes;
    c.src_pitch = p->srcPitch ? p->srcPitch : p->WidthInBytes + p->srcXInBytes;
    if (c.dst_pitch < c.width + p->dstXInBytes || c.src_pitch < c.width + p->srcXInBytes)
        return CUDA_ERROR_INVALID_VALUE;
    c.dst += p->dstY * c.dst_pitch + p->dstXInBytes;
    c.src += p->srcY * c.src_pitch + p->srcXInBytes;
    return do_copy(stream, &c, dw, sw, async);
}

CUresult sim_cuMemcpy2D_v2(const CUDA_MEMCPY2D *pCopy)
{
    return copy_2d(pCopy, NULL, false);
}

CUresult sim_cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *pCopy)
{
    return copy_2d(pCopy, NULL, false);
}

CUresult sim_cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *pCopy, CUstream hStream)
{
    return copy_2d(pCopy, hStream, true);
}

/* The copy that p asks for. */
static CUresult shape_3d(const CUDA_MEMCPY3D *p, struct copy *out, enum want *dw, enum want *sw)
{
    struct copy c = {0};
    if (!p || p->srcLOD || p->dstLOD)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = operand(p->dstMemoryType, p->dstHost, p->dstDevice, &c.dst, dw);
    if (res == CUDA_SUCCESS)
        res = operand(p->srcMemoryType, p->srcHost, p->srcDevice, &c.src, sw);
    if (res != CUDA_SUCCESS)
        return res;
    c.width = p->WidthInBytes;
    c.height = p->Height;
    c.depth = p->Depth;
    c.dst_pitch = p->dstPitch ? p->dstPitch : c.width + p->dstXInBytes;
    c.src_pitch = p->srcPitch ? p->srcPitch : c.width + p->srcXInBytes;
    uint64_t dst_rows = p->dstHeight ? p->dstHeight : c.height + p->dstY, src_rows = p->srcHeight ? p->srcHeight : c.height + p->srcY;
    if (c.dst_pitch < c.width + p->dstXInBytes || c.src_pitch < c.width + p->srcXInBytes || dst_rows < c.height + p->dstY ||
        src_rows < c.height + p->srcY)
        return CUDA_ERROR_INVALID_VALUE;
    c.dst_slice = c.dst_pitch * dst_rows;
    c.src_slice = c.src_pitch * src_rows;
    c.dst += p->dstZ * c.dst_slice + p->dstY * c.dst_pitch + p->dstXInBytes;
    c.src += p->srcZ * c.src_slice + p->srcY * c.src_pitch + p->srcXInBytes;
    *out = c;
    return CUDA_SUCCESS;
}

static CUresult copy_3d(const CUDA_MEMCPY3D *p, CUstream stream, bool async)
{
    struct copy c;
    enum want dw, sw;
    CUresult res = shape_3d(p, &c, &dw, &sw);
    return res == CUDA_SUCCESS ? do_copy(stream, &c, dw, sw, async) : res;
}

CUresult sim_copy_prepare(const CUDA_MEMCPY3D *p, struct sim_request *req)
{
    struct copy c;
    enum want dw, sw;
    enum place dst, src;
    uint64_t dst_bytes, src_bytes;
    CUresult res = shape_3d(p, &c, &dw, &sw);
    if (res != CUDA_SUCCESS)
        return res;
    if (!c.width || !c.height || !c.depth || !extent(c.dst_pitch, c.dst_slice, &c, &dst_bytes) || !extent(c.src_pitch, c.src_slice, &c, &src_bytes))
        return CUDA_ERROR_INVALID_VALUE;
    res = classify(c.dst, dst_bytes, dw, &dst);
    if (res == CUDA_SUCCESS)
        res = classify(c.src, src_bytes, sw, &src);
    SIM_REQ(copy, SIM_OP_COPY, 0, 0, SIM_COPY_ASYNC, c.dst, c.dst_pitch, c.dst_slice, c.src, c.src_pitch, c.src_slice, c.width, c.height, c.depth);
    *req = copy;
    return res;
}

CUresult sim_cuMemcpy3D_v2(const CUDA_MEMCPY3D *pCopy)
{
    return copy_3d(pCopy, NULL, false);
}

CUresult sim_cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *pCopy, CUstream hStream)
{
    return copy_3d(pCopy, hStream, true);
}

static CUresult copy_3d_peer(const CUDA_MEMCPY3D_PEER *p, CUstream stream, bool async)
{
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_MEMCPY3D c = {.srcXInBytes = p->srcXInBytes, .srcY = p->srcY, .srcZ = p->srcZ, .srcLOD = p->srcLOD,
                       .srcMemoryType = p->srcMemoryType, .srcHost = p->srcHost, .srcDevice = p->srcDevice, .srcPitch = p->srcPitch,
                       .srcHeight = p->srcHeight, .dstXInBytes = p->dstXInBytes, .dstY = p->dstY, .dstZ = p->dstZ, .dstLOD = p->dstLOD,
                       .dstMemoryType = p->dstMemoryType, .dstHost = p->dstHost, .dstDevice = p->dstDevice, .dstPitch = p->dstPitch,
                       .dstHeight = p->dstHeight, .WidthInBytes = p->WidthInBytes, .Height = p->Height, .Depth = p->Depth};
    return copy_3d(&c, stream, async);
}

CUresult sim_cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER *pCopy)
{
    return copy_3d_peer(pCopy, NULL, false);
}

CUresult sim_cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream)
{
    return copy_3d_peer(pCopy, hStream, true);
}

/* ---- fills ---- */

static CUresult fill(CUstream stream, CUdeviceptr dst, size_t pitch, unsigned elem, uint64_t value, size_t width, size_t height, bool async)
{
    struct sim_stream *s;
    uint64_t row, bytes;
    CUresult res = sim_stream_resolve(stream, &s);
    if (res != CUDA_SUCCESS)
        return res;
    if (!width || !height)
        return CUDA_SUCCESS;
    if (dst % elem || __builtin_mul_overflow((uint64_t)width, (uint64_t)elem, &row))
        return CUDA_ERROR_INVALID_VALUE;
    if (height == 1)
        pitch = row;
    if (pitch < row || pitch % elem || __builtin_mul_overflow((uint64_t)pitch, (uint64_t)height - 1, &bytes) ||
        __builtin_add_overflow(bytes, row, &bytes))
        return CUDA_ERROR_INVALID_VALUE;
    res = sim_map_check(dst, bytes);
    if (res != CUDA_SUCCESS)
        return res;
    bool capturing = atomic_load(&s->capture) != CU_STREAM_CAPTURE_STATUS_NONE;
    if (!async && (capturing || (res = sim_capture_unsafe()) != CUDA_SUCCESS))
        return capturing ? sim_capture_forbid(s) : res;
    SIM_REQ(req, SIM_OP_MEMSET, 0, 0, dst, pitch, elem, value, width, height);
    return sim_submit(s, &req, false);
}

CUresult sim_cuMemsetD8_v2(CUdeviceptr dstDevice, unsigned char uc, size_t N)
{
    return fill(NULL, dstDevice, 0, 1, uc, N, 1, false);
}

CUresult sim_cuMemsetD16_v2(CUdeviceptr dstDevice, unsigned short us, size_t N)
{
    return fill(NULL, dstDevice, 0, 2, us, N, 1, false);
}

CUresult sim_cuMemsetD32_v2(CUdeviceptr dstDevice, unsigned int ui, size_t N)
{
    return fill(NULL, dstDevice, 0, 4, ui, N, 1, false);
}

CUresult sim_cuMemsetD2D8_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width, size_t Height)
{
    return fill(NULL, dstDevice, dstPitch, 1, uc, Width, Height, false);
}

CUresult sim_cuMemsetD2D16_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width, size_t Height)
{
    return fill(NULL, dstDevice, dstPitch, 2, us, Width, Height, false);
}

CUresult sim_cuMemsetD2D32_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width, size_t Height)
{
    return fill(NULL, dstDevice, dstPitch, 4, ui, Width, Height, false);
}

CUresult sim_cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream)
{
    return fill(hStream, dstDevice, 0, 1, uc, N, 1, true);
}

CUresult sim_cuMemsetD16Async(CUdeviceptr dstDevice, unsigned short us, size_t N, CUstream hStream)
{
    return fill(hStream, dstDevice, 0, 2, us, N, 1, true);
}

CUresult sim_cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream)
{
    return fill(hStream, dstDevice, 0, 4, ui, N, 1, true);
}

CUresult sim_cuMemsetD2D8Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width, size_t Height, CUstream hStream)
{
    return fill(hStream, dstDevice, dstPitch, 1, uc, Width, Height, true);
}

CUresult sim_cuMemsetD2D16Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width, size_t Height, CUstream hStream)
{
    return fill(hStream, dstDevice, dstPitch, 2, us, Width, Height, true);
}

CUresult sim_cuMemsetD2D32Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width, size_t Height, CUstream hStream)
{
    return fill(hStream, dstDevice, dstPitch, 4, ui, Width, Height, true);
}
