/* nvcc.c: runs the kernels of nvcc.cu out of the fatbin named by the first argument. */
#include "check.h"

#define N 10000

static float x[N], y[N];

int main(int argc, char **argv)
{
    CUmodule m;
    CUfunction f;
    CUdeviceptr dx, dy, out, g;
    size_t size;
    int v = 5, n = N;
    float a = 2, sum, want = 0;
    TRUE(argc == 2);
    primary();
    OK(cuModuleLoad(&m, argv[1]));
    for (int i = 0; i < N; i++) {
        x[i] = (float)(i % 7);
        y[i] = 1;
        want += x[i];
    }
    OK(cuMemAlloc(&dx, sizeof x));
    OK(cuMemAlloc(&dy, sizeof y));
    OK(cuMemAlloc(&out, 4));
    OK(cuMemcpyHtoD(dx, x, sizeof x));
    OK(cuMemcpyHtoD(dy, y, sizeof y));
    OK(cuModuleGetFunction(&f, m, "saxpy"));
    OK(cuLaunchKernel(f, 40, 1, 1, 256, 1, 1, 0, NULL, (void *[]){&dy, &dx, &a, &n}, NULL));
    OK(cuMemcpyDtoH(y, dy, sizeof y));
    for (int i = 0; i < N; i++)
        TRUE(y[i] == 2 * x[i] + (float)((i & 3) + 1));
    OK(cuModuleGetFunction(&f, m, "reduce"));
    OK(cuMemsetD32(out, 0, 1));
    OK(cuLaunchKernel(f, 8, 1, 1, 256, 1, 1, 0, NULL, (void *[]){&dx, &out, &n}, NULL));
    OK(cuMemcpyDtoH(&sum, out, 4));
    TRUE(sum == want);
    void *params[] = {&v};
    OK(cuModuleGetFunction(&f, m, "say"));
    OK(cuLaunchKernel(f, 1, 1, 1, 2, 1, 1, 0, NULL, params, NULL));
    OK(cuCtxSynchronize());
    OK(cuModuleGetFunction(&f, m, "check"));
    v = 1;
    OK(cuLaunchKernel(f, 1, 1, 1, 2, 1, 1, 0, NULL, params, NULL));
    OK(cuModuleGetGlobal(&g, &size, m, "counter"));
    OK(cuMemcpyDtoH(&v, g, 4));
    TRUE(v == 2);
    OK(cuLaunchKernel(f, 1, 1, 1, 2, 1, 1, 0, NULL, params, NULL));
    IS(CUDA_ERROR_ASSERT, cuCtxSynchronize());
    return 0;
}
