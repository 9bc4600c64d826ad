/* memory.c: allocation, accounting, exhaustion, shapes of copies and fills, pointer attributes, stream-ordered memory. */
#include "check.h"

static void accounting(void)
{
    size_t before, now, total;
    CUdeviceptr p[100], big;
    OK(cuMemGetInfo(&before, &total));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemAlloc(&big, 0));
    IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&big, total + 1));
    for (int i = 0; i < 100; i++)
        OK(cuMemAlloc(&p[i], 1000));
    OK(cuMemGetInfo(&now, &total));
    TRUE(before - now == 2 << 20); /* small ones share a granule */
    for (int i = 0; i < 100; i++) {
        TRUE(p[i] % 256 == 0);
        for (int j = 0; j < i; j++)
            TRUE(p[i] >= p[j] + 1000 || p[j] >= p[i] + 1000);
    }
    for (int i = 0; i < 100; i++)
        OK(cuMemFree(p[i]));
    OK(cuMemAlloc(&big, now)); /* everything that is left, and 2 MiB */
    IS(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&p[0], 4 << 20));
    OK(cuMemFree(big));
    OK(cuMemGetInfo(&now, &total));
    TRUE(now == before);
}

static void fills_and_copies(void)
{
    enum { W = 100, H = 50 };
    static unsigned char host[W * H], back[W * H];
    CUdeviceptr p;
    size_t pitch;
    OK(cuMemAllocPitch(&p, &pitch, W, H, 4));
    TRUE(pitch >= W && pitch % 256 == 0);
    for (int i = 0; i < W * H; i++)
        host[i] = (unsigned char)(i * 7);
    CUDA_MEMCPY2D c = {.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = host, .srcPitch = W, .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                       .dstDevice = p, .dstPitch = pitch, .WidthInBytes = W, .Height = H};
    OK(cuMemcpy2D(&c));
    CUDA_MEMCPY2D part = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = p, .srcPitch = pitch, .srcXInBytes = 10, .srcY = 5,
                          .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = back, .dstPitch = W, .WidthInBytes = 20, .Height = 3};
    OK(cuMemcpy2D(&part));
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 20; x++)
            TRUE(back[y * W + x] == host[(y + 5) * W + x + 10]);
    OK(cuMemsetD2D8(p, pitch, 0xee, W, H));
    CUDA_MEMCPY3D whole = {.srcMemoryType = CU_MEMORYTYPE_UNIFIED, .srcDevice = p, .srcPitch = pitch, .srcHeight = H,
                           .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = back, .dstPitch = W, .dstHeight = H, .WidthInBytes = W,
                           .Height = H / 2, .Depth = 1};
    memset(back, 0, sizeof back);
    OK(cuMemcpy3D(&whole));
    for (int i = 0; i < W * H; i++)
        TRUE(back[i] == (i < W * (H / 2) ? 0xee : 0));
    OK(cuMemFree(p));

    CUdeviceptr a, b;
    unsigned short s[8];
    unsigned w[8];
    OK(cuMemAlloc(&a, 64));
    OK(cuMemAlloc(&b, 64));
    OK(cuMemsetD16(a, 0x1234, 8));
    OK(cuMemcpyDtoD(b, a, 16));
    OK(cuMemcpyDtoH(s, b, 16));
    for (int i = 0; i < 8; i++)
        TRUE(s[i] == 0x1234);
    OK(cuMemsetD32(a, 0xcafef00d, 8));
    OK(cuMemcpy((CUdeviceptr)(uintptr_t)w, a, 32)); /* unified: directions from the addresses */
    OK(cuMemcpy(b, (CUdeviceptr)(uintptr_t)w, 32));
    OK(cuMemcpyDtoH(w, b, 32));
    for (int i = 0; i < 8; i++)
        TRUE(w[i] == 0xcafef00d);
    OK(cuMemFree(a));
    OK(cuMemFree(b));

    /* large, pageable, asynchronous: the source may be reused when the call returns */
    size_t n = 8 << 20;
    unsigned char *big = malloc(n), *out = malloc(n);
    memset(big, 0x5a, n);
    OK(cuMemAlloc(&a, n));
    OK(cuMemcpyHtoDAsync(a, big, n, NULL));
    memset(big, 0, n);
    OK(cuMemcpyDtoHAsync(out, a, n, NULL));
    OK(cuStreamSynchronize(NULL));
    for (size_t i = 0; i < n; i += 4097)
        TRUE(out[i] == 0x5a);
    OK(cuMemFree(a));
    free(big);
    free(out);
}

