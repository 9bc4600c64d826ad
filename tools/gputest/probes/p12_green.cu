// p12: green contexts, a partition of the SMs. On how many SMs does a function of the primary context run when it is launched on a
// stream of a green context, and what does a graph do? What do making one and moving a lane to it and back cost? How late is an
// urgent graph beside kernels that fill the chip, or a part of it? And what does the driver refuse?
#include "probe.h"

constexpr int WORDS = 16; // 512 SMs
// Blocks of 1,024 threads that take ns, so that they spread over all SMs that they may use.
__global__ void k_where(unsigned *seen, unsigned ns) {
  unsigned sm;
  asm volatile("mov.u32 %0, %smid;" : "=r"(sm));
  if (!threadIdx.x && sm < 32 * WORDS) atomicOr(&seen[sm / 32], 1u << (sm % 32));
  unsigned long long a, b;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(a));
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(b));
  while (b - a < ns);
}
// Reads and writes n times 16 bytes: what a partition does not divide, memory and the second-level cache.
__global__ void k_move(uint4 *to, const uint4 *from, size_t n) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (size_t)blockDim.x) to[i] = from[i];
}
__global__ void k_first(unsigned *seen) { // never launched but on a green stream: is it loaded for it?
  unsigned sm;
  asm volatile("mov.u32 %0, %smid;" : "=r"(sm));
  if (!threadIdx.x && sm < 32 * WORDS) atomicOr(&seen[sm / 32], 1u << (sm % 32));
}

static CUdevice dev;
static CUcontext primary;
static CUdeviceptr seen;
static unsigned sms, blocks, ns = 50000;

struct Part { // streams with NULL are the primary context's
  CUgreenCtx green = nullptr;
  CUcontext ctx = nullptr;
  CUstream s = nullptr;
  unsigned count = 0;
  double split = 0, create = 0, stream = 0; // us
};
static Part part(unsigned want, int priority) {
  Part p;
  CUdevResource all, mine;
  CUdevResourceDesc desc;
  unsigned groups = 1;
  double t = now();
  CK(cuDeviceGetDevResource(dev, &all, CU_DEV_RESOURCE_TYPE_SM));
  CK(cuDevSmResourceSplitByCount(&mine, &groups, &all, nullptr, 0, want));
  CK(cuDevResourceGenerateDesc(&desc, &mine, 1));
  p.split = now() - t;
  t = now();
  CK(cuGreenCtxCreate(&p.green, desc, dev, CU_GREEN_CTX_DEFAULT_STREAM));
  p.create = now() - t;
  t = now();
  CK(cuGreenCtxStreamCreate(&p.s, p.green, CU_STREAM_NON_BLOCKING, priority));
  p.stream = now() - t;
  CK(cuCtxFromGreenCtx(&p.ctx, p.green));
  p.count = mine.sm.smCount;
  return p;
}

// Clears what was seen, does what is to be looked at on s, and says on how many SMs it ran, or the error.
static void where(const char *what, CUstream s, const std::function<CUresult()> &f) {
  unsigned w[WORDS];
  int n = 0;
  CK(cuMemsetD32Async(seen, 0, WORDS, s));
  CUresult r = f(), y = cuStreamSynchronize(s);
  CK(cuMemcpyDtoHAsync(w, seen, sizeof w, s));
  CK(cuStreamSynchronize(s));
  for (unsigned v : w) n += __builtin_popcount(v);
  printf("  %-58s", what);
  if (r || y) printf("%s, then %s\n", ename(r), ename(y));
  else printf("%d SMs\n", n);
}
static CUresult launch(void *f, CUstream s) { // f: a CUfunction or a CUkernel
  void *a[] = {&seen, &ns};
  return cuLaunchKernel((CUfunction)f, blocks, 1, 1, 1024, 1, 1, 0, s, a, 0);
}
static CUgraphExec captured(CUfunction f, CUstream s) {
  CUgraph g;
  CUgraphExec e;
  CK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED));
  CK(launch(f, s));
  CK(cuStreamEndCapture(s, &g));
  CK(cuGraphInstantiateWithFlags(&e, g, 0));
  CK(cuGraphDestroy(g));
  return e;
}
// A graph of one node made by hand: of func, or of kern in ctx. cuda.h says of CUDA_KERNEL_NODE_PARAMS that ctx is ignored
// where func is set, as the executor sets it.
static CUresult noded(CUgraphExec *e, CUfunction func, CUkernel kern, CUcontext ctx) {
  CUDA_KERNEL_NODE_PARAMS p = {};
  void *a[] = {&seen, &ns};
  p.func = func;
  p.kern = kern;
  p.ctx = ctx;
  p.gridDimX = blocks;
  p.blockDimX = 1024;
  p.gridDimY = p.gridDimZ = p.blockDimY = p.blockDimZ = 1;
  p.kernelParams = a;
  CUgraph g;
  CUgraphNode n;
  CK(cuGraphCreate(&g, 0));
  CUresult r = cuGraphAddKernelNode(&n, g, nullptr, 0, &p);
  if (!r) r = cuGraphInstantiateWithFlags(e, g, 0);
  CK(cuGraphDestroy(g));
  return r;
}

