// errors: what the driver says to bad calls. usage: errors CUBIN. Prints "name: code" lines that are compared between a native run
// and one under Heddle. Every group is a process of its own, because a fault poisons its context and a bad handle may crash it.
#include "program.h"
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>

static CUmodule mod;
static CUstream stream;
static CUdeviceptr buf;
static CUcontext ctx;
static const char *group;
#define SAY(name, call)                       \
  do {                                        \
    int r_ = (int)(call);                     \
    printf("%s / %s: %d\n", group, name, r_); \
    fflush(stdout);                           \
  } while (0)
static CUresult launch(const char *k, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned sh,
                       void **a, void **x) {
  return cuLaunchKernel(function_of(mod, k), gx, gy, gz, bx, by, bz, sh, stream, a, x);
}

static void shapes(void) {
  float v = 1;
  int n = 16;
  void *a[] = {&buf, &v, &n};
  void *p[] = {&buf};
  SAY("grid 0", launch("add", 0, 1, 1, 32, 1, 1, 0, a, 0));
  SAY("grid y 0", launch("add", 1, 0, 1, 32, 1, 1, 0, a, 0));
  SAY("grid x 2^31", launch("add", 1u << 31, 1, 1, 32, 1, 1, 0, a, 0));
  SAY("grid y 65536", launch("add", 1, 65536, 1, 32, 1, 1, 0, a, 0));
  SAY("grid z 65536", launch("add", 1, 1, 65536, 32, 1, 1, 0, a, 0));
  SAY("grid y 65535", launch("add", 1, 65535, 1, 32, 1, 1, 0, a, 0));
  SAY("block 0", launch("add", 1, 1, 1, 0, 1, 1, 0, a, 0));
  SAY("block 1025", launch("add", 1, 1, 1, 1025, 1, 1, 0, a, 0));
  SAY("block 32x33", launch("add", 1, 1, 1, 32, 33, 1, 0, a, 0));
  SAY("block z 65", launch("add", 1, 1, 1, 1, 1, 65, 0, a, 0));
  SAY("block y 1025", launch("add", 1, 1, 1, 1, 1025, 1, 0, a, 0));
  SAY("launch bounds 128 with 256", launch("bounded", 1, 1, 1, 256, 1, 1, 0, p, 0));
  SAY("launch bounds 128 with 128", launch("bounded", 1, 1, 1, 128, 1, 1, 0, p, 0));
  SAY("shared 49152", launch("shared_dyn", 1, 1, 1, 32, 1, 1, 49152, p, 0));
  SAY("shared 49153 without the attribute", launch("shared_dyn", 1, 1, 1, 32, 1, 1, 49153, p, 0));
  SAY("shared 1 GiB", launch("shared_dyn", 1, 1, 1, 32, 1, 1, 1u << 30, p, 0));
  CUfunction f = function_of(mod, "shared_dyn");
  SAY("attribute shared 200 KiB", cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 200 << 10));
  SAY("shared 200 KiB after it", launch("shared_dyn", 1, 1, 1, 32, 1, 1, 200 << 10, p, 0));
  SAY("attribute shared 300 KiB", cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 300 << 10));
  SAY("attribute of a wrong number", cuFuncSetAttribute(f, (CUfunction_attribute)99, 1));
  int val;
  SAY("get attribute of a wrong number", cuFuncGetAttribute(&val, (CUfunction_attribute)99, f));
  SAY("get attribute into null", cuFuncGetAttribute(0, CU_FUNC_ATTRIBUTE_NUM_REGS, f));
  SAY("null function", cuLaunchKernel(0, 1, 1, 1, 32, 1, 1, 0, stream, 0, 0));
  struct {
    CUdeviceptr p;
    float v;
    int n;
  } b = {buf, 1, 16};
  size_t sz = sizeof b;
  void *x[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &b, CU_LAUNCH_PARAM_BUFFER_SIZE, &sz, CU_LAUNCH_PARAM_END};
  SAY("extra", launch("add", 1, 1, 1, 32, 1, 1, 0, 0, x));
  SAY("kernelParams and extra", launch("add", 1, 1, 1, 32, 1, 1, 0, a, x));
  SAY("parameters missing", launch("add", 1, 1, 1, 32, 1, 1, 0, 0, 0));
  sz = 8;
  SAY("extra too short", launch("add", 1, 1, 1, 32, 1, 1, 0, 0, x));
  sz = sizeof b;
  void *y[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &b, CU_LAUNCH_PARAM_END};
  SAY("extra without a size", launch("add", 1, 1, 1, 32, 1, 1, 0, 0, y));
  SAY("cooperative, too many blocks", cuLaunchCooperativeKernel(function_of(mod, "add"), 100000, 1, 1, 1024, 1, 1, 0, stream, a));
  SAY("cooperative", cuLaunchCooperativeKernel(function_of(mod, "add"), 4, 1, 1, 32, 1, 1, 0, stream, a));
  CUlaunchAttribute at = {0};
  at.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  CUlaunchConfig c = {0};
  c.gridDimX = 4;
  c.gridDimY = c.gridDimZ = c.blockDimY = c.blockDimZ = 1;
  c.blockDimX = 32;
  c.hStream = stream;
  c.attrs = &at;
  c.numAttrs = 1;
  unsigned dims[] = {2, 3, 32, 0};
  const char *nm[] = {"cluster 2", "cluster 3 in a grid of 4", "cluster 32", "cluster 0"};
  for (int i = 0; i < 4; i++) {
    at.value.clusterDim.x = dims[i];
    at.value.clusterDim.y = at.value.clusterDim.z = 1;
    SAY(nm[i], cuLaunchKernelEx(&c, function_of(mod, "add"), a, 0));
  }
  at.id = (CUlaunchAttributeID)77;
  SAY("launch attribute 77", cuLaunchKernelEx(&c, function_of(mod, "add"), a, 0));
  SAY("launch config null", cuLaunchKernelEx(0, function_of(mod, "add"), a, 0));
  SAY("still usable", launch("add", 1, 1, 1, 32, 1, 1, 0, a, 0));
  SAY("synchronise", cuStreamSynchronize(stream));
}