static void attributes(CUcontext ctx)
{
    CUdeviceptr p, base, dp;
    void *host;
    CUcontext c;
    unsigned type, on;
    unsigned long long id, id2;
    int dev = 7;
    size_t size;
    OK(cuMemAlloc(&p, 10000));
    OK(cuMemHostAlloc(&host, 5000, 0));
    OK(cuPointerGetAttribute(&c, CU_POINTER_ATTRIBUTE_CONTEXT, p + 5));
    TRUE(c == ctx);
    OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p));
    TRUE(type == CU_MEMORYTYPE_DEVICE);
    OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)host));
    TRUE(type == CU_MEMORYTYPE_HOST);
    OK(cuPointerGetAttribute(&dp, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, (CUdeviceptr)(uintptr_t)host));
    TRUE(dp == (CUdeviceptr)(uintptr_t)host);
    OK(cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, p));
    OK(cuPointerGetAttribute(&on, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, p));
    TRUE(on == 1);
    OK(cuMemGetAddressRange(&base, &size, p + 9999));
    TRUE(base == p && size == 10000);
    IS(CUDA_ERROR_INVALID_VALUE, cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)&p));
    CUpointer_attribute list[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_CONTEXT};
    void *data[] = {&type, &dev, &c};
    OK(cuPointerGetAttributes(3, list, data, (CUdeviceptr)(uintptr_t)&p)); /* unknown memory is no error here */
    TRUE(type == 0 && dev == CU_DEVICE_INVALID && c == NULL);
    OK(cuPointerGetAttributes(3, list, data, p));
    TRUE(type == CU_MEMORYTYPE_DEVICE && dev == 0 && c == ctx);
    OK(cuMemFree(p));
    OK(cuMemAlloc(&p, 10000));
    OK(cuPointerGetAttribute(&id2, CU_POINTER_ATTRIBUTE_BUFFER_ID, p));
    TRUE(id != id2);
    OK(cuMemFree(p));
    OK(cuMemFreeHost(host));
}

static void stream_ordered(void)
{
    CUdeviceptr p;
    CUmemoryPool pool, made;
    CUstream s;
    cuuint64_t used;
    unsigned v;
    size_t before, now, total;
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    OK(cuMemGetInfo(&before, &total));
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuMemAllocAsync(&p, 4096, s));
    OK(cuMemsetD32Async(p, 3, 1024, s));
    OK(cuMemcpyDtoHAsync(&v, p + 4092, 4, s));
    OK(cuDeviceGetDefaultMemPool(&pool, 0));
    OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
    TRUE(used == 4096);
    OK(cuMemFreeAsync(p, s));
    OK(cuStreamSynchronize(s));
    TRUE(v == 3);
    OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
    TRUE(used == 0);
    IS(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(p, s));
    OK(cuMemPoolCreate(&made, &props));
    OK(cuMemAllocFromPoolAsync(&p, 1 << 20, made, s));
    OK(cuMemFree(p));
    OK(cuMemPoolDestroy(made));
    OK(cuStreamDestroy(s));
    OK(cuMemGetInfo(&now, &total));
    TRUE(now == before);
}

int main(void)
{
    CUcontext ctx = primary();
    accounting();
    fills_and_copies();
    attributes(ctx);
    stream_ordered();
    return 0;
}