static void places(CUstream plain, Part &p) {
  CUfunction f = FN(k_where);
  CUgraphExec a = captured(f, plain), b = captured(f, p.s), c = nullptr, d = nullptr;
  printf("partition of %u of %u SMs: a kernel of %u blocks runs on\n", p.count, sms, blocks);
  where("function, primary's stream", plain, [&] { return launch(f, plain); });
  where("function of the primary context, green stream", p.s, [&] { return launch(f, p.s); });
  where("the same, first launch of all (lazy loading)", p.s, [&] {
    void *v[] = {&seen};
    return cuLaunchKernel(FN(k_first), blocks, 1, 1, 1024, 1, 1, 0, p.s, v, 0);
  });
  where("graph captured on the primary's stream, launched there", plain, [&] { return cuGraphLaunch(a, plain); });
  where("graph captured on the primary's stream, on the green one", p.s, [&] { return cuGraphLaunch(a, p.s); });
  where("graph captured on the green stream, launched there", p.s, [&] { return cuGraphLaunch(b, p.s); });
  where("graph captured on the green stream, on the primary's", plain, [&] { return cuGraphLaunch(b, plain); });
  CUresult r = noded(&c, f, nullptr, p.ctx);
  if (r) printf("  graph with a node of the function, ctx = the green one: %s\n", ename(r));
  else where("graph: node of the function, ctx green; primary's stream", plain, [&] { return cuGraphLaunch(c, plain); });
  r = cuStreamWriteValue32(p.s, seen, 1, 0); // as a done word; the primary context is the current one
  printf("  %-58s%s, then %s\n", "memory operation, green stream", ename(r), ename(cuStreamSynchronize(p.s)));
  cudaKernel_t k;
  if (cudaGetKernel(&k, (const void *)k_where)) {
    printf("  no CUkernel\n");
    return;
  }
  where("CUkernel, green stream", p.s, [&] { return launch((void *)k, p.s); });
  r = noded(&d, nullptr, (CUkernel)k, p.ctx);
  if (r) printf("  graph with a node of the CUkernel, ctx = the green one: %s\n", ename(r));
  else where("graph: node of the CUkernel, ctx green; primary's stream", plain, [&] { return cuGraphLaunch(d, plain); });
}

// What a lane's move costs: an event on the stream that it leaves, a wait on the one to which it goes, a kernel there.
static void moves(CUstream from, CUstream to, const char *what) {
  CUevent e;
  CK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  CUfunction f = FN(k_empty);
  Stat cpu, all;
  for (int i = 0; i < 520; i++) {
    CK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, from, 0, 0));
    double a = now();
    CK(cuEventRecord(e, from));
    CK(cuStreamWaitEvent(to, e, 0));
    CK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, to, 0, 0));
    double b = now();
    CK(cuStreamSynchronize(to));
    if (i >= 20) {
      cpu.add(b - a);
      all.add(now() - a);
    }
  }
  CK(cuEventDestroy(e));
  printf("move %-24s calls %.1f/%.1f us, ", what, cpu.p50(), cpu.p99());
  printf("until the kernel is done %.1f/%.1f us\n", all.p50(), all.p99());
}

// What keeps the chip busy: kernels of 20 blocks of 1,024 threads an SM, ten rounds of blocks of us, or with us = 0
// copies of 512 MB.
constexpr size_t MOVED = 512u << 20;
static CUdeviceptr moved;
static void fill(CUstream s, unsigned us) {
  unsigned block = us * 1000, n = 20 * sms;
  CUdeviceptr to = moved + MOVED;
  size_t words = MOVED / 16;
  void *spin[] = {&seen, &block}, *move[] = {&to, &moved, &words};
  CK(cuLaunchKernel(us ? FN(k_where) : FN(k_move), n, 1, 1, 1024, 1, 1, 0, s, us ? spin : move, 0));
}

