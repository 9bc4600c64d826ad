/* truncate.c: a program that takes registered memory away from under the device: its context fails, nothing else does. */
#include "check.h"
#include <sys/mman.h>
#include <unistd.h>

enum how { KERNEL, COPY, WAIT };

static void pull(enum how how)
{
    CUcontext ctx;
    CUmodule m;
    CUfunction f;
    CUdeviceptr d, p;
    CUstream s;
    unsigned n = 100;
    int fd = memfd_create("m", 0);
    TRUE(fd >= 0 && ftruncate(fd, 8192) == 0);
    void *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    OK(cuCtxCreate(&ctx, NULL, 0, 0));
    OK(cuModuleLoadData(&m, ptx_vecadd));
    OK(cuModuleGetFunction(&f, m, "vecadd"));
    OK(cuMemAlloc(&d, 8192));
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuMemHostRegister(page, 8192, 0));
    OK(cuMemHostGetDevicePointer(&p, page, 0));
    TRUE(ftruncate(fd, 0) == 0);
    void *params[] = {&p, &p, &d, &n};
    if (how == KERNEL)
        OK(cuLaunchKernel(f, 1, 1, 1, 128, 1, 1, 0, s, params, NULL));
    else if (how == COPY)
        OK(cuMemcpyHtoDAsync(d, page, 8192, s));
    else
        OK(cuStreamWaitValue32(s, p, 1, CU_STREAM_WAIT_VALUE_EQ));
    CUresult r = cuStreamSynchronize(s);
    TRUE(r == CUDA_ERROR_LAUNCH_FAILED || r == CUDA_ERROR_ILLEGAL_ADDRESS || r == CUDA_ERROR_ILLEGAL_INSTRUCTION);
    OK(cuCtxDestroy(ctx));
    close(fd);
}

int main(void)
{
    CUdeviceptr d;
    primary();
    pull(KERNEL);
    pull(COPY);
    pull(WAIT);
    OK(cuMemAlloc(&d, 100));
    OK(cuMemsetD8(d, 0, 100));
    OK(cuCtxSynchronize());
    return 0;
}