static void memory(void) {
  CUdeviceptr p, q, base;
  size_t sz;
  char host[4096];
  unsigned t = 0;
  static char big[1 << 20];
  CK(cuMemAlloc(&p, 64 << 20));
  CK(cuMemAlloc(&q, 4096));
  SAY("alloc 0", cuMemAlloc(&base, 0));
  SAY("alloc 1 PiB", cuMemAlloc(&base, 1ull << 50));
  SAY("alloc into null", cuMemAlloc(0, 16));
  SAY("address range of the middle", cuMemGetAddressRange(&base, &sz, p + 12345));
  SAY("its base is right", base == p && sz == 64 << 20);
  SAY("memory type", cuPointerGetAttribute(&t, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p + 5));
  SAY("memory type is", t);
  SAY("memory type of malloc", cuPointerGetAttribute(&t, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)big));
  SAY("free of the middle", cuMemFree(p + 256));
  SAY("free of a host pointer", cuMemFree((CUdeviceptr)big));
  SAY("free of null", cuMemFree(0));
  SAY("free", cuMemFree(p));
  SAY("free again", cuMemFree(p));
  SAY("address range of freed", cuMemGetAddressRange(&base, &sz, p));
  SAY("memory type of freed", cuPointerGetAttribute(&t, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p));
  SAY("copy to freed", cuMemcpyHtoD(p, host, 16));
  SAY("copy from freed", cuMemcpyDtoH(host, p, 16));
  SAY("copy to null", cuMemcpyHtoD(0, host, 16));
  SAY("copy from null", cuMemcpyDtoH(host, 0, 16));
  SAY("copy of 0 bytes to null", cuMemcpyHtoD(0, host, 0));
  SAY("device copy from freed", cuMemcpyDtoD(q, p, 16));
  SAY("device copy async to freed", cuMemcpyDtoDAsync(p, q, 16, stream));
  SAY("memset null", cuMemsetD8(0, 1, 16));
  SAY("memset freed", cuMemsetD8(p, 1, 16));
  SAY("memset async freed", cuMemsetD8Async(p, 1, 16, stream));
  SAY("memset of 0 bytes", cuMemsetD8(q, 1, 0));
  SAY("memset misaligned", cuMemsetD32(q + 1, 1, 4));
  SAY("memset 2D pitch below width", cuMemsetD2D8(q, 8, 1, 64, 2));
  SAY("memset 2D", cuMemsetD2D8(q, 128, 1, 64, 2));
  SAY("memset D16", cuMemsetD16(q, 7, 100));
  SAY("memset host pointer", cuMemsetD8((CUdeviceptr)big, 1, 16));
  SAY("register", cuMemHostRegister(big, sizeof big, 0));
  SAY("register again", cuMemHostRegister(big, sizeof big, 0));
  SAY("unregister", cuMemHostUnregister(big));
  SAY("unregister again", cuMemHostUnregister(big));
  SAY("free host of malloc", cuMemFreeHost(big));
  SAY("pitch of width 0", cuMemAllocPitch(&base, &sz, 0, 4, 4));
  SAY("pitch element 3", cuMemAllocPitch(&base, &sz, 64, 4, 3));
  SAY("pitch", cuMemAllocPitch(&base, &sz, 100, 4, 4));
  CUDA_MEMCPY2D c = {0};
  c.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  c.srcDevice = q;
  c.srcPitch = 32;
  c.dstMemoryType = CU_MEMORYTYPE_HOST;
  c.dstHost = host;
  c.dstPitch = 64;
  c.WidthInBytes = 48;
  c.Height = 2;
  SAY("2D copy wider than its pitch", cuMemcpy2D(&c));
  c.srcPitch = 64;
  SAY("2D copy", cuMemcpy2D(&c));
  SAY("async alloc", cuMemAllocAsync(&base, 1 << 20, stream));
  SAY("async free", cuMemFreeAsync(base, stream));
  SAY("async free of null", cuMemFreeAsync(0, stream));
  SAY("synchronise", cuCtxSynchronize());
  SAY("free q", cuMemFree(q));
}

