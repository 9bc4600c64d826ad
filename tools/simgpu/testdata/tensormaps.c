/* tensormaps.c: cuTensorMapEncodeTiled: what it refuses, and that a kernel copies the tile which the map describes. */
#include "check.h"

/* Copies the tile at (x, y) of a tensor of 4-byte elements, 8 x 4 elements, to out. */
static const char ptx[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    ".visible .entry tile(.param .align 64 .b8 map[128], .param .u64 out, .param .s32 x, .param .s32 y)\n{\n"
    "  .reg .b32 %r<8>;\n  .reg .b64 %rd<6>;\n  .reg .pred %p;\n"
    "  .shared .align 128 .b8 s[128];\n  .shared .align 8 .b64 bar;\n"
    "  mov.b64 %rd1, map;\n  cvta.param.u64 %rd1, %rd1;\n  ld.param.u64 %rd2, [out];\n  ld.param.s32 %r1, [x];\n  ld.param.s32 %r2, [y];\n"
    "  mov.b32 %r3, bar;\n  mov.b32 %r4, s;\n  mov.u32 %r5, %tid.x;\n  setp.eq.u32 %p, %r5, 0;\n"
    "  @%p mbarrier.init.shared::cta.b64 [%r3], 1;\n  bar.sync 0;\n"
    "  @%p mbarrier.arrive.expect_tx.shared.b64 _, [%r3], 128;\n"
    "  @%p cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r4], [%rd1, {%r1, %r2}], [%r3];\n"
    "  mov.b32 %r6, 0;\n"
    "wait:\n  mbarrier.try_wait.parity.shared.b64 %p, [%r3], %r6;\n  @!%p bra wait;\n"
    "  shl.b32 %r6, %r5, 2;\n  add.u32 %r4, %r4, %r6;\n  ld.shared.u32 %r7, [%r4];\n"
    "  cvt.u64.u32 %rd3, %r6;\n  add.u64 %rd2, %rd2, %rd3;\n  st.global.u32 [%rd2], %r7;\n  ret;\n}\n";

enum { ROWS = 12, COLS = 16 };

#define F32 CU_TENSOR_MAP_DATA_TYPE_FLOAT32
#define PLAIN CU_TENSOR_MAP_SWIZZLE_NONE
#define ZEROS CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
#define NANS CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA

static CUtensorMap map;
static CUresult encode(CUdeviceptr at, CUtensorMapDataType type, unsigned boxX, unsigned boxY, unsigned stepY, CUtensorMapSwizzle swizzle,
                       CUtensorMapFloatOOBfill fill)
{
    const cuuint64_t dim[] = {COLS, ROWS}, stride[] = {4 * COLS};
    const cuuint32_t box[] = {boxX, boxY}, step[] = {1, stepY};
    return cuTensorMapEncodeTiled(&map, type, 2, (void *)at, dim, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                  CU_TENSOR_MAP_L2_PROMOTION_L2_128B, fill);
}

/* Expects the tile at (x, y) of the map to hold what element (column, row) gives; outside are the bits `outside`. */
static void tile(CUfunction f, CUdeviceptr out, int x, int y, int step, unsigned base, unsigned outside)
{
    unsigned got[32];
    void *params[] = {&map, &out, &x, &y};
    OK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    OK(cuMemcpyDtoH(got, out, sizeof got));
    for (int i = 0; i < 32; i++) {
        int c = x + i % 8, r = y + i / 8 * step;
        TRUE(got[i] == (c >= 0 && c < COLS && r >= 0 && r < ROWS ? base + (unsigned)(r * COLS + c) : outside));
    }
}

int main(void)
{
    CUcontext ctx;
    CUmodule m;
    CUfunction f;
    CUdeviceptr p, q, out;
    unsigned a[ROWS * COLS];
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&ctx, 0));
    OK(cuCtxSetCurrent(ctx));
    OK(cuModuleLoadData(&m, ptx));
    OK(cuModuleGetFunction(&f, m, "tile"));
    OK(cuMemAlloc(&p, sizeof a));
    OK(cuMemAlloc(&q, sizeof a));
    OK(cuMemAlloc(&out, 128));
    for (unsigned i = 0; i < ROWS * COLS; i++)
        a[i] = 1000 + i;
    OK(cuMemcpyHtoD(p, a, sizeof a));
    for (unsigned i = 0; i < ROWS * COLS; i++)
        a[i] = 5000 + i;
    OK(cuMemcpyHtoD(q, a, sizeof a));

    OK(encode(p, F32, 8, 4, 1, PLAIN, ZEROS));
    tile(f, out, 4, 3, 1, 1000, 0);
    tile(f, out, 12, 10, 1, 1000, 0);
    tile(f, out, -3, -1, 1, 1000, 0);
    OK(cuTensorMapReplaceAddress(&map, (void *)q));
    tile(f, out, 4, 3, 1, 5000, 0);
    OK(encode(p, F32, 8, 7, 2, PLAIN, NANS)); /* of a box of 7 rows every second: 4 */
    tile(f, out, 12, 3, 2, 1000, 0x7fffffff);

    IS(CUDA_ERROR_INVALID_VALUE, encode(p + 8, F32, 8, 4, 1, PLAIN, ZEROS));
    IS(CUDA_ERROR_INVALID_VALUE, encode(p, F32, 7, 4, 1, PLAIN, ZEROS));
    IS(CUDA_ERROR_INVALID_VALUE, encode(p, F32, 8, 257, 1, PLAIN, ZEROS));
    IS(CUDA_ERROR_INVALID_VALUE, encode(p, F32, 8, 4, 9, PLAIN, ZEROS));
    IS(CUDA_ERROR_INVALID_VALUE, encode(p, F32, 16, 4, 1, CU_TENSOR_MAP_SWIZZLE_32B, ZEROS));
    IS(CUDA_ERROR_INVALID_VALUE, encode(p, CU_TENSOR_MAP_DATA_TYPE_INT32, 8, 4, 1, PLAIN, NANS));
    IS(CUDA_ERROR_NOT_SUPPORTED, encode(p, CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN8B, 32, 4, 1, PLAIN, ZEROS));
    IS(CUDA_ERROR_INVALID_VALUE, cuTensorMapReplaceAddress((CUtensorMap *)((char *)&map + 8), (void *)q));
    memset(&map, 0, sizeof map);
    IS(CUDA_ERROR_INVALID_VALUE, cuTensorMapReplaceAddress(&map, (void *)q));

    OK(cuMemFree(p));
    OK(cuMemFree(q));
    OK(cuMemFree(out));
    OK(cuModuleUnload(m));
    OK(cuDevicePrimaryCtxRelease(0));
    return 0;
}
