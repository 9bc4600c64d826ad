/* vecadd.c: the path of every simple program: memory, copies, a kernel, in streams and without. */
#include "check.h"

#define N 10000

static float a[N], b[N], c[N];

int main(int argc, char **argv)
{
    CUdeviceptr da, db, dc;
    CUmodule mod;
    CUfunction f;
    CUstream s;
    unsigned n = N;
    size_t free0, free1, total;
    primary();
    OK(cuMemGetInfo(&free0, &total));
    for (int i = 0; i < N; i++) {
        a[i] = (float)i;
        b[i] = 0.5f * (float)i;
    }
    OK(cuMemAlloc(&da, sizeof a));
    OK(cuMemAlloc(&db, sizeof b));
    OK(cuMemAlloc(&dc, sizeof c));
    OK(cuMemcpyHtoD(da, a, sizeof a));
    OK(cuMemcpyHtoD(db, b, sizeof b));
    OK(cuModuleLoadData(&mod, ptx_vecadd));
    OK(cuModuleGetFunction(&f, mod, "vecadd"));
    IS(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&f, mod, "nothing"));
    void *params[] = {&da, &db, &dc, &n};
    OK(cuLaunchKernel(f, (N + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, params, NULL));
    OK(cuMemcpyDtoH(c, dc, sizeof c));
    for (int i = 0; i < N; i++)
        TRUE(c[i] == a[i] + b[i]);

    /* the same through a stream, with the parameters as a buffer */
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuMemsetD32Async(dc, 0x7f800000, N, s));
    struct {
        CUdeviceptr a, b, c;
        unsigned n;
    } block = {dc, db, dc, N};
    size_t size = sizeof block;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &block, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
    OK(cuMemcpyHtoDAsync(dc, a, sizeof a, s));
    OK(cuLaunchKernel(f, (N + 127) / 128, 1, 1, 128, 1, 1, 0, s, NULL, extra));
    OK(cuMemcpyDtoHAsync(c, dc, sizeof c, s));
    OK(cuStreamSynchronize(s));
    for (int i = 0; i < N; i++)
        TRUE(c[i] == a[i] + b[i]);
    OK(cuStreamDestroy(s));
    OK(cuModuleUnload(mod));
    OK(cuMemFree(da));
    OK(cuMemFree(db));
    OK(cuMemFree(dc));
    OK(cuMemGetInfo(&free1, &total));
    TRUE(argc < 2 || strcmp(argv[1], "alone") != 0 || free0 == free1);
    return 0;
}
