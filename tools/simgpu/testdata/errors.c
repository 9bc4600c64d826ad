/* errors.c: what a bad kernel does to its context, what bad arguments give, and that other contexts live on. */
#include "check.h"

static const char ptx[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    ".visible .entry store(.param .u64 p)\n{\n  .reg .b64 %rd;\n  .reg .b32 %r;\n  ld.param.u64 %rd, [p];\n  mov.u32 %r, 7;\n"
    "  st.global.u32 [%rd], %r;\n  ret;\n}\n"
    ".visible .entry forever()\n{\nL:\n  bra L;\n}\n"
    ".visible .entry trapped()\n{\n  trap;\n  ret;\n}\n"
    ".visible .entry bounded() .maxntid 64, 1, 1\n{\n  ret;\n}\n"
    ".visible .entry shared_user()\n{\n  .shared .align 4 .b8 s[1024];\n  .reg .b32 %r;\n  mov.u32 %r, s;\n  st.shared.u32 [%r], %r;\n  ret;\n}\n";

/* Launches what breaks and checks that the code sticks to everything of this context. */
static void breaks(CUresult code, const char *name, CUdeviceptr arg, int has_arg)
{
    CUcontext ctx, other;
    CUmodule m;
    CUfunction f;
    CUstream s;
    CUevent e;
    CUdeviceptr p;
    void *params[] = {&arg};
    OK(cuCtxCreate(&other, NULL, 0, 0));
    OK(cuCtxCreate(&ctx, NULL, 0, 0));
    OK(cuModuleLoadData(&m, ptx));
    OK(cuModuleGetFunction(&f, m, name));
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&e, 0));
    OK(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, s, has_arg ? params : NULL, NULL));
    IS(code, cuStreamSynchronize(s));
    IS(code, cuStreamSynchronize(s));
    IS(code, cuCtxSynchronize());
    IS(code, cuMemAlloc(&p, 4));
    IS(code, cuStreamQuery(s));
    IS(code, cuEventRecord(e, s));
    IS(code, cuEventQuery(e));
    IS(code, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, s, has_arg ? params : NULL, NULL));
    IS(code, cuModuleGetFunction(&f, m, name));
    OK(cuCtxSetCurrent(other)); /* lives on */
    OK(cuMemAlloc(&p, 4));
    OK(cuMemsetD32(p, 1, 1));
    OK(cuCtxSynchronize());
    OK(cuMemFree(p));
    OK(cuCtxDestroy(ctx));
    OK(cuCtxDestroy(other));
}

static void arguments(void)
{
    CUmodule m;
    CUfunction f, g, h;
    CUdeviceptr p;
    char log[512];
    int v = 0;
    OK(cuModuleLoadData(&m, ptx));
    OK(cuModuleGetFunction(&f, m, "trapped"));
    OK(cuModuleGetFunction(&g, m, "bounded"));
    OK(cuModuleGetFunction(&h, m, "shared_user"));
    IS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 0, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    IS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 65536, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    IS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 1025, 1, 1, 0, NULL, NULL, NULL));
    IS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 65, 0, NULL, NULL, NULL));
    IS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 512, 4, 1, 0, NULL, NULL, NULL));
    IS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(g, 1, 1, 1, 128, 1, 1, 0, NULL, NULL, NULL)); /* beyond .maxntid */
    OK(cuLaunchKernel(g, 1, 1, 1, 64, 1, 1, 0, NULL, NULL, NULL));
    IS(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(h, 1, 1, 1, 32, 1, 1, 49152, NULL, NULL, NULL)); /* dynamic without opting in */
    OK(cuFuncSetAttribute(h, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100000));
    OK(cuLaunchKernel(h, 1, 1, 1, 32, 1, 1, 100000, NULL, NULL, NULL));
    IS(CUDA_ERROR_INVALID_VALUE, cuFuncSetAttribute(h, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 232448));
    IS(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    IS(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel((CUfunction)&v, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    IS(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize((CUstream)&v));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemFree(0x1234));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(0x1234, &v, 4));
    OK(cuMemAlloc(&p, 1024));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(log, p + 1000, 400));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemsetD32(p + 2, 0, 1));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemFree(p + 512));
    OK(cuMemFree(p));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemFree(p));

    /* PTX that is wrong: where, in the log */
    CUjit_option opts[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *vals[] = {log, (void *)(uintptr_t)sizeof log};
    IS(CUDA_ERROR_INVALID_PTX,
       cuModuleLoadDataEx(&m, ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n{\n  nonsense.u32 %r1;\n}\n", 2, opts, vals));
    TRUE(strstr(log, "line 6:") != NULL);
    IS(CUDA_ERROR_INVALID_IMAGE, cuModuleLoadData(&m, "this is no image"));
    IS(CUDA_ERROR_NO_BINARY_FOR_GPU, cuModuleLoadData(&m, "\177ELF\2\1\1"));
    IS(CUDA_ERROR_FILE_NOT_FOUND, cuModuleLoad(&m, "/nonexistent"));
    OK(cuCtxSynchronize());
}

int main(void)
{
    CUdeviceptr p;
    IS(CUDA_ERROR_NOT_INITIALIZED, cuMemAlloc(&p, 4));
    IS(CUDA_ERROR_INVALID_VALUE, cuInit(1));
    OK(cuInit(0));
    IS(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&p, 4));
    breaks(CUDA_ERROR_ILLEGAL_ADDRESS, "store", 0x1000, 1);
    breaks(CUDA_ERROR_ILLEGAL_ADDRESS, "store", 0, 1);
    breaks(CUDA_ERROR_MISALIGNED_ADDRESS, "store", 0x1002, 1);
    breaks(CUDA_ERROR_LAUNCH_FAILED, "trapped", 0, 0);
    breaks(CUDA_ERROR_LAUNCH_TIMEOUT, "forever", 0, 0);
    primary();
    arguments();
    return 0;
}
