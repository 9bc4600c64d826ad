/* procaddr.c: the routes to entry points: cuGetProcAddress with versions and flags, and dlsym. */
#include "check.h"
#include <dlfcn.h>
#include <stdint.h>

static void *find(const char *name, int version, cuuint64_t flags)
{
    void *p = NULL;
    CUdriverProcAddressQueryResult q;
    OK(cuGetProcAddress(name, &p, version, flags, &q));
    TRUE((q == CU_GET_PROC_ADDRESS_SUCCESS) == (p != NULL));
    return p;
}

int main(void)
{
    void *h = dlopen("libcuda.so.1", RTLD_NOW), *p;
    const void *table;
    CUdriverProcAddressQueryResult q;
    CUuuid id = {{1}};
    int version;
    TRUE(h != NULL);
#define SAME(name, version, flags, symbol) TRUE(find(name, version, flags) == dlsym(h, symbol) && dlsym(h, symbol) != NULL)
    SAME("cuMemAlloc", 2000, 0, "cuMemAlloc");
    SAME("cuMemAlloc", 3020, 0, "cuMemAlloc_v2");
    SAME("cuMemAlloc", 13000, 0, "cuMemAlloc_v2");
    SAME("cuLaunchKernel", 4000, 0, "cuLaunchKernel");
    SAME("cuLaunchKernel", 7000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, "cuLaunchKernel_ptsz");
    SAME("cuLaunchKernel", 4000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, "cuLaunchKernel");
    SAME("cuMemcpyHtoD", 7000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, "cuMemcpyHtoD_v2_ptds");
    SAME("cuMemAlloc", 7000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, "cuMemAlloc_v2");
    SAME("cuCtxCreate", 12080, 0, "cuCtxCreate_v4");
    SAME("cuCtxCreate", 11040, 0, "cuCtxCreate_v3");
    SAME("cuStreamBeginCapture", 10000, 0, "cuStreamBeginCapture");
    SAME("cuGetProcAddress", 11030, 0, "cuGetProcAddress");
    SAME("cuGetProcAddress", 12000, 0, "cuGetProcAddress_v2");
    OK(cuGetProcAddress("cuNoSuchThing", &p, 12000, 0, &q));
    TRUE(p == NULL && q == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    OK(cuGetProcAddress("cuLaunchKernelEx", &p, 11000, 0, &q));
    TRUE(p == NULL && q == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    IS(CUDA_ERROR_INVALID_VALUE, cuGetProcAddress("cuInit", &p, 13000, 3, &q));
    IS(CUDA_ERROR_INVALID_VALUE, cuGetProcAddress("cuInit", &p, 14000, 0, &q));
    IS(CUDA_ERROR_INVALID_VALUE, cuGetProcAddress(NULL, &p, 13000, 0, &q));
    CUresult (*v1)(const char *, void **, int, cuuint64_t) = (CUresult(*)(const char *, void **, int, cuuint64_t))dlsym(h, "cuGetProcAddress");
    IS(CUDA_ERROR_NOT_FOUND, v1("cuNoSuchThing", &p, 12000, 0));
    IS(CUDA_ERROR_NOT_FOUND, cuGetExportTable(&table, &id));
    TRUE(dlsym(h, "cuFuncGetParamCount") == NULL); /* as on driver 580 */
    TRUE(dlsym(h, "sim_connect") == NULL);
    OK(cuDriverGetVersion(&version));
    TRUE(version == 13000);
    const char *name;
    OK(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &name));
    TRUE(strcmp(name, "CUDA_ERROR_ILLEGAL_ADDRESS") == 0);
    OK(cuGetErrorString(CUDA_ERROR_INVALID_VALUE, &name));
    TRUE(strcmp(name, "invalid argument") == 0);
    IS(CUDA_ERROR_INVALID_VALUE, cuGetErrorName((CUresult)12345, &name));

    /* the per-thread variant works on the thread's own stream */
    primary();
    CUdeviceptr d;
    unsigned v = 0;
    OK(cuMemAlloc(&d, 4));
    CUresult (*set)(CUdeviceptr, unsigned, size_t, CUstream) =
        (CUresult(*)(CUdeviceptr, unsigned, size_t, CUstream))find("cuMemsetD32Async", 7000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
    OK(set(d, 5, 1, NULL));
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    OK(cuMemcpyDtoH(&v, d, 4));
    TRUE(v == 5);

    /* something we do not have says so */
    CUresult (*arr)(CUarray *, const void *) = (CUresult(*)(CUarray *, const void *))dlsym(h, "cuArrayCreate_v2");
    CUarray a;
    IS(CUDA_ERROR_NOT_SUPPORTED, arr(&a, &id));
    return 0;
}
