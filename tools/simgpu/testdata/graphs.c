/* graphs.c: capture, graphs made by hand, lanes that run side by side, and changes to executable graphs. */
#include "check.h"

#define N 1000

static CUfunction f;
static CUdeviceptr a, b, c, d;
static float host[N];

static void expect(CUdeviceptr p, float first, float step)
{
    OK(cuMemcpyDtoH(host, p, sizeof host));
    for (int i = 0; i < N; i++)
        TRUE(host[i] == first + step * (float)i);
}

static void add(CUdeviceptr x, CUdeviceptr y, CUdeviceptr z, CUstream s)
{
    unsigned n = N;
    void *params[] = {&x, &y, &z, &n};
    OK(cuLaunchKernel(f, 4, 1, 1, 256, 1, 1, 0, s, params, NULL));
}

/* c = a + a and d = a + a side by side, then b = c + d. */
static void captured(void)
{
    CUstream s, t;
    CUevent fork, join;
    CUgraph g;
    CUgraphExec x;
    CUstreamCaptureStatus st;
    CUgraphNode nodes[10];
    size_t n = 10;
    CUgraphNodeType type;
    cuuint64_t id;
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&t, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
    OK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
    OK(cuMemsetD32Async(b, 0, N, s));
    OK(cuStreamSynchronize(s)); /* expect reads on the null stream, which does not wait for s */
    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuEventRecord(fork, s));
    OK(cuStreamWaitEvent(t, fork, 0));
    add(a, a, c, s);
    add(a, a, d, t);
    OK(cuEventRecord(join, t));
    OK(cuStreamIsCapturing(t, &st));
    TRUE(st == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    OK(cuStreamWaitEvent(s, join, 0));
    add(c, d, b, s);
    OK(cuStreamGetCaptureInfo(s, &st, &id, NULL, NULL, NULL, NULL));
    TRUE(st == CU_STREAM_CAPTURE_STATUS_ACTIVE && id != 0);
    IS(CUDA_ERROR_CAPTURED_EVENT, cuEventQuery(join));
    OK(cuStreamEndCapture(s, &g));
    OK(cuStreamIsCapturing(t, &st));
    TRUE(st == CU_STREAM_CAPTURE_STATUS_NONE);
    expect(b, 0, 0); /* nothing ran yet */
    OK(cuGraphGetNodes(g, nodes, &n));
    TRUE(n == 3);
    OK(cuGraphNodeGetType(nodes[0], &type));
    TRUE(type == CU_GRAPH_NODE_TYPE_KERNEL);
    OK(cuGraphGetEdges(g, NULL, NULL, NULL, &n));
    TRUE(n == 2);
    OK(cuGraphGetRootNodes(g, NULL, &n));
    TRUE(n == 2);
    OK(cuGraphInstantiate(&x, g, 0));
    OK(cuGraphDestroy(g)); /* the executable graph stands alone */
    for (int i = 0; i < 5; i++)
        OK(cuGraphLaunch(x, s));
    OK(cuStreamSynchronize(s));
    expect(b, 0, 4);
    OK(cuGraphExecDestroy(x));
    IS(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch(x, s));
    OK(cuEventDestroy(fork));
    OK(cuEventDestroy(join));
    OK(cuStreamDestroy(s));
    OK(cuStreamDestroy(t));
}

