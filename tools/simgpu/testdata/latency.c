/* latency.c: what calls cost here, in microseconds: launch, launch and synchronise, allocation, memop round trip. */
#include "check.h"
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

int main(void)
{
    CUmodule m;
    CUfunction f;
    CUdeviceptr p;
    CUstream s;
    const char *ptx = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry nothing()\n{\n  ret;\n}\n";
    enum { N = 2000 };
    primary();
    OK(cuModuleLoadData(&m, ptx));
    OK(cuModuleGetFunction(&f, m, "nothing"));
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    double t0 = now();
    for (int i = 0; i < N; i++)
        OK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, NULL, NULL));
    double t1 = now();
    OK(cuStreamSynchronize(s));
    double t2 = now();
    for (int i = 0; i < N; i++) {
        OK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, NULL, NULL));
        OK(cuStreamSynchronize(s));
    }
    double t3 = now();
    for (int i = 0; i < N; i++) {
        OK(cuMemAlloc(&p, 4096));
        OK(cuMemFree(p));
    }
    double t4 = now();
    printf("launch %.1f, drained %.1f, launch+sync %.1f, alloc+free %.1f\n", (t1 - t0) / N, (t2 - t0) / N, (t3 - t2) / N, (t4 - t3) / N);
    return 0;
}
