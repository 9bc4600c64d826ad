/* check.h: what the test programs share. A program prints what failed and exits 1. */
#ifndef CHECK_H
#define CHECK_H
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call)                                                                                                 \
    do {                                                                                                         \
        CUresult check_r = (call);                                                                               \
        if (check_r != CUDA_SUCCESS) {                                                                           \
            const char *check_n = "?";                                                                           \
            cuGetErrorName(check_r, &check_n);                                                                   \
            fprintf(stderr, "%s:%d: %s: %s (%d)\n", __FILE__, __LINE__, #call, check_n, (int)check_r);           \
            exit(1);                                                                                             \
        }                                                                                                        \
    } while (0)

#define IS(want, call)                                                                                           \
    do {                                                                                                         \
        CUresult check_r = (call), check_w = (want);                                                             \
        if (check_r != check_w) {                                                                                \
            fprintf(stderr, "%s:%d: %s: got %d, want %d (%s)\n", __FILE__, __LINE__, #call, (int)check_r,        \
                    (int)check_w, #want);                                                                        \
            exit(1);                                                                                             \
        }                                                                                                        \
    } while (0)

#define TRUE(cond)                                                                                               \
    do {                                                                                                         \
        if (!(cond)) {                                                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #cond);                                 \
            exit(1);                                                                                             \
        }                                                                                                        \
    } while (0)

/* c[i] = a[i] + b[i]; n in the fourth parameter. */
static const char ptx_vecadd[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    ".visible .entry vecadd(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)\n"
    "{\n"
    "  .reg .pred %p;\n  .reg .b32 %r<6>;\n  .reg .f32 %f<4>;\n  .reg .b64 %rd<8>;\n"
    "  ld.param.u64 %rd1, [a];\n  ld.param.u64 %rd2, [b];\n  ld.param.u64 %rd3, [c];\n  ld.param.u32 %r1, [n];\n"
    "  mov.u32 %r2, %ctaid.x;\n  mov.u32 %r3, %ntid.x;\n  mov.u32 %r4, %tid.x;\n  mad.lo.s32 %r5, %r2, %r3, %r4;\n"
    "  setp.ge.u32 %p, %r5, %r1;\n  @%p bra DONE;\n"
    "  mul.wide.u32 %rd4, %r5, 4;\n  add.s64 %rd5, %rd1, %rd4;\n  add.s64 %rd6, %rd2, %rd4;\n  add.s64 %rd7, %rd3, %rd4;\n"
    "  ld.global.f32 %f1, [%rd5];\n  ld.global.f32 %f2, [%rd6];\n  add.f32 %f3, %f1, %f2;\n  st.global.f32 [%rd7], %f3;\n"
    "DONE:\n  ret;\n}\n";

/* The first device's primary context, current. */
static inline CUcontext primary(void)
{
    CUcontext ctx;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&ctx, 0));
    OK(cuCtxSetCurrent(ctx));
    return ctx;
}
#endif
