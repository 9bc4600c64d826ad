/* green.c: green contexts: where blocks run, what is refused, what a partition costs. */
#include "check.h"

static const char ptx[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    ".visible .entry where(.param .u64 seen)\n{\n  .reg .b32 %r<5>;\n  .reg .b64 %rd<4>;\n  ld.param.u64 %rd1, [seen];\n"
    "  mov.u32 %r1, %smid;\n  mov.u32 %r2, %nsmid;\n  mul.wide.u32 %rd2, %r1, 4;\n  add.s64 %rd3, %rd1, %rd2;\n"
    "  red.global.add.u32 [%rd3], 1;\n  st.global.u32 [%rd1+528], %r2;\n  ret;\n}\n"
    ".visible .entry work(.param .u32 n)\n{\n  .reg .pred %p;\n  .reg .b32 %r<3>;\n  ld.param.u32 %r1, [n];\nL:\n  sub.u32 %r1, %r1, 1;\n"
    "  setp.ne.u32 %p, %r1, 0;\n  @%p bra L;\n  ret;\n}\n";

static CUdeviceptr seen;
static CUfunction where, work;

/* On how many SMs from which one on blocks ran; count says how many blocks there were. */
static unsigned ran(unsigned *first, unsigned *count)
{
    unsigned w[133], n = 0;
    *count = 0;
    OK(cuMemcpyDtoH(w, seen, sizeof w));
    TRUE(w[132] == 132); /* %nsmid is the chip's */
    OK(cuMemsetD32(seen, 0, 133));
    for (unsigned i = 132; i-- > 0;)
        if (w[i]) {
            *first = i;
            *count += w[i];
            n++;
        }
    return n;
}

static void launch(CUstream s)
{
    void *a[] = {&seen};
    OK(cuLaunchKernel(where, 500, 1, 1, 32, 1, 1, 0, s, a, NULL));
    OK(cuStreamSynchronize(s));
}

static CUresult cluster(CUstream s, unsigned n)
{
    void *a[] = {&seen};
    CUlaunchAttribute at = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, .value.clusterDim = {n, 1, 1}};
    CUlaunchConfig c = {.gridDimX = 32, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 32, .blockDimY = 1, .blockDimZ = 1, .hStream = s,
                        .attrs = &at, .numAttrs = 1};
    int clusters;
    OK(cuOccupancyMaxActiveClusters(&clusters, where, &c));
    CUresult r = cuLaunchKernelEx(&c, where, a, NULL);
    TRUE((r == CUDA_SUCCESS) == (clusters > 0));
    OK(cuStreamSynchronize(s));
    return r;
}

static float measure(CUstream s)
{
    CUevent a, b;
    float ms;
    unsigned n = 1000; /* blocks that have an SM to themselves by their shared memory */
    void *params[] = {&n};
    OK(cuEventCreate(&a, 0));
    OK(cuEventCreate(&b, 0));
    OK(cuEventRecord(a, s));
    OK(cuLaunchKernel(work, 132, 1, 1, 32, 1, 1, 200 << 10, s, params, NULL));
    OK(cuEventRecord(b, s));
    OK(cuEventSynchronize(b));
    OK(cuEventElapsedTime(&ms, a, b));
    return ms;
}

