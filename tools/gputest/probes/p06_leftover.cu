// p06: a kernel, memset or D2D copy left in the client's context after a forwarded kernel (run natively and under MPS).
#include "probe.h"
int main(int, char **argv) {
  Duo d = duo_open();
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUfunction f = FN(k_work);
  CUdeviceptr seg = WIN;
  int it = 100;
  void *a[] = {&seg, &it};
  auto fwd = [&] {
    d.post(OP_KERNEL);
    d.wait();
  };
  auto loc = [&] {
    CK(cuLaunchKernel(f, 64, 1, 1, 128, 1, 1, 0, s, a, 0));
    CK(cuStreamSynchronize(s));
  };
  Stat l = timed(200, 20, loc), g = timed(200, 20, fwd), k = timed(100, 5, [&] {
                                                           fwd();
                                                           loc();
                                                         });
  Stat m = timed(100, 5,
                 [&] {
                   fwd();
                   CK(cuMemsetD8Async(seg, 0, 4096, s));
                   CK(cuStreamSynchronize(s));
                 }),
       dd = timed(100, 5, [&] {
         fwd();
         CK(cuMemcpyDtoDAsync(seg + (1 << 20), seg, 4096, s));
         CK(cuStreamSynchronize(s));
       });
  printf("%-8s us p50/p99: local %.1f/%.1f forwarded %.1f/%.1f fwd+kernel %.1f/%.1f fwd+memset %.1f/%.1f fwd+D2D %.1f/%.1f\n",
         argv[1] ? argv[1] : "", l.p50(), l.p99(), g.p50(), g.p99(), k.p50(), k.p99(), m.p50(), m.p99(), dd.p50(), dd.p99());
  d.quit();
}
