// smoke: small steps with checked results, for the first runs on a new machine. usage: smoke CUBIN. One line a step; exit 1 when any is bad.
#include "program.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

static CUmodule mod;
static CUfunction add_kernel;
static CUcontext ctx;
static CUstream s1, s2;
static CUdeviceptr buf;
static int bad;
static const char *step = "start";
static double t0;
enum { N = 4096 };
static float host[N];
static void on_alarm(int sig) {
  (void)sig;
  char m[160];
  int n = snprintf(m, sizeof m, "HANG in step: %s\n", step);
  if (write(1, m, n) < 0) {}
  _exit(5);
}
static void begin(const char *name) {
  step = name;
  t0 = now_us();
  alarm(20);
}
static void end(int ok) {
  printf("%s %s (%.0f us)\n", ok ? "ok " : "BAD", step, now_us() - t0);
  fflush(stdout);
  bad += !ok;
}
static CUresult add(CUstream s, CUdeviceptr p, float v) {
  int n = N;
  void *a[] = {&p, &v, &n};
  return cuLaunchKernel(add_kernel, N / 128, 1, 1, 128, 1, 1, 0, s, a, 0);
}
static int all(CUdeviceptr p, float want) {
  CK(cuMemcpyDtoH(host, p, sizeof host));
  for (int i = 0; i < N; i++)
    if (host[i] != want) {
      printf("    element %d is %g, expected %g\n", i, host[i], want);
      return 0;
    }
  return 1;
}
// A copy from pageable memory may return before it has arrived, and the streams here are not ordered after the legacy one.
static void fill(CUdeviceptr p, float v) {
  for (int i = 0; i < N; i++) host[i] = v;
  CK(cuMemcpyHtoD(p, host, sizeof host));
  CK(cuStreamSynchronize(0));
}
static void CUDA_CB callback(void *p) { *(volatile int *)p = 7; }
static void *thread(void *arg) {
  long k = (long)arg;
  CK(cuCtxSetCurrent(ctx));
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUdeviceptr p;
  CK(cuMemAlloc(&p, N * 4));
  CK(cuMemsetD32Async(p, 0, N, s));
  for (int i = 0; i < 300; i++) CK(add(s, p, 1));
  CK(cuStreamSynchronize(s));
  static float h[4][N];
  CK(cuMemcpyDtoH(h[k], p, N * 4));
  CK(cuMemFree(p));
  CK(cuStreamDestroy(s));
  return (void *)(long)(h[k][0] == 300 && h[k][N - 1] == 300);
}

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  signal(SIGALRM, on_alarm);
  setvbuf(stdout, 0, _IOLBF, 0);
  begin("context");
  ctx = context_open();
  end(1);
  begin("module");
  mod = module_open(argv[1]);
  add_kernel = function_of(mod, "add");
  CK(cuStreamCreate(&s1, CU_STREAM_NON_BLOCKING));
  CK(cuStreamCreate(&s2, CU_STREAM_NON_BLOCKING));
  end(1);
  begin("alloc 16 KiB");
  CK(cuMemAlloc(&buf, N * 4));
  end(buf != 0);
  printf("    address %llx\n", (long long)buf);
  begin("copy in, copy out (pageable)");
  fill(buf, 1);
  end(all(buf, 1));
  begin("first launch");
  CK(add(s1, buf, 2));
  CK(cuStreamSynchronize(s1));
  end(all(buf, 3));
  begin("launch, then a synchronous copy on the legacy stream");
  CK(add(0, buf, 1));
  end(all(buf, 4));
  begin("memset on a stream");
  CK(cuMemsetD32Async(buf, 0x40a00000, N, s1));
  CK(cuStreamSynchronize(s1));
  end(all(buf, 5));
  begin("synchronous memset");
  CK(cuMemsetD32(buf, 0x40c00000, N));
  end(all(buf, 6));
  begin("device copy");
  CUdeviceptr b2;
  CK(cuMemAlloc(&b2, 64 << 20));
  CK(cuMemcpyDtoD(b2, buf, N * 4));
  end(all(b2, 6));
  begin("device copy async, large");
  CK(cuMemcpyDtoDAsync(b2 + (32 << 20), b2, 32 << 20, s1));
  CK(cuStreamSynchronize(s1));
  end(all(b2 + (32 << 20), 6));
  begin("asynchronous pinned copies around a launch");
  float *pin;
  CK(cuMemAllocHost((void **)&pin, N * 4));
  for (int i = 0; i < N; i++) pin[i] = 10;
  CK(cuMemcpyHtoDAsync(buf, pin, N * 4, s1));
  CK(add(s1, buf, 1));
  CK(cuMemcpyDtoHAsync(pin, buf, N * 4, s1));
  CK(cuStreamSynchronize(s1));
  end(pin[0] == 11 && pin[N - 1] == 11);
  begin("the same 500 times");
  int ok = 1;
  for (int k = 0; k < 500; k++) {
    pin[5] = k;
    CK(cuMemcpyHtoDAsync(buf, pin, N * 4, s1));
    CK(add(s1, buf, 1));
    CK(cuMemcpyDtoHAsync(pin, buf, N * 4, s1));
    CK(cuStreamSynchronize(s1));
    ok &= pin[5] == k + 1;
  }
  end(ok);
  begin("copies of 4 B, 1 KiB, 1 MiB, 32 MiB");
  ok = 1;
  char *big = malloc(32 << 20);
  size_t sizes[] = {4, 1024, 1 << 20, 32 << 20};
  for (int k = 0; k < 4; k++) {
    memset(big, 17 + k, sizes[k]);
    CK(cuMemcpyHtoD(b2, big, sizes[k]));
    memset(big, 0, sizes[k]);
    CK(cuMemcpyDtoH(big, b2, sizes[k]));
    ok &= big[0] == 17 + k && big[sizes[k] - 1] == 17 + k;
  }
  end(ok);
  begin("events between streams");
  CUevent e, f;
  CK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  CK(cuEventCreate(&f, CU_EVENT_DISABLE_TIMING));
  fill(buf, 0);
  for (int k = 0; k < 200; k++) {
    CK(add(s1, buf, 1));
    CK(cuEventRecord(e, s1));
    CK(cuStreamWaitEvent(s2, e, 0));
    CK(add(s2, buf, 1));
    CK(cuEventRecord(f, s2));
    CK(cuStreamWaitEvent(s1, f, 0));
  }
  CK(cuStreamSynchronize(s1));
  end(all(buf, 400));
  begin("event time");
  CUevent x, y;
  CK(cuEventCreate(&x, 0));
  CK(cuEventCreate(&y, 0));
  CK(cuEventRecord(x, s1));
  for (int k = 0; k < 200; k++) CK(add(s1, buf, 0));
  CK(cuEventRecord(y, s1));
  CK(cuEventSynchronize(y));
  float ms = -1;
  CK(cuEventElapsedTime(&ms, x, y));
  end(ms > 0.05 && ms < 100);
  printf("    %.3f ms for 200 launches\n", ms);
  begin("legacy stream and a blocking stream");
  CUstream bl;
  CK(cuStreamCreate(&bl, 0));
  fill(buf, 0);
  for (int k = 0; k < 100; k++) {
    CK(add(bl, buf, 1));
    CK(add(0, buf, 1));
  }
  CK(cuStreamSynchronize(bl));
  end(all(buf, 200));
  begin("per-thread default stream");
  CK(add(CU_STREAM_PER_THREAD, buf, 1));
  CK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
  end(all(buf, 201));
  begin("host callback after launches");
  volatile int flag = 0;
  CK(add(s1, buf, 0));
  CK(cuLaunchHostFunc(s1, callback, (void *)&flag));
  CK(cuStreamSynchronize(s1));
  end(flag == 7);
  begin("parameters by extra");
  struct {
    CUdeviceptr p;
    float v;
    int n;
  } p = {buf, 9, N};
  size_t sz = sizeof p;
  void *ex[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &p, CU_LAUNCH_PARAM_BUFFER_SIZE, &sz, CU_LAUNCH_PARAM_END};
  fill(buf, 0);
  CK(cuLaunchKernel(function_of(mod, "add"), N / 128, 1, 1, 128, 1, 1, 0, s1, 0, ex));
  CK(cuStreamSynchronize(s1));
  end(all(buf, 9));
  begin("device global");
  CUdeviceptr g;
  size_t gs;
  int c = 0;
  CK(cuModuleGetGlobal(&g, &gs, mod, "counter"));
  c = 50;
  CK(cuMemcpyHtoD(g, &c, 4));
  CK(cuStreamSynchronize(0));
  void *o[] = {&buf};
  for (int k = 0; k < 3; k++) CK(cuLaunchKernel(function_of(mod, "bump"), 1, 1, 1, 1, 1, 1, 0, s1, o, 0));
  CK(cuStreamSynchronize(s1));
  CK(cuMemcpyDtoH(&c, g, 4));
  printf("    counter is %d, expected 53\n", c);
  end(c == 53);
  int many = getenv("SMOKE_LAUNCHES") ? atoi(getenv("SMOKE_LAUNCHES")) : 200000;
  begin("many launches without a wait");
  fill(buf, 0);
  for (int k = 0; k < many; k++) CK(add(s1, buf, 1));
  CK(cuStreamSynchronize(s1));
  end(all(buf, many));
  begin("500 allocations and frees");
  ok = 1;
  for (int k = 0; k < 500; k++) {
    CUdeviceptr q;
    CK(cuMemAlloc(&q, (k % 7 + 1) * 300000));
    CK(cuMemsetD8(q, k, 300000));
    CK(add(s1, buf, 0));
    CK(cuMemFree(q));
  }
  end(ok);
  begin("stream-ordered allocation");
  CUdeviceptr q;
  CK(cuMemAllocAsync(&q, N * 4, s1));
  CK(cuMemsetD32Async(q, 0, N, s1));
  CK(add(s1, q, 3));
  CK(cuStreamSynchronize(s1));
  ok = all(q, 3);
  CK(cuMemFreeAsync(q, s1));
  CK(cuStreamSynchronize(s1));
  end(ok);
  begin("pitched 2D copies");
  CUDA_MEMCPY2D c2 = {0};
  static char in[64 * 100], out[64 * 100];
  for (int i = 0; i < 6400; i++) in[i] = i * 31;
  c2.srcMemoryType = CU_MEMORYTYPE_HOST;
  c2.srcHost = in;
  c2.srcPitch = 100;
  c2.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  c2.dstDevice = b2;
  c2.dstPitch = 512;
  c2.WidthInBytes = 100;
  c2.Height = 64;
  CK(cuMemcpy2D(&c2));
  CUDA_MEMCPY2D d2 = {0};
  d2.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  d2.srcDevice = b2;
  d2.srcPitch = 512;
  d2.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  d2.dstDevice = b2 + (1 << 20);
  d2.dstPitch = 128;
  d2.WidthInBytes = 100;
  d2.Height = 64;
  CK(cuMemcpy2D(&d2));
  d2.srcDevice = b2 + (1 << 20);
  d2.srcPitch = 128;
  d2.dstMemoryType = CU_MEMORYTYPE_HOST;
  d2.dstHost = out;
  d2.dstPitch = 100;
  CK(cuMemcpy2D(&d2));
  end(!memcmp(in, out, sizeof in));
  begin("registered host memory");
  CK(cuMemHostRegister(big, 1 << 20, 0));
  memset(big, 3, 1 << 20);
  CK(cuMemcpyHtoDAsync(b2, big, 1 << 20, s1));
  CK(add(s1, buf, 0));
  CK(cuMemcpyDtoHAsync(big, b2, 1 << 20, s1));
  CK(cuStreamSynchronize(s1));
  CK(cuMemHostUnregister(big));
  end(big[77] == 3);
  begin("4 threads");
  pthread_t th[4];
  ok = 1;
  for (long k = 0; k < 4; k++) pthread_create(&th[k], 0, thread, (void *)k);
  for (int k = 0; k < 4; k++) {
    void *r;
    pthread_join(th[k], &r);
    ok &= r != 0;
  }
  end(ok);
  begin("a child that does not use CUDA");
  pid_t pid = fork();
  if (!pid) _exit(0);
  int st;
  waitpid(pid, &st, 0);
  CK(add(s1, buf, 0));
  CK(cuStreamSynchronize(s1));
  end(st == 0);
  begin("graph by capture");
  CUgraph gr;
  CUgraphExec ge;
  fill(buf, 0);
  CUresult captures = cuStreamBeginCapture(s1, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  if (captures == CUDA_ERROR_NOT_SUPPORTED) printf("    this driver does not capture\n");
  else {
    CK(captures);
    for (int k = 0; k < 5; k++) CK(add(s1, buf, 1));
    CK(cuStreamEndCapture(s1, &gr));
    CK(cuGraphInstantiate(&ge, gr, 0));
    CK(add(s1, buf, 1));
    for (int k = 0; k < 4; k++) CK(cuGraphLaunch(ge, s1));
    CK(add(s1, buf, 1));
    CK(cuStreamSynchronize(s1));
    end(all(buf, 22));
  }
  begin("free everything");
  CK(cuMemFree(b2));
  CK(cuMemFree(buf));
  CK(cuMemFreeHost(pin));
  CK(cuStreamDestroy(s2));
  CK(cuModuleUnload(mod));
  CK(cuCtxSynchronize());
  end(1);
  begin("primary context release");
  CK(cuDevicePrimaryCtxRelease(0));
  end(1);
  return bad != 0;
}