int main(void)
{
    CUmodule m;
    CUdevResource all, g[2], rest;
    CUdevResourceDesc desc;
    CUgreenCtx green, same;
    CUcontext ctx;
    CUstream s, plain;
    unsigned n = 2, first, count;
    int priority;
    primary();
    OK(cuModuleLoadData(&m, ptx));
    OK(cuModuleGetFunction(&where, m, "where"));
    OK(cuModuleGetFunction(&work, m, "work"));
    OK(cuFuncSetAttribute(work, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 200 << 10));
    OK(cuMemAlloc(&seen, 133 * 4));
    OK(cuMemsetD32(seen, 0, 133));
    OK(cuDeviceGetDevResource(0, &all, CU_DEV_RESOURCE_TYPE_SM));
    TRUE(all.sm.smCount == 132 && all.sm.smCoscheduledAlignment == 8);
    OK(cuDevSmResourceSplitByCount(g, &n, &all, &rest, 0, 33));
    TRUE(n == 2 && g[0].sm.smCount == 40 && g[1].sm.smCount == 40 && rest.sm.smCount == 52);
    n = 1;
    OK(cuDevSmResourceSplitByCount(g + 1, &n, &all, NULL, 0, 131));
    TRUE(n == 1 && g[1].sm.smCount == 132);
    n = 2;
    OK(cuDevSmResourceSplitByCount(g, &n, &all, &rest, 0, 33));
    IS(CUDA_ERROR_INVALID_RESOURCE_TYPE, cuDevSmResourceSplitByCount(&rest, &n, g, NULL, 0, 8));
    IS(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION, cuDevSmResourceSplitByCount(&rest, &n, &all, NULL, 0, 133));
    IS(CUDA_ERROR_INVALID_VALUE, cuDevResourceGenerateDesc(&desc, g, 0));
    OK(cuDevResourceGenerateDesc(&desc, g + 1, 1));
    IS(CUDA_ERROR_INVALID_VALUE, cuGreenCtxCreate(&green, desc, 0, 0));
    IS(CUDA_ERROR_INVALID_DEVICE, cuGreenCtxCreate(&green, desc, 99, CU_GREEN_CTX_DEFAULT_STREAM));
    OK(cuGreenCtxCreate(&green, desc, 0, CU_GREEN_CTX_DEFAULT_STREAM));
    IS(CUDA_ERROR_INVALID_VALUE, cuGreenCtxStreamCreate(&s, green, CU_STREAM_DEFAULT, 0));
    OK(cuGreenCtxStreamCreate(&s, green, CU_STREAM_NON_BLOCKING, -2));
    OK(cuStreamGetGreenCtx(s, &same));
    OK(cuStreamGetPriority(s, &priority));
    OK(cuCtxFromGreenCtx(&ctx, green));
    TRUE(same == green && priority == -2 && ctx);
    OK(cuStreamCreate(&plain, CU_STREAM_NON_BLOCKING));

    launch(plain);
    TRUE(ran(&first, &count) == 132 && first == 0 && count == 500 * 32);
    launch(s);
    TRUE(ran(&first, &count) == 40 && first == 40 && count == 500 * 32);

    /* a graph of a function runs on all SMs, whichever stream it is launched on */
    CUgraph graph;
    CUgraphExec exec;
    void *a[] = {&seen};
    CUDA_KERNEL_NODE_PARAMS node = {.func = where, .gridDimX = 500, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 32, .blockDimY = 1,
                                    .blockDimZ = 1, .kernelParams = a};
    CUgraphNode at;
    OK(cuGraphCreate(&graph, 0));
    OK(cuGraphAddKernelNode(&at, graph, NULL, 0, &node));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphLaunch(exec, s));
    OK(cuStreamSynchronize(s));
    TRUE(ran(&first, &count) == 132);

    OK(cuFuncSetAttribute(where, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1));
    TRUE(cluster(s, 8) == CUDA_SUCCESS && ran(&first, &count) > 0);
    TRUE(cluster(s, 16) == CUDA_ERROR_INVALID_CLUSTER_SIZE);
    TRUE(cluster(plain, 16) == CUDA_SUCCESS && ran(&first, &count) > 0);
    /* a grid that must be on the chip at once, and is too large for the partition */
    IS(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, cuLaunchCooperativeKernel(where, 41 * 32, 1, 1, 64, 1, 1, 0, s, a));
    OK(cuLaunchCooperativeKernel(where, 41 * 32, 1, 1, 64, 1, 1, 0, plain, a));
    OK(cuStreamSynchronize(plain));

    float whole = measure(plain), part = measure(s);
    printf("%.3f %.3f ms\n", whole, part);
    TRUE(part > 2 * whole && part < 5 * whole); /* four rounds of blocks instead of one */

    OK(cuGreenCtxDestroy(green));
    IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuLaunchKernel(where, 1, 1, 1, 32, 1, 1, 0, s, a, NULL));
    IS(CUDA_ERROR_INVALID_CONTEXT, cuGreenCtxDestroy(green));
    return 0;
}
