/* threads.c: many threads, each with its own stream and memory, and all with one. */
#include "check.h"
#include <pthread.h>

#define THREADS 8
#define ROUNDS 40
#define N 1000

static CUcontext ctx;
static CUmodule mod;
static CUdeviceptr shared;

static void *worker(void *arg)
{
    long me = (long)arg;
    CUfunction f;
    CUstream s;
    CUdeviceptr d;
    static __thread float a[N], c[N];
    unsigned n = N;
    OK(cuCtxSetCurrent(ctx));
    OK(cuModuleGetFunction(&f, mod, "vecadd"));
    OK(cuStreamCreate(&s, me % 2 ? CU_STREAM_NON_BLOCKING : CU_STREAM_DEFAULT));
    for (int r = 0; r < ROUNDS; r++) {
        OK(cuMemAlloc(&d, 3 * sizeof a));
        for (int i = 0; i < N; i++)
            a[i] = (float)(me * 1000 + r + i);
        CUdeviceptr da = d, db = d + sizeof a, dc = d + 2 * sizeof a;
        void *params[] = {&da, &db, &dc, &n};
        OK(cuMemcpyHtoDAsync(da, a, sizeof a, s));
        OK(cuMemcpyDtoDAsync(db, da, sizeof a, s));
        OK(cuLaunchKernel(f, 4, 1, 1, 256, 1, 1, 0, s, params, NULL));
        OK(cuMemcpyDtoHAsync(c, dc, sizeof c, s));
        OK(cuStreamSynchronize(s));
        for (int i = 0; i < N; i++)
            TRUE(c[i] == 2 * a[i]);
        OK(cuMemsetD32Async(shared + 4 * (CUdeviceptr)me, (unsigned)r, 1, CU_STREAM_PER_THREAD));
        OK(cuMemFree(d));
    }
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    OK(cuStreamDestroy(s));
    return NULL;
}

int main(void)
{
    pthread_t t[THREADS];
    unsigned out[THREADS];
    ctx = primary();
    OK(cuModuleLoadData(&mod, ptx_vecadd));
    OK(cuMemAlloc(&shared, sizeof out));
    for (long i = 0; i < THREADS; i++)
        TRUE(pthread_create(&t[i], NULL, worker, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++)
        TRUE(pthread_join(t[i], NULL) == 0);
    OK(cuMemcpyDtoH(out, shared, sizeof out));
    for (int i = 0; i < THREADS; i++)
        TRUE(out[i] == ROUNDS - 1);
    return 0;
}
