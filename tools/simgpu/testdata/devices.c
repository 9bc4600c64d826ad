/* devices.c: two devices: attributes, memory of one used by the other, access rights. */
#include "check.h"

static const char ptx[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    ".visible .entry put(.param .u64 p, .param .u32 v)\n{\n  .reg .b64 %rd;\n  .reg .b32 %r;\n  ld.param.u64 %rd, [p];\n  ld.param.u32 %r, [v];\n"
    "  st.global.u32 [%rd], %r;\n  ret;\n}\n";

static CUresult put(CUcontext ctx, CUdeviceptr p, unsigned v)
{
    CUmodule m;
    CUfunction f;
    void *params[] = {&p, &v};
    OK(cuCtxSetCurrent(ctx));
    OK(cuModuleLoadData(&m, ptx));
    OK(cuModuleGetFunction(&f, m, "put"));
    OK(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    return cuCtxSynchronize();
}

int main(void)
{
    CUcontext c0, c1;
    CUdeviceptr p, at;
    CUuuid u0, u1;
    CUmemGenericAllocationHandle h;
    size_t bytes;
    char name[64], bus[16];
    int n, v, can;
    CUdevice d;
    unsigned w;
    OK(cuInit(0));
    OK(cuDeviceGetCount(&n));
    TRUE(n == 2);
    IS(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&d, 2));
    OK(cuDeviceGetName(name, sizeof name, 0));
    OK(cuDeviceTotalMem(&bytes, 0));
    TRUE(bytes == (size_t)4 << 30);
    OK(cuDeviceGetUuid(&u0, 0));
    OK(cuDeviceGetUuid(&u1, 1));
    TRUE(memcmp(&u0, &u1, sizeof u0) != 0);
    OK(cuDeviceGetAttribute(&v, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
    TRUE(v == 9);
    OK(cuDeviceGetAttribute(&v, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    TRUE(v == 132);
    IS(CUDA_ERROR_INVALID_VALUE, cuDeviceGetAttribute(&v, (CUdevice_attribute)9999, 0));
    OK(cuDeviceGetPCIBusId(bus, sizeof bus, 1));
    OK(cuDeviceGetByPCIBusId(&d, bus));
    TRUE(d == 1);
    OK(cuDeviceCanAccessPeer(&can, 0, 1));
    TRUE(can);

    OK(cuDevicePrimaryCtxRetain(&c0, 0));
    OK(cuDevicePrimaryCtxRetain(&c1, 1));
    OK(cuCtxSetCurrent(c0));
    OK(cuMemAlloc(&p, 4));
    OK(cuCtxEnablePeerAccess(c1, 0));
    IS(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, cuCtxEnablePeerAccess(c1, 0));
    OK(cuCtxDisablePeerAccess(c1));
    OK(cuCtxSetCurrent(c1));
    OK(cuCtxEnablePeerAccess(c0, 0)); /* device 1 may now reach device 0's memory */
    OK(put(c1, p, 123));
    OK(cuCtxSetCurrent(c0));
    OK(cuMemcpyDtoH(&w, p, 4));
    TRUE(w == 123);

    /* mapped memory: only who was given access has it */
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemAccessDesc only0 = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemAccessDesc read1 = {{CU_MEM_LOCATION_TYPE_DEVICE, 1}, CU_MEM_ACCESS_FLAGS_PROT_READ};
    OK(cuMemCreate(&h, 2 << 20, &prop, 0));
    OK(cuMemAddressReserve(&at, 2 << 20, 0, 0, 0));
    OK(cuMemMap(at, 2 << 20, 0, h, 0));
    OK(cuMemSetAccess(at, 2 << 20, &only0, 1));
    OK(put(c0, at, 5));
    OK(cuMemSetAccess(at, 2 << 20, &read1, 1));
    OK(cuMemcpyDtoH(&w, at, 4));
    TRUE(w == 5);
    OK(cuCtxSetCurrent(c0));
    OK(cuMemFree(p));
    IS(CUDA_ERROR_ILLEGAL_ADDRESS, put(c1, at, 6)); /* device 1 may only read */
    IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    OK(cuCtxSetCurrent(c0));
    OK(cuMemcpyDtoH(&w, at, 4));
    TRUE(w == 5);
    OK(cuMemUnmap(at, 2 << 20));
    OK(cuMemRelease(h));
    OK(cuMemAddressFree(at, 2 << 20));
    IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuDevicePrimaryCtxRetain(&c1, 1));
    for (int i = 0; i < 2; i++) { /* the device stays lost to this process, as an H200 does */
        OK(cuDevicePrimaryCtxReset(1));
        IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuDevicePrimaryCtxRetain(&c1, 1));
        OK(cuCtxSetCurrent(c1));
        IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuMemAlloc(&p, 4));
        IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuMemsetD8(at, 1, 16));
        IS(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuCtxSynchronize());
    }
    OK(cuCtxSetCurrent(c0)); /* the other one is not */
    OK(cuMemAlloc(&p, 4));
    OK(put(c0, p, 9));
    return 0;
}
