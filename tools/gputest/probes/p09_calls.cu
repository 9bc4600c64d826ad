// p09: CPU cost in the client of small driver calls, and launch rate by threads.
#include "probe.h"
#include <atomic>
#include <thread>
#include <string>
struct P64 {
  char b[64];
};
__global__ void k_p64(P64 p) {
  if (p.b[0] == 77 && threadIdx.x == 9999) printf("x");
}
__global__ void k_args(float *a, float *b, int c, int d, long e, float f) {
  if (c == 12345678 && a) a[0] = f + d + e + (b ? 1 : 0);
}
int main() {
  setvbuf(stdout, 0, _IOLBF, 0);
  CUcontext cx = ctx_open();
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUdeviceptr seg;
  CUmemGenericAllocationHandle h;
  close(seg_create(WIN, SEG_SIZE, &h));
  seg = WIN;
  CUfunction f = FN(k_args), e = FN(k_empty);
  CUevent ev;
  CK(cuEventCreate(&ev, CU_EVENT_DISABLE_TIMING));
  char *pin;
  CK(cuMemAllocHost((void **)&pin, 1 << 20));
  char *pag = (char *)calloc(1, 1 << 20);
  // n calls in batches of b, with a sync between batches outside the clock; ns per call, p50 over single calls.
  auto t = [&](const char *n, std::function<CUresult()> g, bool sync = false) {
    Stat st;
    CUresult r = CUDA_SUCCESS;
    for (int i = 0; i < 3000; i++) {
      if (sync && i % 64 == 0) cuStreamSynchronize(s);
      double a = now();
      r = g();
      double d = now() - a;
      if (i >= 200) st.add(d * 1e3);
    }
    printf("%s %.0f/%.0f%s%s; ", n, st.p50(), st.p99(), r ? " " : "", r ? ename(r) : "");
    if (sync) CK(cuStreamSynchronize(s));
  };
  printf("ns p50/p99 (clock itself included): ");
  t("nothing", [] { return CUDA_SUCCESS; });
  CUcontext c2;
  CUdevice dv;
  t("CtxGetCurrent", [&] { return cuCtxGetCurrent(&c2); });
  t("CtxGetDevice", [&] { return cuCtxGetDevice(&dv); });
  t("CtxSetCurrent", [&] { return cuCtxSetCurrent(cx); });
  t("StreamGetCtx", [&] { return cuStreamGetCtx(s, &c2); });
  t("StreamGetCtx(0)", [&] { return cuStreamGetCtx(0, &c2); });
  CUstreamCaptureStatus cs;
  unsigned fl;
  t("StreamIsCapturing", [&] { return cuStreamIsCapturing(s, &cs); });
  t("StreamIsCapturing(0)", [&] { return cuStreamIsCapturing(0, &cs); });
  t("StreamGetFlags", [&] { return cuStreamGetFlags(s, &fl); });
  unsigned long long sid;
  t("StreamGetId", [&] { return cuStreamGetId(s, &sid); });
  unsigned long long cid;
  t("CtxGetId", [&] { return cuCtxGetId(cx, &cid); });
  {
    CUstreamCaptureMode cm = CU_STREAM_CAPTURE_MODE_RELAXED;
    t("ThreadExchangeCaptureMode", [&] { return cuThreadExchangeStreamCaptureMode(&cm); });
  }
  unsigned mt;
  t("PtrAttr(MEMTYPE) dev", [&] { return cuPointerGetAttribute(&mt, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, seg); });
  t("PtrAttr(MEMTYPE) pinned", [&] { return cuPointerGetAttribute(&mt, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)pin); });
  t("PtrAttr(MEMTYPE) malloc", [&] { return cuPointerGetAttribute(&mt, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)pag); });
  int v;
  t("FuncGetAttribute", [&] { return cuFuncGetAttribute(&v, CU_FUNC_ATTRIBUTE_NUM_REGS, f); });
  CUkernel k;
  CUfunction f2;
  CK(cudaGetKernel((cudaKernel_t *)&k, (const void *)k_args));
  t("KernelGetFunction", [&] { return cuKernelGetFunction(&f2, k); });
  size_t off, sz;
  t("FuncGetParamInfo", [&] { return cuFuncGetParamInfo(f, 2, &off, &sz); });
  t("EventQuery", [&] { return cuEventQuery(ev); });
  t("EventRecord", [&] { return cuEventRecord(ev, s); }, true);
  t("StreamQuery idle", [&] { return cuStreamQuery(s); });
  t("StreamSynchronize idle", [&] { return cuStreamSynchronize(s); });
  t("StreamWaitEvent", [&] { return cuStreamWaitEvent(s, ev, 0); }, true);
  t("CtxSynchronize idle", [&] { return cuCtxSynchronize(); });
  printf("\nlaunches: ");
  float *a = (float *)seg, *b = a;
  int c = 0, d = 0;
  long l = 0;
  float x = 0;
  void *kp[] = {&a, &b, &c, &d, &l, &x};
  struct {
    float *a, *b;
    int c, d;
    long e;
    float f;
  } packed = {a, b, 0, 0, 0, 0};
  size_t ps = 36;
  void *ex[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &ps, CU_LAUNCH_PARAM_END};
  CUlaunchConfig lc = {};
  lc.gridDimX = lc.gridDimY = lc.gridDimZ = 1;
  lc.blockDimX = 32;
  lc.blockDimY = lc.blockDimZ = 1;
  lc.hStream = s;
  t("empty kernelParams", [&] { return cuLaunchKernel(e, 1, 1, 1, 32, 1, 1, 0, s, 0, 0); }, true);
  t("6 args kernelParams", [&] { return cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, kp, 0); }, true);
  t("6 args extra", [&] { return cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, 0, ex); }, true);
  t("6 args Ex", [&] { return cuLaunchKernelEx(&lc, f, kp, 0); }, true);
  t("6 args Ex extra", [&] { return cuLaunchKernelEx(&lc, f, 0, ex); }, true);
  t("CUkernel as function", [&] { return cuLaunchKernel((CUfunction)k, 1, 1, 1, 32, 1, 1, 0, s, kp, 0); }, true);
  t("stream 0", [&] { return cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, 0, kp, 0); }, true);
  printf("\ncopies 4 KiB: ");
  t("HtoDAsync pinned", [&] { return cuMemcpyHtoDAsync(seg, pin, 4096, s); }, true);
  t("HtoDAsync pageable", [&] { return cuMemcpyHtoDAsync(seg, pag, 4096, s); }, true);
  t("DtoHAsync pinned", [&] { return cuMemcpyDtoHAsync(pin, seg, 4096, s); }, true);
  t("DtoHAsync pageable", [&] { return cuMemcpyDtoHAsync(pag, seg, 4096, s); }, true);
  t("HtoD sync pageable", [&] { return cuMemcpyHtoD(seg, pag, 4096); });
  t("DtoH sync pageable", [&] { return cuMemcpyDtoH(pag, seg, 4096); });
  t("DtoDAsync", [&] { return cuMemcpyDtoDAsync(seg + 65536, seg, 4096, s); }, true);
  t("MemsetD8Async", [&] { return cuMemsetD8Async(seg, 0, 4096, s); }, true);
  printf("\nlaunch rate, extra form, k/s by threads (own stream each):");
  for (int T : {1, 2, 4, 6, 8}) {
    std::vector<std::thread> th;
    std::atomic<int> rdy{0};
    int M = 40000;
    double t0 = 0;
    for (int i = 0; i < T; i++)
      th.emplace_back([&] {
        CK(cuCtxSetCurrent(cx));
        CUstream q;
        CK(cuStreamCreate(&q, CU_STREAM_NON_BLOCKING));
        rdy++;
        while (rdy < T) {}
        for (int j = 0; j < M; j++) CK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, q, 0, ex));
        CK(cuStreamSynchronize(q));
      });
    while (rdy < T) {}
    t0 = now();
    for (auto &z : th) z.join();
    printf(" %d: %.0f", T, T * (double)M / (now() - t0) * 1e3);
  }
  printf("\nwith one WriteValue32 after every 1 / 8 / 64 launches, 1 thread and 4 threads, k launches/s:");
  Sh *sh = shm_make();
  shm_register(sh);
  for (int T : {1, 4})
    for (int per : {1, 8, 64}) {
      std::vector<std::thread> th;
      std::atomic<int> rdy{0};
      int M = 24000;
      for (int i = 0; i < T; i++)
        th.emplace_back([&, i] {
          CK(cuCtxSetCurrent(cx));
          CUstream q;
          CK(cuStreamCreate(&q, CU_STREAM_NON_BLOCKING));
          rdy++;
          while (rdy < T) {}
          for (int j = 0; j < M; j++) {
            CK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, q, 0, ex));
            if (j % per == per - 1) CK(cuStreamWriteValue32(q, (CUdeviceptr)&sh->word[i], j, 0));
          }
          CK(cuStreamSynchronize(q));
        });
      while (rdy < T) {}
      double t0 = now();
      for (auto &z : th) z.join();
      printf(" %dt/%d: %.0f", T, per, T * (double)M / (now() - t0) * 1e3);
    }
  printf("\n");
  fflush(stdout);
  _exit(0);
}
