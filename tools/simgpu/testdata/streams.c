/* streams.c: order within and between streams, the default streams' rules, events, host functions. */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static CUdeviceptr gate, data;
static volatile unsigned *word; /* host memory that blocks and releases streams */
static atomic_int calls;
static int seen[3];

static void CUDA_CB host_fn(void *arg)
{
    seen[*(int *)arg] = ++calls;
}

static void CUDA_CB callback(CUstream s, CUresult r, void *arg)
{
    (void)s;
    if (r == CUDA_SUCCESS)
        seen[*(int *)arg] = ++calls;
}

static unsigned read_back(CUstream s)
{
    unsigned v = 0;
    OK(cuMemcpyDtoHAsync(&v, data, 4, s));
    OK(cuStreamSynchronize(s));
    return v;
}

static void order_in_stream(void)
{
    CUstream s;
    CUevent first;
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&first, CU_EVENT_DISABLE_TIMING));
    *word = 0;
    OK(cuMemsetD32Async(data, 1, 1, s));
    OK(cuEventRecord(first, s));
    OK(cuStreamWaitValue32(s, gate, 1, CU_STREAM_WAIT_VALUE_GEQ));
    OK(cuMemsetD32Async(data, 2, 1, s));
    IS(CUDA_ERROR_NOT_READY, cuStreamQuery(s));
    CUstream other;
    OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    OK(cuStreamWaitEvent(other, first, 0));
    TRUE(read_back(other) == 1); /* the wait holds back the second fill */
    *word = 1;
    OK(cuStreamSynchronize(s));
    OK(cuStreamQuery(s));
    TRUE(read_back(other) == 2);
    OK(cuEventDestroy(first));
    OK(cuStreamDestroy(s));
    OK(cuStreamDestroy(other));
}

/* A blocking stream and the legacy default stream wait for each other; a non-blocking one does not. */
static void legacy_rules(void)
{
    CUstream blocking, free_stream;
    OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    OK(cuStreamCreate(&free_stream, CU_STREAM_NON_BLOCKING));
    *word = 0;
    OK(cuStreamWaitValue32(blocking, gate, 1, CU_STREAM_WAIT_VALUE_EQ));
    OK(cuMemsetD32Async(data, 10, 1, blocking));
    OK(cuMemsetD32Async(data, 11, 1, CU_STREAM_LEGACY)); /* must come after 10 */
    OK(cuMemsetD32Async(data + 4, 7, 1, free_stream));
    OK(cuStreamSynchronize(free_stream)); /* not held back */
    IS(CUDA_ERROR_NOT_READY, cuStreamQuery(NULL));
    *word = 1;
    OK(cuStreamSynchronize(NULL));
    OK(cuStreamQuery(blocking));
    TRUE(read_back(free_stream) == 11);

    *word = 0; /* now the other way round */
    OK(cuStreamWaitValue32(CU_STREAM_LEGACY, gate, 1, CU_STREAM_WAIT_VALUE_EQ));
    OK(cuMemsetD32Async(data, 20, 1, NULL));
    OK(cuMemsetD32Async(data, 21, 1, blocking));
    IS(CUDA_ERROR_NOT_READY, cuStreamQuery(blocking));
    *word = 1;
    OK(cuCtxSynchronize());
    TRUE(read_back(free_stream) == 21);
    OK(cuStreamDestroy(blocking));
    OK(cuStreamDestroy(free_stream));
}