static void code(void) {
  CUmodule m;
  CUfunction f;
  CUdeviceptr g;
  size_t n;
  SAY("image garbage", cuModuleLoadData(&m, "this is no image at all, not even PTX"));
  SAY("image empty", cuModuleLoadData(&m, ""));
  SAY("image null", cuModuleLoadData(&m, 0));
  SAY("PTX with an error", cuModuleLoadData(&m, ".version 7.0\n.target sm_70\n.address_size 64\n.entry k() { nonsense; }\n"));
  char cut[256] = "\177ELF\2\1\1";
  SAY("ELF cut short", cuModuleLoadData(&m, cut));
  SAY("PTX good", cuModuleLoadData(&m,
                                   ".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry k(.param .u64 p) { .reg .b64 "
                                   "%r; ld.param.u64 %r, [p]; st.global.u32 [%r], 42; ret; }\n"));
  CK(cuModuleGetFunction(&f, m, "k"));
  void *a[] = {&buf};
  SAY("PTX launch", cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, stream, a, 0));
  int v = 0;
  SAY("PTX copy", cuStreamSynchronize(stream) || cuMemcpyDtoH(&v, buf, 4));
  SAY("PTX value", v);
  SAY("unload", cuModuleUnload(m));
  SAY("function missing", cuModuleGetFunction(&f, mod, "no_such_kernel"));
  SAY("function name null", cuModuleGetFunction(&f, mod, 0));
  SAY("global missing", cuModuleGetGlobal(&g, &n, mod, "no_such_global"));
  SAY("global", cuModuleGetGlobal(&g, &n, mod, "counter"));
  SAY("global size", n);
  int c = 0;
  SAY("global read", cuMemcpyDtoH(&c, g, 4));
  SAY("global value", c);
  CUfunction b = function_of(mod, "bump");
  void *o[] = {&buf};
  for (int i = 0; i < 2; i++) CK(cuLaunchKernel(b, 1, 1, 1, 1, 1, 1, 0, stream, o, 0));
  SAY("bump", cuStreamSynchronize(stream));
  CK(cuMemcpyDtoH(&v, buf, 4));
  SAY("bump value", v);
  CK(cuMemcpyDtoH(&c, g, 4));
  SAY("global after it", c);
  c = 100;
  SAY("global write", cuMemcpyHtoD(g, &c, 4));
  CK(cuStreamSynchronize(0));
  CK(cuLaunchKernel(b, 1, 1, 1, 1, 1, 1, 0, stream, o, 0));
  CK(cuStreamSynchronize(stream));
  CK(cuMemcpyDtoH(&v, buf, 4));
  SAY("bump after the write", v);
  SAY("constant", cuModuleGetGlobal(&g, &n, mod, "scale"));
  int s[4] = {1, 10, 3, 4};
  SAY("constant write", cuMemcpyHtoD(g, s, 16));
  CK(cuStreamSynchronize(0));
  CK(cuLaunchKernel(b, 1, 1, 1, 1, 1, 1, 0, stream, o, 0));
  CK(cuStreamSynchronize(stream));
  CK(cuMemcpyDtoH(&v, buf, 4));
  SAY("bump after the constant's write", v);
  CUdeviceptr r;
  CUmodule none = 0;
  SAY("global of a null module", cuModuleGetGlobal(&r, &n, none, "counter"));
}