static void forbidden(void)
{
    CUstream s, t, legacy_partner;
    CUgraph g;
    CUdeviceptr p;
    CUevent e;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&t, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&legacy_partner, CU_STREAM_DEFAULT));
    OK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    IS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamBeginCapture(NULL, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    IS(CUDA_ERROR_ILLEGAL_STATE, cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuThreadExchangeStreamCaptureMode(&mode));
    OK(cuMemAlloc(&p, 4)); /* relaxed: allowed */
    OK(cuThreadExchangeStreamCaptureMode(&mode));
    OK(cuMemsetD32Async(p, 1, 1, s));
    IS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(s)); /* invalidates */
    IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuMemsetD32Async(p, 1, 1, s));
    IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &g));
    TRUE(g == NULL);

    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    IS(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemFree(p));
    IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &g));

    OK(cuStreamBeginCapture(legacy_partner, CU_STREAM_CAPTURE_MODE_RELAXED));
    IS(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuMemsetD32Async(p, 1, 1, NULL));
    IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(legacy_partner, &g));

    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuEventRecord(e, s));
    OK(cuStreamWaitEvent(t, e, 0));
    OK(cuMemsetD32Async(p, 2, 1, t)); /* never joined */
    IS(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, cuStreamEndCapture(t, &g));
    IS(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(s, &g));
    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(cuEventRecord(e, s));
    OK(cuStreamWaitEvent(t, e, 0));
    OK(cuMemsetD32Async(p, 2, 1, t));
    IS(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, cuStreamEndCapture(s, &g));
    OK(cuMemsetD32Async(p, 3, 1, t)); /* out of the capture again */
    OK(cuStreamSynchronize(t));
    IS(CUDA_ERROR_ILLEGAL_STATE, cuStreamEndCapture(s, &g));
    OK(cuMemFree(p));
    OK(cuStreamDestroy(s));
    OK(cuStreamDestroy(t));
    OK(cuStreamDestroy(legacy_partner));
    OK(cuEventDestroy(e));
}

static int host_calls;

static void CUDA_CB count(void *arg)
{
    host_calls += *(int *)arg;
}

static void by_hand(CUcontext ctx)
{
    CUgraph g;
    CUgraphExec x;
    CUgraphNode set, k1, k2, fn, empty, cpy;
    CUstream s;
    unsigned n = N, on;
    int two = 2;
    static float out[N];
    void *p1[] = {&a, &c, &c, &n}, *p2[] = {&c, &c, &d, &n};
    CUDA_MEMSET_NODE_PARAMS ms = {.dst = c, .value = 0, .elementSize = 4, .width = N, .height = 1};
    CUDA_KERNEL_NODE_PARAMS kp = {.func = f, .gridDimX = 4, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 256, .blockDimY = 1, .blockDimZ = 1, .kernelParams = p1};
    CUDA_HOST_NODE_PARAMS hp = {count, &two};
    CUDA_MEMCPY3D mc = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = d, .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = out,
                        .WidthInBytes = sizeof out, .Height = 1, .Depth = 1};
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuGraphCreate(&g, 0));
    OK(cuGraphAddMemsetNode(&set, g, NULL, 0, &ms, ctx));
    OK(cuGraphAddKernelNode(&k1, g, &set, 1, &kp));
    kp.kernelParams = p2;
    OK(cuGraphAddKernelNode(&k2, g, &k1, 1, &kp));
    OK(cuGraphAddHostNode(&fn, g, &k1, 1, &hp));
    OK(cuGraphAddEmptyNode(&empty, g, (CUgraphNode[]){k2, fn}, 2));
    OK(cuGraphAddMemcpyNode(&cpy, g, &empty, 1, &mc, ctx));
    IS(CUDA_ERROR_INVALID_VALUE, cuGraphAddDependencies(g, &set, &k1, NULL, 1)); /* is there already */
    kp.blockDimX = 5000;
    CUgraphNode bad;
    IS(CUDA_ERROR_INVALID_VALUE, cuGraphAddKernelNode(&bad, g, &k1, 1, &kp));
    kp.blockDimX = 256;
    OK(cuGraphInstantiate(&x, g, 0));
    OK(cuGraphLaunch(x, s));
    OK(cuStreamSynchronize(s));
    for (int i = 0; i < N; i++)
        TRUE(out[i] == 2 * (float)i);
    TRUE(host_calls == 2);

    void *p3[] = {&c, &a, &d, &n}; /* d = c + a: 2a again, by another way */
    kp.kernelParams = p3;
    OK(cuGraphExecKernelNodeSetParams(x, k2, &kp));
    OK(cuGraphNodeSetEnabled(x, set, 0)); /* c is not cleared: c = a + a */
    OK(cuGraphNodeGetEnabled(x, set, &on));
    TRUE(!on);
    OK(cuGraphLaunch(x, s));
    OK(cuStreamSynchronize(s));
    for (int i = 0; i < N; i++)
        TRUE(out[i] == 3 * (float)i);
    CUDA_KERNEL_NODE_PARAMS back;
    OK(cuGraphKernelNodeGetParams(k1, &back));
    TRUE(back.gridDimX == 4 && *(CUdeviceptr *)back.kernelParams[0] == a && *(unsigned *)back.kernelParams[3] == N);
    CUgraphExecUpdateResultInfo info;
    OK(cuGraphExecUpdate(x, g, &info)); /* as it was */
    OK(cuGraphLaunch(x, s));
    OK(cuStreamSynchronize(s));
    OK(cuGraphAddDependencies(g, &k2, &fn, NULL, 1));
    IS(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate(x, g, &info));
    OK(cuGraphAddDependencies(g, &cpy, &set, NULL, 1)); /* a cycle */
    CUgraphExec y;
    IS(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiate(&y, g, 0));
    OK(cuGraphDestroyNode(cpy));
    OK(cuGraphDestroy(g));
    OK(cuGraphExecDestroy(x));
    OK(cuStreamDestroy(s));
}