static void events(void)
{
    CUstream a, b;
    CUevent e, start, end, plain;
    float ms = -1;
    OK(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    OK(cuEventQuery(e)); /* never recorded */
    *word = 0;
    OK(cuStreamWaitValue32(a, gate, 1, CU_STREAM_WAIT_VALUE_EQ));
    OK(cuMemsetD32Async(data, 30, 1, a));
    OK(cuEventRecord(e, a));
    OK(cuStreamWaitEvent(b, e, 0));
    OK(cuMemsetD32Async(data, 31, 1, b));
    IS(CUDA_ERROR_NOT_READY, cuEventQuery(e));
    IS(CUDA_ERROR_NOT_READY, cuStreamQuery(b));
    *word = 1;
    OK(cuEventSynchronize(e));
    OK(cuEventQuery(e));
    OK(cuStreamSynchronize(b));
    TRUE(read_back(a) == 31);

    OK(cuEventCreate(&start, CU_EVENT_DEFAULT));
    OK(cuEventCreate(&end, CU_EVENT_DEFAULT));
    OK(cuEventCreate(&plain, CU_EVENT_DISABLE_TIMING));
    OK(cuEventRecord(start, a));
    OK(cuMemsetD8Async(data, 1, 1 << 20, a));
    OK(cuEventRecord(end, a));
    OK(cuEventSynchronize(end));
    OK(cuEventElapsedTime(&ms, start, end));
    TRUE(ms > 0 && ms < 1); /* the model's time, not this machine's */
    IS(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, start, plain));
    IS(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, start, e));
    OK(cuEventDestroy(e));
    IS(CUDA_ERROR_INVALID_HANDLE, cuEventDestroy(e));
    OK(cuEventDestroy(start));
    OK(cuEventDestroy(end));
    OK(cuEventDestroy(plain));
    OK(cuStreamDestroy(a));
    OK(cuStreamDestroy(b));
    IS(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(a));
}

static void host_functions(void)
{
    CUstream s;
    int index[3] = {0, 1, 2};
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuLaunchHostFunc(s, host_fn, &index[0]));
    OK(cuMemsetD32Async(data, 40, 1, s));
    OK(cuStreamAddCallback(s, callback, &index[1], 0));
    OK(cuLaunchHostFunc(s, host_fn, &index[2]));
    OK(cuStreamSynchronize(s));
    TRUE(calls == 3 && seen[0] == 1 && seen[1] == 2 && seen[2] == 3);
    OK(cuStreamDestroy(s));
}

static void *own_stream(void *ctx)
{
    unsigned long long *id = malloc(sizeof *id);
    OK(cuCtxSetCurrent(ctx));
    OK(cuStreamGetId(CU_STREAM_PER_THREAD, id));
    OK(cuMemsetD32Async(data, 50, 1, CU_STREAM_PER_THREAD));
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    return id;
}

static void per_thread(CUcontext ctx)
{
    pthread_t t;
    unsigned long long mine, legacy;
    void *theirs;
    OK(cuStreamGetId(CU_STREAM_PER_THREAD, &mine));
    OK(cuStreamGetId(NULL, &legacy));
    TRUE(pthread_create(&t, NULL, own_stream, ctx) == 0);
    TRUE(pthread_join(t, &theirs) == 0);
    TRUE(mine != legacy && mine != *(unsigned long long *)theirs);
    free(theirs);
    TRUE(read_back(CU_STREAM_PER_THREAD) == 50);
}

static void properties(CUcontext ctx)
{
    CUstream s;
    CUcontext c;
    CUdevice d;
    int low, high, prio;
    unsigned flags;
    OK(cuCtxGetStreamPriorityRange(&low, &high));
    TRUE(low == 0 && high < 0);
    OK(cuStreamCreateWithPriority(&s, CU_STREAM_NON_BLOCKING, -100));
    OK(cuStreamGetPriority(s, &prio));
    TRUE(prio == high);
    OK(cuStreamGetFlags(s, &flags));
    TRUE(flags == CU_STREAM_NON_BLOCKING);
    OK(cuStreamGetCtx(s, &c));
    TRUE(c == ctx);
    OK(cuStreamGetDevice(s, &d));
    TRUE(d == 0);
    IS(CUDA_ERROR_INVALID_VALUE, cuStreamCreate(&s, 99));
    OK(cuStreamDestroy(s));
}

int main(void)
{
    CUcontext ctx = primary();
    void *page;
    OK(cuMemHostAlloc(&page, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
    word = page;
    OK(cuMemHostGetDevicePointer(&gate, page, 0));
    OK(cuMemAlloc(&data, 1 << 20));
    properties(ctx);
    order_in_stream();
    legacy_rules();
    events();
    host_functions();
    per_thread(ctx);
    OK(cuMemFree(data));
    OK(cuMemFreeHost(page));
    return 0;
}