static void order(void) {
  CUevent e, d;
  float ms;
  CUstream s2 = 0;
  int *flag;
  CK(cuMemHostAlloc((void **)&flag, 64, CU_MEMHOSTALLOC_DEVICEMAP));
  *flag = 0;
  CUdeviceptr fp;
  SAY("host alloc device pointer", cuMemHostGetDevicePointer(&fp, flag, 0));
  CK(cuEventCreate(&e, 0));
  CK(cuEventCreate(&d, CU_EVENT_DISABLE_TIMING));
  SAY("query an event never recorded", cuEventQuery(e));
  SAY("synchronise on it", cuEventSynchronize(e));
  SAY("elapsed of events never recorded", cuEventElapsedTime(&ms, e, e));
  SAY("wait on it", cuStreamWaitEvent(stream, e, 0));
  CK(cuStreamSynchronize(stream));
  SAY("stream query idle", cuStreamQuery(stream));
  void *a[] = {&fp};
  SAY("endless kernel", cuLaunchKernel(function_of(mod, "endless"), 1, 1, 1, 1, 1, 1, 0, stream, a, 0));
  SAY("record behind it", cuEventRecord(e, stream));
  usleep(20000);
  SAY("stream query busy", cuStreamQuery(stream));
  SAY("event query busy", cuEventQuery(e));
  SAY("elapsed while busy", cuEventElapsedTime(&ms, e, e));
  *(volatile int *)flag = 1;
  SAY("synchronise", cuStreamSynchronize(stream));
  SAY("event query", cuEventQuery(e));
  SAY("elapsed", cuEventElapsedTime(&ms, e, e));
  CK(cuEventRecord(d, stream));
  CK(cuStreamSynchronize(stream));
  SAY("elapsed without timing", cuEventElapsedTime(&ms, e, d));
  SAY("stream flags wrong", cuStreamCreate(&s2, 77));
  SAY("event flags wrong", cuEventCreate(&d, 0x4000));
  SAY("stream into null", cuStreamCreate(0, 0));
  SAY("record null event", cuEventRecord(0, stream));
  SAY("priority out of range", cuStreamCreateWithPriority(&s2, 0, -100));
  SAY("limit wrong", cuCtxSetLimit((CUlimit)99, 1));
  SAY("wait value misaligned", cuStreamWaitValue32(stream, buf + 1, 0, 0));
  SAY("destroy null stream", cuStreamDestroy(0));
  SAY("destroy", cuStreamDestroy(s2));
  SAY("destroy event", cuEventDestroy(e));
  SAY("context flags", cuCtxSynchronize());
}

