/* modules.c: what programs ask of modules, libraries, kernels and functions; globals; the linker; printf. */
#include "check.h"

static const char ptx[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    ".visible .global .align 8 .b8 table[64];\n.visible .global .align 4 .u32 counter = 41;\n.visible .const .align 4 .u32 three = 3;\n"
    ".visible .entry first(.param .u8 a, .param .u64 b, .param .align 16 .b8 c[32], .param .u16 d)\n.maxntid 256, 1, 1\n{\n  ret;\n}\n"
    ".visible .entry count(.param .u64 out)\n{\n  .reg .b32 %r<4>;\n  .reg .b64 %rd;\n  ld.global.u32 %r1, [counter];\n  ld.const.u32 %r2, [three];\n"
    "  add.u32 %r3, %r1, %r2;\n  st.global.u32 [counter], %r3;\n  ld.param.u64 %rd, [out];\n  st.global.u32 [%rd], %r3;\n  ret;\n}\n";

static unsigned run_count(CUfunction f)
{
    CUdeviceptr p;
    unsigned v;
    OK(cuMemAlloc(&p, 4));
    void *params[] = {&p};
    OK(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    OK(cuMemcpyDtoH(&v, p, 4));
    OK(cuMemFree(p));
    return v;
}

static void modules(void)
{
    CUmodule m, back;
    CUfunction f, g, all[2];
    CUdeviceptr p;
    size_t size, off;
    unsigned n, v;
    int value;
    const char *name;
    OK(cuModuleLoadData(&m, ptx));
    OK(cuModuleGetFunction(&f, m, "first"));
    OK(cuModuleGetFunction(&g, m, "first"));
    TRUE(f == g);
    OK(cuFuncGetModule(&back, f));
    TRUE(back == m);
    OK(cuFuncGetName(&name, f));
    TRUE(strcmp(name, "first") == 0);
    OK(cuModuleGetFunctionCount(&n, m));
    TRUE(n == 2);
    OK(cuModuleEnumerateFunctions(all, 2, m));
    TRUE(all[0] == f || all[1] == f);
    static const size_t want[][2] = {{0, 1}, {8, 8}, {16, 32}, {48, 2}};
    for (unsigned i = 0; i < 4; i++) {
        OK(cuFuncGetParamInfo(f, i, &off, &size));
        TRUE(off == want[i][0] && size == want[i][1]);
    }
    IS(CUDA_ERROR_INVALID_VALUE, cuFuncGetParamInfo(f, 4, &off, &size));
    OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, f));
    TRUE(value == 256);
    OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_BINARY_VERSION, f));
    TRUE(value == 90);
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&value, f, 256, 0));
    TRUE(value == 8);
    int grid, block;
    OK(cuOccupancyMaxPotentialBlockSize(&grid, &block, f, NULL, 0, 0));
    TRUE(block > 0 && block <= 256 && grid >= 132);

    OK(cuModuleGetGlobal(&p, &size, m, "counter"));
    TRUE(size == 4);
    OK(cuMemcpyDtoH(&v, p, 4));
    TRUE(v == 41);
    OK(cuModuleGetGlobal(NULL, &size, m, "table"));
    TRUE(size == 64);
    IS(CUDA_ERROR_NOT_FOUND, cuModuleGetGlobal(&p, &size, m, "nothing"));
    OK(cuModuleGetFunction(&g, m, "count"));
    TRUE(run_count(g) == 44);
    v = 10;
    OK(cuMemcpyHtoD(p, &v, 4));
    TRUE(run_count(g) == 13);
    CUmodule other; /* has globals of its own */
    OK(cuModuleLoadData(&other, ptx));
    OK(cuModuleGetFunction(&g, other, "count"));
    TRUE(run_count(g) == 44);
    OK(cuModuleUnload(other));
    OK(cuModuleUnload(m));
    IS(CUDA_ERROR_INVALID_HANDLE, cuModuleUnload(m));
    IS(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
}

