/* host.c: page-locked memory that we allocate and that the program brings: copies, kernels, memops, forks. */
#include "check.h"
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static const char ptx[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    ".visible .entry bump(.param .u64 p, .param .u32 n)\n{\n  .reg .pred %p;\n  .reg .b32 %r<6>;\n  .reg .b64 %rd<4>;\n"
    "  ld.param.u64 %rd1, [p];\n  ld.param.u32 %r1, [n];\n  mov.u32 %r2, %ctaid.x;\n  mov.u32 %r3, %ntid.x;\n  mov.u32 %r4, %tid.x;\n"
    "  mad.lo.s32 %r4, %r2, %r3, %r4;\n  setp.ge.u32 %p, %r4, %r1;\n  @%p bra D;\n  mul.wide.u32 %rd2, %r4, 4;\n  add.s64 %rd3, %rd1, %rd2;\n"
    "  ld.global.u32 %r5, [%rd3];\n  add.u32 %r5, %r5, 1;\n  st.global.u32 [%rd3], %r5;\nD:\n  ret;\n}\n";

static CUfunction bump;

/* A kernel adds one to n words at p, in place. */
static void check_kernel(unsigned *p, unsigned n)
{
    CUdeviceptr d;
    for (unsigned i = 0; i < n; i++)
        p[i] = i;
    OK(cuMemHostGetDevicePointer(&d, p, 0));
    void *params[] = {&d, &n};
    OK(cuLaunchKernel(bump, (n + 127) / 128, 1, 1, 128, 1, 1, 0, NULL, params, NULL));
    OK(cuCtxSynchronize());
    for (unsigned i = 0; i < n; i++)
        TRUE(p[i] == i + 1);
}

static void registered(unsigned *p, unsigned n)
{
    unsigned before = p[0], flags;
    OK(cuMemHostRegister(p, n * 4, 0));
    TRUE(p[0] == before); /* the content stays */
    IS(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister(p, n * 4, 0));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemHostGetFlags(&flags, p));
    check_kernel(p, n);
    CUdeviceptr d;
    OK(cuMemAlloc(&d, n * 4));
    OK(cuMemcpyHtoDAsync(d, p, n * 4, NULL));
    OK(cuMemsetD32Async(d, 77, 1, NULL));
    OK(cuMemcpyDtoHAsync(p, d, n * 4, NULL));
    OK(cuStreamSynchronize(NULL));
    TRUE(p[0] == 77 && p[1] == 2);
    OK(cuMemFree(d));
    OK(cuMemHostUnregister(p));
    TRUE(p[0] == 77 && p[1] == 2);
}

/* Registered private memory stays private in a fork's child. */
static void forked(void)
{
    int status;
    unsigned *p = malloc(1 << 20);
    p[10] = 5;
    OK(cuMemHostRegister(p, 1 << 20, 0));
    pid_t child = fork();
    if (child == 0) {
        int ok = p[10] == 5;
        p[10] = 6;
        free(malloc(100));
        _exit(ok ? 0 : 1);
    }
    TRUE(waitpid(child, &status, 0) == child && status == 0);
    TRUE(p[10] == 5);
    check_kernel(p, 1000);
    OK(cuMemHostUnregister(p));
    free(p);
}

static void managed(void)
{
    CUdeviceptr p;
    unsigned type, is;
    OK(cuMemAllocManaged(&p, 10000, CU_MEM_ATTACH_GLOBAL));
    OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p));
    OK(cuPointerGetAttribute(&is, CU_POINTER_ATTRIBUTE_IS_MANAGED, p));
    TRUE(type == CU_MEMORYTYPE_DEVICE && is == 1);
    unsigned *host = (unsigned *)(uintptr_t)p, n = 2500;
    for (unsigned i = 0; i < n; i++)
        host[i] = i;
    void *params[] = {&p, &n};
    OK(cuLaunchKernel(bump, (n + 127) / 128, 1, 1, 128, 1, 1, 0, NULL, params, NULL));
    OK(cuMemsetD32Async(p, 99, 1, NULL));
    OK(cuCtxSynchronize());
    for (unsigned i = 1; i < n; i++)
        TRUE(host[i] == i + 1);
    TRUE(host[0] == 99);
    OK(cuMemcpyDtoH(&is, p, 4));
    TRUE(is == 99);
    OK(cuMemFree(p));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemFree(p));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemAllocManaged(&p, 100, 0));
}

int main(void)
{
    CUmodule m;
    void *p, *q;
    unsigned flags;
    CUcontext ctx = primary();
    (void)ctx;
    OK(cuModuleLoadData(&m, ptx));
    OK(cuModuleGetFunction(&bump, m, "bump"));

    OK(cuMemHostAlloc(&p, 10000, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP));
    OK(cuMemAllocHost(&q, 10000));
    OK(cuMemHostGetFlags(&flags, p));
    TRUE(flags & CU_MEMHOSTALLOC_PORTABLE);
    check_kernel(p, 2500);
    check_kernel(q, 2500);
    IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost((char *)p + 8));
    OK(cuMemFreeHost(p));
    OK(cuMemFreeHost(q));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemHostAlloc(&p, 0, 0));

    unsigned *heap = malloc(300000); /* a mapping of its own, not at a page's start */
    registered(heap + 3, 70000);
    registered(heap + 3, 70000); /* and again */
    free(heap);
    unsigned small[3000]; /* the stack */
    registered(small, 3000);
    int fd = memfd_create("m", 0);
    TRUE(fd >= 0 && ftruncate(fd, 1 << 16) == 0);
    unsigned *shared = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    unsigned *alias = mmap(NULL, 1 << 16, PROT_READ, MAP_SHARED, fd, 0);
    registered(shared + 4096, 1024); /* part of a shared mapping, not from its start */
    TRUE(alias[4096] == 77);
    forked();
    managed();
    IS(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(shared));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemHostRegister((void *)0x1000, 4096, 0));

    /* memory operations on a word that is not at a page's start */
    CUstream s;
    CUdeviceptr d;
    OK(cuStreamCreate(&s, 0));
    OK(cuMemHostRegister(small, sizeof small, 0));
    OK(cuMemHostGetDevicePointer(&d, small, 0));
    small[7] = 0;
    OK(cuStreamWriteValue32(s, d + 28, 9, 0));
    OK(cuStreamWaitValue32(s, d + 28, 10, CU_STREAM_WAIT_VALUE_EQ));
    while (*(volatile unsigned *)&small[7] != 9)
        usleep(50);
    *(volatile unsigned *)&small[7] = 10;
    OK(cuStreamSynchronize(s));
    OK(cuMemHostUnregister(small));
    OK(cuModuleUnload(m));
    return 0;
}