static void no_context(void) {
  CUdeviceptr p;
  CUfunction f = function_of(mod, "empty");
  CK(cuCtxSetCurrent(0));
  SAY("alloc without a context", cuMemAlloc(&p, 16));
  SAY("synchronise without a context", cuCtxSynchronize());
  SAY("launch without a context", cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0));
  CK(cuCtxSetCurrent(ctx));
  SAY("alloc with it", cuMemAlloc(&p, 16));
}

// A fault, then every call that must report it, then a reset and a new life.
static void fault(const char *what, const char *kernel, CUdeviceptr bad) {
  char n[96], word[16];
  void *a[] = {&bad, &(int){7}};
  CUevent e;
  CUfunction next = function_of(mod, "empty");  // looked up before: nothing can be afterwards
  CK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
#define F(call_name, call)                            \
  do {                                                \
    snprintf(n, sizeof n, "%s, %s", what, call_name); \
    SAY(n, call);                                     \
  } while (0)
  F("launch", cuLaunchKernel(function_of(mod, kernel), 1, 1, 1, 1, 1, 1, 0, stream, a, 0));
  F("synchronise", cuStreamSynchronize(stream));
  F("synchronise again", cuStreamSynchronize(stream));
  F("stream query", cuStreamQuery(stream));
  F("next launch", cuLaunchKernel(next, 1, 1, 1, 1, 1, 1, 0, stream, 0, 0));
  F("copy", cuMemcpyDtoH(word, buf, 4));
  F("memset", cuMemsetD8(buf, 0, 4));
  CUdeviceptr p;
  F("alloc", cuMemAlloc(&p, 16));
  F("free", cuMemFree(buf));
  F("event record", cuEventRecord(e, stream));
  F("event query", cuEventQuery(e));
  F("context synchronise", cuCtxSynchronize());
  CUdevice d = 0;
  F("primary reset", cuDevicePrimaryCtxReset(d));
  CUcontext c;
  F("retain again", cuDevicePrimaryCtxRetain(&c, d));
  F("set current", cuCtxSetCurrent(c));
  F("alloc after the reset", cuMemAlloc(&p, 16));
  F("memset after the reset", cuMemsetD8(p, 1, 16));
}
static void fault_null(void) { fault("store to null", "store", 0); }
static void fault_wild(void) { fault("store to a wild address", "store", 0x7f0000000000ull); }
static void fault_freed(void) {
  CUdeviceptr p;
  CK(cuMemAlloc(&p, 64 << 20));
  CK(cuMemFree(p));
  fault("store to freed memory", "store", p);
}
static void fault_align(void) { fault("misaligned store", "misaligned", buf); }
static void fault_trap(void) { fault("trap", "trap", 0); }

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  struct {
    const char *n;
    void (*f)(void);
  } g[] = {{"shapes", shapes},          {"memory", memory},   {"code", code},       {"order", order},
           {"no context", no_context},  {"null", fault_null}, {"wild", fault_wild}, {"freed", fault_freed},
           {"misaligned", fault_align}, {"trap", fault_trap}};
  for (unsigned i = 0; i < sizeof g / sizeof *g; i++) {
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
      group = g[i].n;
      ctx = context_open();
      mod = module_open(argv[1]);
      CK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
      CK(cuMemAlloc(&buf, 1 << 20));
      g[i].f();
      fflush(stdout);
      _exit(0);
    }
    int st = 0, waited = 0;
    while (waitpid(pid, &st, WNOHANG) != pid) {
      usleep(10000);
      if (++waited == 1500) {
        kill(pid, SIGKILL);
        printf("group %s: hang\n", g[i].n);
      }
    }
    if (WIFSIGNALED(st) && WTERMSIG(st) != SIGKILL) {
      printf("group %s: signal %d\n", g[i].n, WTERMSIG(st));
    } else if (!WIFSIGNALED(st)) printf("group %s ends: %d\n", g[i].n, WEXITSTATUS(st));
  }
  return 0;
}
