// p02: stream memory operations on the legacy stream, (CUstream)1 and (CUstream)2, and their order against blocking streams.
#include "probe.h"
int main() {
  setvbuf(stdout, 0, _IOLBF, 0);
  Sh *sh = shm_make();
  ctx_open();
  shm_register(sh);
  CUfunction f = FN(k_spin), e = FN(k_empty);
  CUstream bl, nb;
  CK(cuStreamCreate(&bl, 0));
  CK(cuStreamCreate(&nb, CU_STREAM_NON_BLOCKING));
  auto at = [&](int i) { return (CUdeviceptr)&sh->word[i]; };
  CK(spin_on(f, bl, 1000, 0, 0));
  CK(cuLaunchKernel(e, 1, 1, 1, 32, 1, 1, 0, bl, 0, 0));
  CK(cuCtxSynchronize());
  struct {
    const char *n;
    CUstream s;
  } S[] = {{"0", 0}, {"legacy(1)", (CUstream)1}, {"per-thread(2)", (CUstream)2}, {"blocking", bl}, {"non-blocking", nb}};
  for (auto &x : S) {
    sh->word[0] = 0;
    CUresult w = cuStreamWriteValue32(x.s, at(0), 7, 0);
    bool came = !w && spin_until(sh->word[0], 7, 1);
    sh->word[1] = 0;
    sh->word[2] = 0;
    CUresult q = cuStreamWaitValue32(x.s, at(1), 1, CU_STREAM_WAIT_VALUE_GEQ);
    CUresult w2 = cuStreamWriteValue32(x.s, at(2), 1, 0);
    usleep(3000);
    bool held = sh->word[2] == 0;
    sh->word[1] = 1;
    bool freed = spin_until(sh->word[2], 1, 1);
    printf("stream %-14s write: %s%s | wait: %s, later write held: %s, came after the CPU wrote: %s (%s)\n", x.n, ename(w),
           came ? " seen" : " NOT seen", ename(q), held ? "yes" : "NO", freed ? "yes" : "NO", ename(w2));
  }
  CK(cuCtxSynchronize());
  // Is a write on stream B ordered after a 5 ms kernel on stream A?
  auto order = [&](const char *n, CUstream A, CUstream B) {
    sh->word[3] = sh->word[4] = 0;
    CK(spin_on(f, A, 5000000, at(3), 1));
    CK(cuStreamWriteValue32(B, at(4), 1, 0));
    double t = now();
    bool ok = spin_until(sh->word[4], 1, 1);
    bool after = sh->word[3] == 1;
    printf("write on %-22s : %s (%.1f ms)\n", n,
           !ok     ? "never came"
           : after ? "ordered after the kernel"
                   : "NOT ordered",
           (now() - t) / 1e3);
    CK(cuCtxSynchronize());
  };
  order("0 after blocking", bl, 0);
  order("0 after non-blocking", nb, 0);
  order("0 after per-thread", (CUstream)2, 0);
  order("blocking after 0", 0, bl);
  order("per-thread after 0", 0, (CUstream)2);
  order("per-thread after blocking", bl, (CUstream)2);
  order("non-blocking after 0", 0, nb);
  // Does a pending wait on A hold a kernel on B?
  auto hold = [&](const char *n, CUstream A, CUstream B) {
    sh->word[5] = sh->word[6] = 0;
    CK(cuStreamWaitValue32(A, at(5), 1, CU_STREAM_WAIT_VALUE_EQ));
    CK(spin_on(f, B, 1000, at(6), 1));
    usleep(3000);
    bool h = sh->word[6] == 0;
    sh->word[5] = 1;
    CK(cuCtxSynchronize());
    printf("pending wait on %-22s : %s\n", n, h ? "holds it" : "does not hold it");
  };
  hold("0 / kernel blocking", 0, bl);
  hold("0 / kernel non-block.", 0, nb);
  hold("0 / kernel per-thread", 0, (CUstream)2);
  hold("blocking / kernel on 0", bl, 0);
  hold("non-block. / kernel 0", nb, 0);
  hold("blocking / blocking2", bl, nb);
  // A pending wait on the legacy stream and a synchronous pageable copy from the same thread would deadlock: check a copy on a
  // non-blocking stream instead.
  CUdeviceptr p;
  CK(cuMemAlloc(&p, 65536));
  sh->word[7] = 0;
  CK(cuStreamWaitValue32(nb, at(7), 1, CU_STREAM_WAIT_VALUE_EQ));
  char b[4096];
  double t = now();
  CK(cuMemcpyDtoH(b, p, 4096));
  printf("cuMemcpyDtoH beside a pending wait on a non-blocking stream: %.0f us\n", now() - t);
  sh->word[7] = 1;
  CK(cuCtxSynchronize());
  // Batch form and flags.
  CUstreamBatchMemOpParams bp[3] = {};
  for (int i = 0; i < 3; i++) {
    bp[i].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    bp[i].writeValue.address = at(8 + i);
    bp[i].writeValue.value = 5;
  }
  CUresult r = cuStreamBatchMemOp(0, 3, bp, 0);
  printf("cuStreamBatchMemOp x3 on 0: %s, seen: %d\n", ename(r), spin_until(sh->word[10], 5, 1));
  Stat b3 = timed(2000, 50, [&] { CK(cuStreamBatchMemOp(nb, 3, bp, 0)); }),
       w1 = timed(2000, 50, [&] { CK(cuStreamWriteValue32(nb, at(8), 5, 0)); }),
       w0 = timed(2000, 50, [&] { CK(cuStreamWriteValue32(0, at(8), 5, 0)); }),
       wn = timed(2000, 50, [&] { cuStreamWriteValue32(nb, at(8), 5, CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER); });
  printf("CPU us a call: batch of 3 %.2f, write %.2f, write on 0 %.2f, write without barrier %.2f (%s)\n", b3.p50(), w1.p50(),
         w0.p50(), wn.p50(), ename(cuStreamWriteValue32(nb, at(8), 5, CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER)));
  // Does capture take them? Does cuStreamQuery/Synchronize on 0 while blocked behave?
  CUgraph g;
  CK(cuCtxSynchronize());
  CK(cuStreamBeginCapture(nb, CU_STREAM_CAPTURE_MODE_RELAXED));
  r = cuStreamWriteValue32(nb, at(11), 1, 0);
  CUresult r2 = cuStreamEndCapture(nb, &g);
  printf("write during capture: %s, end %s\n", ename(r), ename(r2));
  sh->word[12] = 0;
  CK(cuStreamWaitValue32(bl, at(12), 1, CU_STREAM_WAIT_VALUE_EQ));
  printf("cuStreamQuery while blocked: on it %s, on 0 %s\n", ename(cuStreamQuery(bl)), ename(cuStreamQuery(0)));
  sh->word[12] = 1;
  CK(cuCtxSynchronize());
}
