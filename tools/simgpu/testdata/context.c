/* context.c: the stack of contexts, primary contexts, limits, threads. */
#include "check.h"
#include <pthread.h>

static void *elsewhere(void *arg)
{
    CUcontext c = (CUcontext)1;
    CUdevice d;
    OK(cuCtxGetCurrent(&c));
    TRUE(c == NULL);
    IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxGetDevice(&d));
    OK(cuCtxSetCurrent(arg));
    OK(cuCtxGetDevice(&d));
    TRUE(d == 0);
    return NULL;
}

int main(void)
{
    CUcontext a, b, c, p, p2;
    CUdevice d;
    CUdeviceptr m;
    unsigned flags, version;
    unsigned long long id1, id2;
    int active;
    size_t v, before, now, total;
    pthread_t t;
    OK(cuInit(0));
    IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxSynchronize());
    OK(cuCtxCreate(&a, NULL, CU_CTX_SCHED_BLOCKING_SYNC, 0));
    OK(cuCtxGetFlags(&flags));
    TRUE(flags & CU_CTX_SCHED_BLOCKING_SYNC);
    OK(cuCtxCreate(&b, NULL, 0, 1));
    OK(cuCtxGetCurrent(&c));
    TRUE(c == b);
    OK(cuCtxGetDevice(&d));
    TRUE(d == 1);
    OK(cuCtxPopCurrent(&c));
    TRUE(c == b);
    OK(cuCtxGetCurrent(&c));
    TRUE(c == a);
    OK(cuCtxPushCurrent(b));
    OK(cuCtxPushCurrent(a));
    OK(cuCtxPopCurrent(NULL));
    OK(cuCtxGetCurrent(&c));
    TRUE(c == b);
    OK(cuCtxSetCurrent(a)); /* replaces the top */
    OK(cuCtxGetId(a, &id1));
    OK(cuCtxGetId(b, &id2));
    TRUE(id1 != id2);
    OK(cuCtxGetApiVersion(a, &version));
    TRUE(pthread_create(&t, NULL, elsewhere, a) == 0);
    TRUE(pthread_join(t, NULL) == 0);
    OK(cuMemGetInfo(&before, &total));
    OK(cuMemAlloc(&m, 100 << 20));
    OK(cuCtxDestroy(a)); /* takes its memory along */
    IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy(a));
    IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxSetCurrent(a));
    OK(cuCtxDestroy(b));
    OK(cuCtxSetCurrent(NULL));

    OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    TRUE(!active);
    OK(cuDevicePrimaryCtxSetFlags(0, CU_CTX_SCHED_SPIN));
    OK(cuDevicePrimaryCtxRetain(&p, 0));
    OK(cuDevicePrimaryCtxRetain(&p2, 0));
    TRUE(p == p2);
    IS(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy(p));
    OK(cuCtxSetCurrent(p));
    OK(cuMemGetInfo(&now, &total));
    TRUE(now == before);
    OK(cuMemAlloc(&m, 100));
    OK(cuDevicePrimaryCtxRelease(0));
    OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    TRUE(active && flags == CU_CTX_SCHED_SPIN);
    OK(cuDevicePrimaryCtxReset(0));
    OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    TRUE(!active);
    IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuMemAlloc(&m, 100));
    IS(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease(0));
    OK(cuDevicePrimaryCtxRetain(&p, 0));
    OK(cuCtxSetCurrent(p));
    OK(cuMemAlloc(&m, 100));

    OK(cuCtxGetLimit(&v, CU_LIMIT_STACK_SIZE));
    TRUE(v == 1024);
    OK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 4096));
    OK(cuCtxGetLimit(&v, CU_LIMIT_STACK_SIZE));
    TRUE(v == 4096);
    OK(cuCtxSetLimit(CU_LIMIT_PRINTF_FIFO_SIZE, 2 << 20));
    IS(CUDA_ERROR_UNSUPPORTED_LIMIT, cuCtxSetLimit(CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH, 3));
    IS(CUDA_ERROR_INVALID_VALUE, cuCtxSetLimit((CUlimit)99, 3));
    OK(cuDevicePrimaryCtxRelease(0));
    return 0;
}