static void libraries(CUcontext first)
{
    CUlibrary lib, back;
    CUkernel k, list[2];
    CUfunction f;
    CUmodule m, m2;
    CUcontext second;
    CUdeviceptr p;
    size_t size, off;
    unsigned n;
    int value;
    const char *name;
    OK(cuLibraryLoadData(&lib, ptx, NULL, NULL, 0, NULL, NULL, 0));
    OK(cuLibraryGetKernel(&k, lib, "count"));
    OK(cuKernelGetName(&name, k));
    TRUE(strcmp(name, "count") == 0);
    OK(cuKernelGetLibrary(&back, k));
    TRUE(back == lib);
    OK(cuLibraryGetKernelCount(&n, lib));
    TRUE(n == 2);
    OK(cuLibraryEnumerateKernels(list, 2, lib));
    TRUE(list[0] == k || list[1] == k);
    OK(cuKernelGetParamInfo(k, 0, &off, &size));
    TRUE(off == 0 && size == 8);
    IS(CUDA_ERROR_INVALID_VALUE, cuKernelGetParamInfo(k, 1, &off, &size));
    OK(cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536, k, 0));
    OK(cuKernelGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, k, 0));
    TRUE(value == 65536);
    OK(cuKernelGetFunction(&f, k));
    OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, f));
    TRUE(value == 65536);
    TRUE(run_count((CUfunction)k) == 44); /* a kernel launches as it is */
    TRUE(run_count(f) == 47);             /* and is the same code and data */
    OK(cuLibraryGetModule(&m, lib));
    OK(cuCtxCreate(&second, NULL, 0, 0));
    OK(cuLibraryGetModule(&m2, lib));
    TRUE(m != m2);
    TRUE(run_count((CUfunction)k) == 44); /* another context, other globals */
    IS(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, NULL, (void *[]){&p}, NULL));
    OK(cuLibraryGetGlobal(&p, &size, lib, "counter"));
    OK(cuMemcpyDtoH(&n, p, 4));
    TRUE(n == 44);
    OK(cuCtxDestroy(second));
    OK(cuCtxSetCurrent(first));
    OK(cuLibraryUnload(lib));
    IS(CUDA_ERROR_INVALID_HANDLE, cuLibraryUnload(lib));
}

static void linker(void)
{
    CUlinkState link;
    CUmodule m;
    CUfunction f;
    void *cubin;
    size_t size;
    OK(cuLinkCreate(0, NULL, NULL, &link));
    OK(cuLinkAddData(link, CU_JIT_INPUT_PTX, (void *)(uintptr_t)ptx, sizeof ptx, "a", 0, NULL, NULL));
    OK(cuLinkComplete(link, &cubin, &size));
    OK(cuModuleLoadData(&m, cubin));
    OK(cuLinkDestroy(link));
    OK(cuModuleGetFunction(&f, m, "count"));
    TRUE(run_count(f) == 44);
    OK(cuModuleUnload(m));
}

/* Device printf comes out of this process when it synchronises. */
static void prints(void)
{
    static const char code[] =
        ".version 8.0\n.target sm_90\n.address_size 64\n.extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);\n"
        ".global .align 1 .b8 fmt[12] = {104, 101, 108, 108, 111, 32, 37, 100, 10, 0, 0, 0};\n"
        ".visible .entry say()\n{\n  .local .align 8 .b8 buf[8];\n  .reg .b64 %rd<5>;\n  .reg .b32 %r<3>;\n"
        "  mov.u64 %rd1, buf;\n  cvta.local.u64 %rd2, %rd1;\n  mov.u32 %r1, 42;\n  st.local.u32 [%rd1], %r1;\n"
        "  mov.u64 %rd3, fmt;\n  cvta.global.u64 %rd4, %rd3;\n"
        "  {\n  .param .b64 p0;\n  .param .b64 p1;\n  .param .b32 r0;\n  st.param.b64 [p0], %rd4;\n  st.param.b64 [p1], %rd2;\n"
        "  call.uni (r0), vprintf, (p0, p1);\n  ld.param.b32 %r2, [r0];\n  }\n  ret;\n}\n";
    CUmodule m;
    CUfunction f;
    OK(cuModuleLoadData(&m, code));
    OK(cuModuleGetFunction(&f, m, "say"));
    OK(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    OK(cuCtxSynchronize());
    OK(cuModuleUnload(m));
}

int main(void)
{
    CUcontext ctx = primary();
    modules();
    libraries(ctx);
    linker();
    prints();
    return 0;
}
