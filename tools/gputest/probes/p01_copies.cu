// p01: copies of the client right after a kernel that ran in the daemon's context, against all-local; and copies made by the daemon.
#include "probe.h"
int main() {
  Duo d = duo_open();
  Sh *sh = d.sh;
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUfunction f = FN(k_work);
  CUdeviceptr seg = WIN;
  int it = 100;
  void *a[] = {&seg, &it};
  char *pin;
  CK(cuMemAllocHost((void **)&pin, 1 << 20));
  char *pag = (char *)malloc(1 << 20);
  memset(pag, 1, 1 << 20);
  memset(pin, 1, 1 << 20);
  auto local = [&] { CK(cuLaunchKernel(f, 64, 1, 1, 128, 1, 1, 0, s, a, 0)); };
  auto fwd = [&] {
    d.post(OP_KERNEL);
    d.wait();
  };
  int N = 250;
  {
    Stat l = timed(N, 20,
                   [&] {
                     local();
                     CK(cuStreamSynchronize(s));
                   }),
         g = timed(N, 20, fwd), x = timed(60, 5, [&] {
                                  fwd();
                                  local();
                                  CK(cuStreamSynchronize(s));
                                });
    Stat m = timed(60, 5,
                   [&] {
                     fwd();
                     CK(cuMemsetD8Async(seg, 0, 4096, s));
                     CK(cuStreamSynchronize(s));
                   }),
         dd = timed(60, 5, [&] {
           fwd();
           CK(cuMemcpyDtoDAsync(seg + (1 << 20), seg, 4096, s));
           CK(cuStreamSynchronize(s));
         });
    printf("base: local launch+sync %.1f/%.1f, forwarded %.1f/%.1f, forwarded then client kernel %.1f, memset %.1f, D2D %.1f\n",
           l.p50(), l.p99(), g.p50(), g.p99(), x.p50(), m.p50(), dd.p50());
  }
  printf(
      "us p50/p99 of kernel+copy (D2H) or copy+kernel (H2D); pg=pageable pin=pinned; loc=one context; fw=forwarded, host wait; "
      "as=fw+Async+sync; gw=client stream WaitValue/WriteValue\n");
  printf("%-10s %11s %11s %11s %11s %11s %11s %11s %11s %11s\n", "", "loc pg", "loc pin", "fw pg", "fw pin", "as pg", "as pin",
         "gw pg", "gw pin", "daemon");
  for (size_t n : {4, 64, 1024, 16384, 65536, 262144}) {
    auto row = [&](const char *w, std::vector<std::function<void()>> fs) {
      printf("%s %6zu", w, n);
      for (auto &g : fs) {
        Stat st = timed(N, 15, g);
        printf(" %5.1f/%5.1f", st.p50(), st.p99());
      }
      printf("\n");
    };
    auto loc = [&](char *h) {
      return [&, h] {
        local();
        CK(cuStreamSynchronize(s));
        CK(cuMemcpyDtoH(h, seg, n));
      };
    };
    auto fw = [&](char *h) {
      return [&, h] {
        fwd();
        CK(cuMemcpyDtoH(h, seg, n));
      };
    };
    auto as = [&](char *h) {
      return [&, h] {
        fwd();
        CK(cuMemcpyDtoHAsync(h, seg, n, s));
        CK(cuStreamSynchronize(s));
      };
    };
    auto gw = [&](char *h) {
      return [&, h] {
        d.post(OP_KERNEL);
        CK(cuStreamWaitValue32(s, (CUdeviceptr)&sh->done, d.seq, CU_STREAM_WAIT_VALUE_EQ));
        CK(cuMemcpyDtoHAsync(h, seg, n, s));
        CK(cuStreamSynchronize(s));
      };
    };
    row("D2H", {loc(pag), loc(pin), fw(pag), fw(pin), as(pag), as(pin), gw(pag), gw(pin), [&] {
                  d.post(OP_KERNEL_D2H, n);
                  d.wait();
                }});
    auto hloc = [&](char *h) {
      return [&, h] {
        CK(cuMemcpyHtoD(seg, h, n));
        local();
        CK(cuStreamSynchronize(s));
      };
    };
    auto hfw = [&](char *h) {
      return [&, h] {
        CK(cuMemcpyHtoD(seg, h, n));
        fwd();
      };
    };
    auto has = [&](char *h) {
      return [&, h] {
        CK(cuMemcpyHtoDAsync(seg, h, n, s));
        CK(cuStreamSynchronize(s));
        fwd();
      };
    };
    auto hgw = [&](char *h) {
      return [&, h] {
        CK(cuMemcpyHtoDAsync(seg, h, n, s));
        d.post(OP_WATCH_KERNEL);
        CK(cuStreamWriteValue32(s, (CUdeviceptr)&sh->ready, d.seq, 0));
        d.wait();
      };
    };
    row("H2D", {hloc(pag), hloc(pin), hfw(pag), hfw(pin), has(pag), has(pin), hgw(pag), hgw(pin), [&] {
                  d.post(OP_H2D_KERNEL, n);
                  d.wait();
                }});
  }
  printf("pageable/pinned sync H2D then host wait etc. with a 290 us figure mean: that copy ran on the SMs\n");
  // The legacy stream, as PyTorch uses it, with a stream that has just forwarded: copies of a whole request in one go.
  Stat r1 = timed(N, 15, [&] {
    CK(cuMemcpyHtoD(seg, pag, 65536));
    for (int i = 0; i < 8; i++) d.post(OP_KERNEL), d.wait();
    CK(cuMemcpyDtoH(pag, seg, 4096));
  });
  Stat r2 = timed(N, 15, [&] {
    CK(cuMemcpyHtoD(seg, pag, 65536));
    for (int i = 0; i < 8; i++) {
      local();
      CK(cuStreamSynchronize(s));
    }
    CK(cuMemcpyDtoH(pag, seg, 4096));
  });
  printf("request (H2D 64K, 8 kernels each waited, D2H 4K; pageable): forwarded %.1f/%.1f local %.1f/%.1f\n", r1.p50(), r1.p99(),
         r2.p50(), r2.p99());
  d.quit();
}
