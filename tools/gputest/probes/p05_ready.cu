// p05: copy in the client, then `ready`; the daemon watches it from a CPU thread, or its stream waits on it.
#include "probe.h"
int main() {
  Duo d = duo_open();
  Sh *sh = d.sh;
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  char *pin;
  CK(cuMemAllocHost((void **)&pin, 1 << 20));
  for (size_t n : {(size_t)4096, (size_t)262144})
    for (int op : {OP_WATCH_KERNEL, OP_WAIT_KERNEL, OP_KERNEL}) {
      Stat all, tail, cpu;
      for (int i = 0; i < 420; i++) {
        double t0 = now(), tr = 0;
        if (op == OP_KERNEL) {
          CK(cuMemcpyHtoDAsync(WIN, pin, n, s));
          CK(cuStreamSynchronize(s));
          tr = now();
          d.post(op);
        } else {
          d.post(op);
          double c0 = now();
          CK(cuMemcpyHtoDAsync(WIN, pin, n, s));
          CK(cuStreamWriteValue32(s, (CUdeviceptr)&sh->ready, d.seq, 0));
          cpu.add(now() - c0);
          if (!spin_until(sh->ready, d.seq)) {
            printf("! ready did not come\n");
            kill(d.pid, 9);
            return 1;
          }
          tr = now();
        }
        d.wait();
        double t1 = now();
        if (i >= 20) {
          all.add(t1 - t0);
          tail.add(t1 - tr);
        }
      }
      printf("H2D %6zu B, %-32s total %5.1f/%6.1f us, copy end -> kernel done %5.1f/%6.1f us, client CPU %.1f us\n", n,
             op == OP_WATCH_KERNEL  ? "ready watched by the CPU"
             : op == OP_WAIT_KERNEL ? "daemon stream WaitValue32"
                                    : "client synchronises, then posts",
             all.p50(), all.p99(), tail.p50(), tail.p99(), cpu.p50());
    }
  d.quit();
}