// A graph of twenty small kernels, one after the other, on the urgent stream every 2.5 ms (400/s), beside such kernels,
// kept three deep on the other stream: how long the graph takes, and how many of the others end in a second.
static void beside(const char *what, CUgraphExec graph, CUstream urgent, CUstream batch, unsigned us) {
  CUevent in[3];
  for (CUevent &e : in) CK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  Stat late;
  long done = 0, made = 0;
  auto one = [&] {
    fill(batch, us);
    CK(cuEventRecord(in[made++ % 3], batch));
  };
  double begin = now(), next = begin + 50e3, end = begin + 1e6; // 50 ms in, so that the chip is full
  while (now() < end) {
    while (batch && done < made && cuEventQuery(in[done % 3]) == CUDA_SUCCESS) done++;
    while (batch && made - done < 3) one();
    if (now() < next) continue;
    double t = now();
    CK(cuGraphLaunch(graph, urgent));
    CUresult r;
    while ((r = cuStreamQuery(urgent)) == CUDA_ERROR_NOT_READY)
      if (batch && cuEventQuery(in[done % 3]) == CUDA_SUCCESS) { // kept going: it must not run dry because the graph is late
        done++;
        one();
      }
    CK(r);
    late.add(now() - t);
    next = t + 2500;
  }
  double took = (now() - begin) * 1e-6;
  if (batch) CK(cuStreamSynchronize(batch));
  for (CUevent e : in) CK(cuEventDestroy(e));
  printf("  %-32s %4zu times, %.0f/%.0f us", what, late.v.size(), late.p50(), late.p99());
  if (batch) printf("; the others: %.0f kernels/s", done / took);
  printf("\n");
}

// What the driver refuses, a question each. Some of them broke the driver rather than be answered (driver 13.0, run of 2026-11-23: all of
// them in one process ended it with a segmentation fault, before the first line was out), so each has a process of its own.
static const char *const QUESTIONS[] = {
    "0 groups",          "more SMs than there are", "all SMs",  "a group split again",
    "no resources",      "no flags",                "device 99", "a blocking stream",
    "launch on a stream whose context was destroyed", "destroy such a stream",
};
static int refusal(int which) {
  CUdevResource all, out[2] = {}, rest = {};
  CUdevResourceDesc desc = nullptr;
  CUgreenCtx g = nullptr;
  CUstream s = nullptr;
  CUresult r = CUDA_SUCCESS;
  CK(cuMemAlloc(&seen, WORDS * 4));
  CK(cuDeviceGetDevResource(dev, &all, CU_DEV_RESOURCE_TYPE_SM));
  unsigned n = which ? 1 : 0;
  if (which < 3) {
    r = cuDevSmResourceSplitByCount(out, &n, &all, &rest, 0, which == 0 ? 16 : all.sm.smCount + (which == 1));
    printf("%s: %u groups of %u, %u left\n", ename(r), n, n && !r ? out[0].sm.smCount : 0, r ? 0 : rest.sm.smCount);
    return 0;
  }
  CK(cuDevSmResourceSplitByCount(out, &n, &all, nullptr, 0, 32));
  switch (which) {
    case 3: n = 1; r = cuDevSmResourceSplitByCount(out + 1, &n, out, nullptr, 0, 8); break;
    case 4: r = cuDevResourceGenerateDesc(&desc, out, 0); break;
    default:
      CK(cuDevResourceGenerateDesc(&desc, out, 1));
      if (which == 5 || which == 6) {
        r = cuGreenCtxCreate(&g, desc, which == 5 ? dev : 99, which == 5 ? 0 : CU_GREEN_CTX_DEFAULT_STREAM);
        break;
      }
      CK(cuGreenCtxCreate(&g, desc, dev, CU_GREEN_CTX_DEFAULT_STREAM));
      if (which == 7) {
        r = cuGreenCtxStreamCreate(&s, g, CU_STREAM_DEFAULT, 0);
        break;
      }
      CK(cuGreenCtxStreamCreate(&s, g, CU_STREAM_NON_BLOCKING, 0));
      CK(cuGreenCtxDestroy(g));
      void *a[] = {&seen, &ns};
      r = which == 8 ? cuLaunchKernel(FN(k_where), 1, 1, 1, 32, 1, 1, 0, s, a, 0) : cuStreamDestroy(s);
  }
  printf("%s\n", ename(r));
  return 0;
}
static void refusals(char *self) {
  for (int i = 0; i < (int)(sizeof QUESTIONS / sizeof *QUESTIONS); i++) {
    printf("refusal: %s: ", QUESTIONS[i]);
    fflush(stdout);
    char which[8];
    snprintf(which, sizeof which, "%d", i);
    pid_t child = fork();
    if (!child) {
      execl("/proc/self/exe", self, "refusal", which, (char *)nullptr);
      _exit(127);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0) printf("no process for it\n");
    else if (WIFSIGNALED(status)) printf("the driver ended by signal %d\n", WTERMSIG(status));
    else if (WEXITSTATUS(status)) printf("exit code %d\n", WEXITSTATUS(status));
  }
}

