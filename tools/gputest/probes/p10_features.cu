// p10: forms of launch that the executor relies on, presence of entry points, device attributes.
#include "probe.h"
struct Big {
  int v[1100];
};  // 4,400 bytes: beyond the old 4 KiB bound
__global__ void k_big(const Big b, int *out) {
  int s = 0;
  for (int i = 0; i < 1100; i++) s += b.v[i];
  *out = s;
}
__global__ void k_cluster(int *out) {
  unsigned n;
  asm volatile("mov.u32 %0, %cluster_nctaid.x;" : "=r"(n));
  if (!threadIdx.x) atomicAdd(out, (int)n);
}
__global__ void k_args(int a, long b, int *out) { *out = a + (int)b; }
__device__ int g_counter = 5;
__global__ void k_global(int *out) { *out = g_counter++; }
int main(int, char **argv) {
  setvbuf(stdout, 0, _IOLBF, 0);
  CUcontext cx = ctx_open();
  CUdevice dev;
  CK(cuDeviceGet(&dev, 0));
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  int *out;
  CK(cuMemAllocHost((void **)&out, 4096));
  int dv = 0;
  cuDriverGetVersion(&dv);
  auto sync = [&] { return cuStreamSynchronize(s); };
  {
    struct {
      Big b;
      int *o;
    } p;
    for (int i = 0; i < 1100; i++) p.b.v[i] = i;
    p.o = out;
    size_t n = sizeof p;
    void *ex[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &p, CU_LAUNCH_PARAM_BUFFER_SIZE, &n, CU_LAUNCH_PARAM_END};
    *out = 0;
    CUresult r = cuLaunchKernel(FN(k_big), 1, 1, 1, 1, 1, 1, 0, s, 0, ex), y = sync();
    printf("extra with %zu B of parameters: %s %s %s\n", n, ename(r), ename(y), *out == 1099 * 550 ? "right" : "WRONG");
  }
  {
    struct {
      int a;
      long b;
      int *o;
    } p = {3, 4, out};
    for (size_t n : {sizeof p, sizeof p + 8}) {
      void *ex[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &p, CU_LAUNCH_PARAM_BUFFER_SIZE, &n, CU_LAUNCH_PARAM_END};
      *out = 0;
      CUresult r = cuLaunchKernel(FN(k_args), 1, 1, 1, 1, 1, 1, 0, s, 0, ex);
      sync();
      printf("extra of %zu B for %zu: %s %s; ", n, sizeof p, ename(r), *out == 7 ? "right" : "not run");
    }
    printf("\n");
  }
  {
    struct {
      int *o;
    } p = {out};
    size_t n = sizeof p;
    void *ex[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &p, CU_LAUNCH_PARAM_BUFFER_SIZE, &n, CU_LAUNCH_PARAM_END};
    CUlaunchAttribute at[2] = {};
    at[0].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    at[0].value.clusterDim.x = 2;
    at[0].value.clusterDim.y = at[0].value.clusterDim.z = 1;
    CUlaunchConfig c = {};
    c.gridDimX = 4;
    c.gridDimY = c.gridDimZ = 1;
    c.blockDimX = 32;
    c.blockDimY = c.blockDimZ = 1;
    c.hStream = s;
    c.attrs = at;
    c.numAttrs = 1;
    *out = 0;
    CUresult r = cuLaunchKernelEx(&c, FN(k_cluster), 0, ex), y = sync();
    printf("cluster of 2 by Ex+extra: %s %s %s; ", ename(r), ename(y), *out == 8 ? "right" : "WRONG");
    at[0].id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    at[0].value.cooperative = 1;
    *out = 0;
    r = cuLaunchKernelEx(&c, FN(k_cluster), 0, ex);
    y = sync();
    printf("cooperative by Ex+extra: %s %s %s; ", ename(r), ename(y), *out == 4 ? "right" : "WRONG");
    void *kp[] = {&p.o};
    r = cuLaunchCooperativeKernel(FN(k_cluster), 4, 1, 1, 32, 1, 1, 0, s, kp);
    y = sync();
    printf("cuLaunchCooperativeKernel: %s %s; ", ename(r), ename(y));
    at[0].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    at[0].value.programmaticStreamSerializationAllowed = 1;
    at[1].id = CU_LAUNCH_ATTRIBUTE_PRIORITY;
    at[1].value.priority = -1;
    c.numAttrs = 2;
    r = cuLaunchKernelEx(&c, FN(k_cluster), 0, ex);
    y = sync();
    printf("PDL+priority by Ex+extra: %s %s\n", ename(r), ename(y));
  }
  // An image with a global, by a library, in two contexts.
  {
    FILE *f = fopen(argv[1], "rb");
    if (!f) {
      printf("! no %s\n", argv[1]);
      return 1;
    }
    std::vector<char> img(8 << 20);
    img.resize(fread(img.data(), 1, img.size(), f));
    fclose(f);
    CUlibrary L;
    CUkernel k;
    CUresult r = cuLibraryLoadData(&L, img.data(), 0, 0, 0, 0, 0, 0);
    CK(r);
    CK(cuLibraryGetKernel(&k, L, "bump"));
    CUcontext c2;
    CUctxCreateParams cp = {};
    CK(cuCtxCreate(&c2, &cp, 0, dev));
    void *a[] = {&out};
    int v[4];
    CUresult e[4];
    auto go = [&](int i, CUcontext c) {
      CK(cuCtxSetCurrent(c));
      *out = -1;
      e[i] = cuLaunchKernel((CUfunction)k, 1, 1, 1, 1, 1, 1, 0, 0, a, 0);
      if (!e[i]) e[i] = cuCtxSynchronize();
      v[i] = *out;
    };
    go(0, cx);
    go(1, cx);
    go(2, c2);
    go(3, cx);
    CUdeviceptr g1 = 0, g2 = 0;
    size_t gs;
    CK(cuCtxSetCurrent(cx));
    CUresult q1 = cuLibraryGetGlobal(&g1, &gs, L, "counter");
    CK(cuCtxSetCurrent(c2));
    CUresult q2 = cuLibraryGetGlobal(&g2, &gs, L, "counter");
    printf(
        "CUkernel as CUfunction, contexts A A B A: codes %d %d %d %d values %d %d %d %d (5 6 5 7 = one copy of globals per "
        "context); GetGlobal %d %d %s\n",
        e[0], e[1], e[2], e[3], v[0], v[1], v[2], v[3], q1, q2, g1 == g2 ? "same address" : "own address each");
    CUlibrary L2;
    CUkernel k2;
    CK(cuCtxSetCurrent(cx));
    r = cuLibraryLoadData(&L2, img.data(), 0, 0, 0, 0, 0, 0);
    CK(cuLibraryGetKernel(&k2, L2, "bump"));
    *out = -1;
    CK(cuLaunchKernel((CUfunction)k2, 1, 1, 1, 1, 1, 1, 0, 0, a, 0));
    CK(cuCtxSynchronize());
    CUfunction fk;
    CUresult r3 = cuKernelGetFunction(&fk, k2);
    const char *nm = 0;
    CUresult r4 = cuFuncGetName(&nm, fk);
    CUmodule mo = 0;
    CUresult r5 = cuFuncGetModule(&mo, fk), r6;
    CUlibrary lo = 0;
    r6 = cuKernelGetLibrary(&lo, k2);
    const char *n2 = 0;
    CUresult r7 = cuKernelGetName(&n2, k2);
    unsigned cnt = 0;
    CUresult r8 = cuLibraryGetKernelCount(&cnt, L2);
    CUdeviceptr gm = 0;
    CUresult r9 = cuModuleGetGlobal(&gm, &gs, mo, "counter");
    printf(
        "second load of the same image: own globals: %s; KernelGetFunction %d same handle %d; FuncGetName %d %s; FuncGetModule %d; "
        "KernelGetLibrary %d same %d; KernelGetName %d %s; KernelCount %d %u; ModuleGetGlobal of FuncGetModule %d\n",
        *out == 5 ? "yes" : "NO", r3, (void *)fk == (void *)k2, r4, nm ? nm : "-", r5, r6, lo == L2, r7, n2 ? n2 : "-", r8, cnt,
        r9);
    CUmodule m3;
    CUfunction f3;
    CK(cuModuleLoadData(&m3, img.data()));
    CK(cuModuleGetFunction(&f3, m3, "bump"));
    CUlibrary l3 = 0;
    CUfunctionLoadingState ls;
    printf("module function: FuncGetName %d, as kernel KernelGetLibrary %d; IsLoaded %d", cuFuncGetName(&nm, f3),
           cuKernelGetLibrary(&l3, (CUkernel)f3), cuFuncIsLoaded(&ls, f3));
    printf(" state %d, FuncLoad %d", ls, cuFuncLoad(f3));
    cuFuncIsLoaded(&ls, f3);
    printf(" state %d; launch in the other context: ", ls);
    CK(cuCtxSetCurrent(c2));
    CUresult lr = cuLaunchKernel(f3, 1, 1, 1, 1, 1, 1, 0, 0, a, 0);
    printf("%s\n", ename(lr));
    CK(cuCtxSetCurrent(cx));
  }
  printf("driver %d; entry points:", dv);
  for (const char *n : {"cuFuncLoad",
                        "cuFuncIsLoaded",
                        "cuFuncGetName",
                        "cuFuncGetModule",
                        "cuFuncGetParamInfo",
                        "cuFuncGetParamCount",
                        "cuKernelGetLibrary",
                        "cuKernelGetName",
                        "cuKernelGetParamInfo",
                        "cuKernelGetParamCount",
                        "cuLibraryGetKernelCount",
                        "cuLibraryEnumerateKernels",
                        "cuModuleEnumerateFunctions",
                        "cuStreamBatchMemOp",
                        "cuStreamGetDevice",
                        "cuStreamGetGreenCtx",
                        "cuGreenCtxCreate",
                        "cuCtxRecordEvent",
                        "cuCoredumpSetAttribute",
                        "cuCoredumpRegisterStartCallback",
                        "cuLogsRegisterCallback",
                        "cuMemcpyBatchAsync",
                        "cuMulticastCreate",
                        "cuCheckpointProcessLock",
                        "cuGraphExecKernelNodeSetParams",
                        "cuEventElapsedTime",
                        "cuMemHostRegister",
                        "cuStreamWriteValue32"}) {
    void *p = 0;
    CUdriverProcAddressQueryResult q;
    CUresult r = cuGetProcAddress(n, &p, dv, 0, &q);
    if (r || !p) printf(" %s:ABSENT", n);
    else printf(" %s", n + 2);
  }
  printf("\nattributes:");
  struct {
    const char *n;
    int a;
  } A[] = {{"mem_ops_v1", CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1},
           {"64bit_mem_ops_v1", CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1},
           {"64bit_mem_ops", CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS},
           {"wait_nor", CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR},
           {"can_flush_remote", CU_DEVICE_ATTRIBUTE_CAN_FLUSH_REMOTE_WRITES},
           {"host_register", CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED},
           {"host_register_ro", CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED},
           {"use_host_ptr", CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM},
           {"vmm", CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED},
           {"posix_fd", CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED},
           {"fabric", CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED},
           {"compute_preemption", CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED},
           {"stream_priorities", CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED},
           {"concurrent_kernels", CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS},
           {"copy_engines", CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT},
           {"cooperative", CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH},
           {"cluster", CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH},
           {"mem_pools", CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED},
           {"compute_mode", CU_DEVICE_ATTRIBUTE_COMPUTE_MODE},
           {"pageable_access", CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS},
           {"uva", CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING},
           {"ipc_events", CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED},
           {"gdr_vmm", CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED},
           {"SMs", CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT},
           {"compression", CU_DEVICE_ATTRIBUTE_GENERIC_COMPRESSION_SUPPORTED}};
  for (auto &x : A) {
    int v = -1;
    CUresult r = cuDeviceGetAttribute(&v, (CUdevice_attribute)x.a, dev);
    if (r) printf(" %s:%s", x.n, ename(r));
    else printf(" %s=%d", x.n, v);
  }
  int lo, hi;
  cuCtxGetStreamPriorityRange(&lo, &hi);
  printf(" priorities=%d..%d\n", lo, hi);
  fflush(stdout);
  _exit(0);
}
