/* spin.c: holds memory and launches a kernel that never ends, then says so and waits; the test kills it. */
#include "check.h"
#include <unistd.h>

int main(void)
{
    CUmodule m;
    CUfunction f;
    CUdeviceptr p;
    CUmemGenericAllocationHandle h;
    int fd;
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    primary();
    OK(cuMemAlloc(&p, 10 << 20));
    OK(cuMemCreate(&h, 2 << 20, &prop, 0));
    OK(cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    OK(cuModuleLoadData(&m, ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry forever()\n{\nL:\n  bra L;\n}\n"));
    OK(cuModuleGetFunction(&f, m, "forever"));
    OK(cuLaunchKernel(f, 4, 1, 1, 64, 1, 1, 0, NULL, NULL, NULL));
    OK(cuMemsetD8Async(p, 1, 100, NULL));
    IS(CUDA_ERROR_NOT_READY, cuStreamQuery(NULL));
    printf("running\n");
    fflush(stdout);
    OK(cuCtxSynchronize());
    return 0;
}