int main(int argc, char **argv) {
  setvbuf(stdout, 0, _IOLBF, 0);
  primary = ctx_open();
  CK(cuDeviceGet(&dev, 0));
  if (argc > 2 && !strcmp(argv[1], "refusal")) return refusal(atoi(argv[2]));
  CUdevResource all;
  CUresult r = cuDeviceGetDevResource(dev, &all, CU_DEV_RESOURCE_TYPE_SM);
  if (r) {
    printf("this driver has no green contexts: %s\n", ename(r));
    return 1;
  }
  sms = all.sm.smCount;
  blocks = 8 * sms;
  int version = 0, least, most;
  CK(cuDriverGetVersion(&version));
  CK(cuCtxGetStreamPriorityRange(&least, &most));
  printf("driver %d: %u SMs; asked for, given:", version, sms);
  for (unsigned want : {1u, 8u, 9u, 33u, sms / 2, 3 * sms / 4, sms - 1}) {
    CUdevResource g;
    unsigned n = 1;
    r = cuDevSmResourceSplitByCount(&g, &n, &all, nullptr, 0, want);
    if (r || !n) printf(" %u: %s (%u groups)", want, ename(r), n);
    else printf(" %u: %u", want, g.sm.smCount);
  }
  printf("\n");
  CK(cuMemAlloc(&seen, WORDS * 4));
  CUdeviceptr work;
  CK(cuMemAlloc(&work, 32 * 128 * 4));
  CK(cuMemAlloc(&moved, 2 * MOVED));
  // The allocations are the null stream's; nothing below runs before they are there, and cleared.
  CK(cuMemsetD32(work, 0, 32 * 128));
  CK(cuMemsetD32(moved, 0, 2 * MOVED / 4));
  CK(cuCtxSynchronize());
  CUstream urgent, plain;
  CK(cuStreamCreateWithPriority(&urgent, CU_STREAM_NON_BLOCKING, most));
  CK(cuStreamCreateWithPriority(&plain, CU_STREAM_NON_BLOCKING, least));

  Part quarter = part(sms / 4, least), half = part(sms / 2, least), three = part(3 * sms / 4, least);
  for (Part *p : {&quarter, &half, &three})
    printf("%u SMs: split and description %.0f us, context %.0f us, stream %.0f us\n", p->count, p->split, p->create, p->stream);
  CUgreenCtx g = nullptr;
  int priority = 99;
  CUresult rs = cuStreamGetGreenCtx(half.s, &g), rp = cuStreamGetPriority(half.s, &priority);
  printf("the stream's green context: %s, %s; its priority %d (%s; the least is %d); ", ename(rs),
         g == half.green ? "the same" : "another", priority, ename(rp), least);
  printf("its context is %s\n", half.ctx == primary ? "the primary's handle" : "one of its own");
  for (Part *p : {&quarter, &half, &three}) places(plain, *p);

  CUevent e;
  CK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
  CK(spin_on(FN(k_spin), plain, 100000000ull, 0, 0));
  CK(cuEventRecord(e, plain));
  Part during = part(sms / 2, least);
  r = cuEventQuery(e);
  printf("made while a kernel of 100 ms runs: context %.0f us, stream %.0f us; it %s\n", during.create, during.stream,
         r == CUDA_ERROR_NOT_READY ? "still ran: nothing waited for it" : "had ended");
  CK(cuStreamSynchronize(plain));
  CK(cuEventDestroy(e));

  moves(urgent, plain, "primary to primary:");
  moves(plain, half.s, "primary to green:");
  moves(half.s, plain, "green to primary:");
  moves(half.s, three.s, "green to another green:");

  CUgraph made;
  CUgraphExec graph;
  int iters = 500;
  void *args[] = {&work, &iters};
  CK(cuStreamBeginCapture(urgent, CU_STREAM_CAPTURE_MODE_RELAXED));
  for (int i = 0; i < 20; i++) CK(cuLaunchKernel(FN(k_work), 32, 1, 1, 128, 1, 1, 0, urgent, args, 0));
  CK(cuStreamEndCapture(urgent, &made));
  CK(cuGraphInstantiateWithFlags(&graph, made, 0));
  fill(plain, 0); // loads it
  CK(cuStreamSynchronize(plain));
  for (unsigned us : {20u, 200u, 0u}) {
    printf("a graph of 20 small kernels every 2.5 ms, on an urgent stream of the whole chip, beside ");
    if (us) printf("kernels with blocks of %u us (p50/p99):\n", us);
    else printf("copies of 512 MB by kernels (p50/p99):\n");
    beside("nothing", graph, urgent, nullptr, us);
    beside("least priority, whole chip", graph, urgent, plain, us);
    char what[64];
    for (Part *p : {&three, &half, &quarter}) {
      snprintf(what, sizeof what, "green stream, %u SMs", p->count);
      beside(what, graph, urgent, p->s, us);
    }
  }
  refusals(argv[0]);
  return 0;
}