/* d = 2a in a graph within a graph, twice: b = 2a + 2a; then a clone of all of it. */
static void nested(CUcontext ctx)
{
    CUgraph inner, outer, copy;
    CUgraphExec x;
    CUgraphNode first, child1, child2, sum, found;
    CUstream s;
    unsigned n = N;
    void *pc[] = {&a, &a, &c, &n}, *pd[] = {&a, &a, &d, &n}, *pb[] = {&c, &d, &b, &n};
    CUgraphNodeParams p = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    (void)ctx;
    p.kernel = (CUDA_KERNEL_NODE_PARAMS_v3){.func = f, .gridDimX = 4, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 256, .blockDimY = 1, .blockDimZ = 1};
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuGraphCreate(&inner, 0));
    OK(cuGraphCreate(&outer, 0));
    p.kernel.kernelParams = pc;
    OK(cuGraphAddNode(&first, inner, NULL, NULL, 0, &p));
    OK(cuGraphAddChildGraphNode(&child1, outer, NULL, 0, inner));
    p.kernel.kernelParams = pd;
    OK(cuGraphNodeSetParams(first, &p)); /* the child already has its own copy */
    OK(cuGraphAddChildGraphNode(&child2, outer, NULL, 0, inner));
    p.kernel.kernelParams = pb;
    OK(cuGraphAddNode(&sum, outer, (CUgraphNode[]){child1, child2}, NULL, 2, &p));
    OK(cuGraphDestroy(inner));
    OK(cuGraphClone(&copy, outer));
    OK(cuGraphNodeFindInClone(&found, sum, copy));
    TRUE(found != sum);
    CUgraph graphs[] = {outer, copy};
    for (int i = 0; i < 2; i++) {
        OK(cuMemsetD32(b, 0, N));
        OK(cuMemsetD32(c, 0, N));
        OK(cuMemsetD32(d, 0, N));
        OK(cuCtxSynchronize());
        OK(cuGraphInstantiate(&x, graphs[i], 0));
        OK(cuGraphDestroy(graphs[i]));
        OK(cuGraphLaunch(x, s));
        OK(cuStreamSynchronize(s));
        expect(b, 0, 4);
        OK(cuGraphExecDestroy(x));
    }
    OK(cuStreamDestroy(s));
}

int main(void)
{
    CUmodule m;
    CUcontext ctx = primary();
    OK(cuModuleLoadData(&m, ptx_vecadd));
    OK(cuModuleGetFunction(&f, m, "vecadd"));
    OK(cuMemAlloc(&a, sizeof host));
    OK(cuMemAlloc(&b, sizeof host));
    OK(cuMemAlloc(&c, sizeof host));
    OK(cuMemAlloc(&d, sizeof host));
    for (int i = 0; i < N; i++)
        host[i] = (float)i;
    OK(cuMemcpyHtoD(a, host, sizeof host));
    OK(cuCtxSynchronize()); /* the copy may return before the device has the bytes */
    captured();
    forbidden();
    by_hand(ctx);
    nested(ctx);
    return 0;
}
