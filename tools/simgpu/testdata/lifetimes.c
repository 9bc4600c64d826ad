/* lifetimes.c: things that end while work is under way: streams, events, modules, memory, contexts. */
#include "check.h"
#include <time.h>
#include <unistd.h>

static const char ptx[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    ".visible .entry slow(.param .u64 p, .param .u32 n)\n{\n  .reg .pred %p;\n  .reg .b32 %r<3>;\n  .reg .b64 %rd;\n  ld.param.u32 %r1, [n];\n"
    "  ld.param.u64 %rd, [p];\nL:\n  sub.u32 %r1, %r1, 1;\n  setp.ne.u32 %p, %r1, 0;\n  @%p bra L;\n  mov.u32 %r2, 77;\n  st.global.u32 [%rd], %r2;\n  ret;\n}\n";

static CUmodule mod;
static CUfunction slow;

static void launch(CUdeviceptr p, CUstream s)
{
    unsigned n = 400000;
    void *params[] = {&p, &n};
    OK(cuLaunchKernel(slow, 1, 1, 1, 1, 1, 1, 0, s, params, NULL));
}

static void load(void)
{
    OK(cuModuleLoadData(&mod, ptx));
    OK(cuModuleGetFunction(&slow, mod, "slow"));
}

static void streams_and_events(void)
{
    CUdeviceptr p;
    CUstream s;
    CUevent e;
    unsigned v = 0;
    OK(cuMemAlloc(&p, 4));
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuMemsetD32Async(p, 0, 1, s)); /* not cuMemsetD32: s would not wait for it */
    OK(cuEventCreate(&e, 0));
    launch(p, s);
    OK(cuEventRecord(e, s));
    OK(cuStreamDestroy(s)); /* its work goes on */
    IS(CUDA_ERROR_INVALID_HANDLE, cuStreamQuery(s));
    OK(cuEventSynchronize(e));
    OK(cuMemcpyDtoH(&v, p, 4));
    TRUE(v == 77);

    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuMemsetD32Async(p, 0, 1, s));
    launch(p, s);
    OK(cuStreamDestroy(s));
    OK(cuCtxSynchronize()); /* also waits for streams that are gone */
    OK(cuMemcpyDtoH(&v, p, 4));
    TRUE(v == 77);

    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    launch(p, s);
    OK(cuEventRecord(e, s));
    OK(cuEventDestroy(e));
    OK(cuStreamSynchronize(s));
    OK(cuStreamDestroy(s));

    for (int i = 0; i < 3000; i++) { /* handles are reused, and old ones noticed */
        OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
        OK(cuMemsetD32Async(p, (unsigned)i, 1, s));
        OK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
        OK(cuEventRecord(e, s));
        OK(cuStreamDestroy(s));
        if (i % 100 == 0) {
            OK(cuEventSynchronize(e));
            OK(cuEventQuery(e));
        }
        OK(cuEventDestroy(e));
    }
    OK(cuCtxSynchronize());
    OK(cuMemFree(p));
}

static void memory_and_modules(void)
{
    CUdeviceptr p, q;
    CUstream s;
    unsigned v;
    void *host;
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuMemAlloc(&p, 4));
    OK(cuMemAlloc(&q, 4));
    launch(p, s);
    OK(cuMemFree(q)); /* waits */
    OK(cuStreamQuery(s));
    launch(p, s);
    OK(cuModuleUnload(mod)); /* waits too */
    OK(cuStreamQuery(s));
    OK(cuMemcpyDtoH(&v, p, 4));
    TRUE(v == 77);
    load();
    OK(cuMemHostAlloc(&host, 4, 0));
    *(unsigned *)host = 1;
    launch((CUdeviceptr)(uintptr_t)host, s);
    OK(cuMemFreeHost(host)); /* waits */
    OK(cuStreamQuery(s));
    launch(p, s);
    OK(cuMemFree(p)); /* what the kernel still writes to */
    OK(cuStreamSynchronize(s));
    OK(cuStreamDestroy(s));
}

/* Many streams, all blocked, none in another's way. */
static void crowd(void)
{
    enum { N = 300 };
    static CUstream s[N];
    CUdeviceptr p, gate;
    void *page;
    unsigned v[N];
    OK(cuMemHostAlloc(&page, 4096, 0));
    OK(cuMemHostGetDevicePointer(&gate, page, 0));
    *(volatile unsigned *)page = 0;
    OK(cuMemAlloc(&p, sizeof v));
    OK(cuMemsetD8(p, 0, sizeof v));
    OK(cuCtxSynchronize()); /* the streams below do not wait for it */
    for (unsigned i = 0; i < N; i++) {
        OK(cuStreamCreate(&s[i], CU_STREAM_NON_BLOCKING));
        OK(cuStreamWaitValue32(s[i], gate, i + 1, CU_STREAM_WAIT_VALUE_GEQ));
        OK(cuMemsetD32Async(p + 4 * i, i, 1, s[i]));
    }
    CUstream free_stream;
    OK(cuStreamCreate(&free_stream, CU_STREAM_NON_BLOCKING));
    OK(cuMemcpyDtoHAsync(v, p, sizeof v, free_stream));
    OK(cuStreamSynchronize(free_stream));
    for (unsigned i = 0; i < N; i++)
        TRUE(v[i] == 0);
    *(volatile unsigned *)page = N / 2;
    for (unsigned i = 0; i < N / 2; i++)
        OK(cuStreamSynchronize(s[i]));
    IS(CUDA_ERROR_NOT_READY, cuStreamQuery(s[N / 2]));
    OK(cuStreamWriteValue32(free_stream, gate, N, 0)); /* the device lets the others go */
    OK(cuCtxSynchronize());
    OK(cuMemcpyDtoH(v, p, sizeof v));
    for (unsigned i = 0; i < N; i++) {
        TRUE(v[i] == i);
        OK(cuStreamDestroy(s[i]));
    }
    OK(cuStreamDestroy(free_stream));
    OK(cuMemFree(p));
    OK(cuMemFreeHost(page));
}

/* A context ends although a stream of it waits for what never comes. */
static void contexts(void)
{
    CUcontext ctx, old;
    CUdeviceptr p;
    CUstream s;
    OK(cuCtxGetCurrent(&old));
    for (int i = 0; i < 20; i++) {
        OK(cuCtxCreate(&ctx, NULL, 0, 0));
        OK(cuMemAlloc(&p, 1 << 20));
        OK(cuMemsetD32(p, 0, 16));
        OK(cuStreamCreate(&s, 0));
        OK(cuStreamWaitValue32(s, p, 1, CU_STREAM_WAIT_VALUE_EQ));
        OK(cuMemsetD32Async(p, 2, 1, s));
        OK(cuMemsetD32Async(p, 2, 1, NULL));
        IS(CUDA_ERROR_NOT_READY, cuStreamQuery(s));
        OK(cuCtxDestroy(ctx));
        IS(CUDA_ERROR_INVALID_HANDLE, cuStreamQuery(s));
    }
    OK(cuCtxSetCurrent(old));
}

int main(void)
{
    primary();
    load();
    streams_and_events();
    memory_and_modules();
    crowd();
    contexts();
    load();
    OK(cuCtxSynchronize());
    return 0;
}
