// p04: calls that may stall the context: own time, and the worst launch+completion of another thread meanwhile; idle, and beside a
// 10 ms kernel.
// usage: p04_stalls big.cubin [modules]
#include "probe.h"
#include <atomic>
#include <string>
#include <thread>
int main(int argc, char **argv) {
  setvbuf(stdout, 0, _IOLBF, 0);
  bool only = argc > 2;
  CUcontext cx = ctx_open();
  std::vector<char> img;
  {
    FILE *f = fopen(argv[1], "rb");
    if (!f) {
      printf("! no %s\n", argv[1]);
      return 1;
    }
    fseek(f, 0, SEEK_END);
    img.resize(ftell(f));
    rewind(f);
    if (fread(img.data(), 1, img.size(), f) != img.size()) return 1;
    fclose(f);
  }
  CUfunction kw = FN(k_work), ks = FN(k_spin);
  CUstream third, own;
  CK(cuStreamCreate(&third, CU_STREAM_NON_BLOCKING));
  CK(cuStreamCreate(&own, CU_STREAM_NON_BLOCKING));
  CUdeviceptr buf;
  CK(cuMemAlloc(&buf, 1 << 20));
  CK(spin_on(ks, third, 1000, 0, 0));
  CK(cuCtxSynchronize());
  std::atomic<double> worst{0};
  std::atomic<long> iters{0};
  std::atomic<bool> stop{false};
  std::thread th([&] {
    CK(cuCtxSetCurrent(cx));
    CUstream s;
    CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    int it = 10;
    CUdeviceptr p = buf;
    void *a[] = {&p, &it};
    while (!stop) {
      double t = now();
      CK(cuLaunchKernel(kw, 4, 1, 1, 128, 1, 1, 0, s, a, 0));
      CUresult r;
      while ((r = cuStreamQuery(s)) == CUDA_ERROR_NOT_READY) {}
      CK(r);
      double d = now() - t;
      if (d > worst) worst = d;
      iters++;
    }
  });
  auto after = [&](long n) {
    long k = iters;
    while (iters < k + n) {}
  };
  auto probe = [&](const char *name, int n, std::function<void()> pre, std::function<void()> op, std::function<void()> post) {
    Stat own_t[2], w[2];
    for (int busy = 0; busy < 2; busy++)
      for (int i = 0; i < n; i++) {
        if (pre) pre();
        after(20);
        if (busy) {
          CK(spin_on(ks, third, 10000000, 0, 0));
          usleep(500);
          after(5);
        }
        worst = 0;
        double t = now();
        op();
        own_t[busy].add(now() - t);
        after(2);
        w[busy].add(worst);
        CK(cuStreamSynchronize(third));
        if (post) post();
      }
    printf("%-31s %7.0f %6.0f %6.0f | %7.0f %6.0f %6.0f\n", name, own_t[0].p50(), w[0].p50(), w[0].q(1), own_t[1].p50(), w[1].p50(),
           w[1].q(1));
  };
  printf(
      "image %.2f MB, CUDA_MODULE_LOADING=%s; us; columns: own time, worst launch+completion of another thread meanwhile (median, "
      "max of 5) | the same beside a 10 ms kernel\n",
      img.size() / 1e6, getenv("CUDA_MODULE_LOADING") ? getenv("CUDA_MODULE_LOADING") : "(default)");
  probe("(nothing, 1 ms)", 5, 0, [&] { usleep(1000); }, 0);
  CUmodule m;
  CUfunction f;
  CUdeviceptr p = buf;
  float fa = 1;
  void *ka[] = {&p, &fa};
  auto unload = [&] { CK(cuModuleUnload(m)); };
  probe("cuModuleLoadData", 5, 0, [&] { CK(cuModuleLoadData(&m, img.data())); }, unload);
  probe(
      "cuModuleGetFunction", 5, [&] { CK(cuModuleLoadData(&m, img.data())); }, [&] { CK(cuModuleGetFunction(&f, m, "k3")); },
      unload);
  probe(
      "cuFuncLoad", 5,
      [&] {
        CK(cuModuleLoadData(&m, img.data()));
        CK(cuModuleGetFunction(&f, m, "k4"));
      },
      [&] { CK(cuFuncLoad(f)); }, unload);
  probe(
      "first launch+sync", 5,
      [&] {
        CK(cuModuleLoadData(&m, img.data()));
        CK(cuModuleGetFunction(&f, m, "k5"));
      },
      [&] {
        CK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, own, ka, 0));
        CK(cuStreamSynchronize(own));
      },
      unload);
  probe(
      "cuModuleUnload", 5,
      [&] {
        CK(cuModuleLoadData(&m, img.data()));
        CK(cuModuleGetFunction(&f, m, "k6"));
        CK(cuFuncLoad(f));
      },
      [&] { CK(cuModuleUnload(m)); }, 0);
  CUlibrary lib;
  CUkernel kk;
  auto lunload = [&] { CK(cuLibraryUnload(lib)); };
  probe("cuLibraryLoadData", 5, 0, [&] { CK(cuLibraryLoadData(&lib, img.data(), 0, 0, 0, 0, 0, 0)); }, lunload);
  probe(
      "cuLibraryGetKernel+KernelGetF.", 5, [&] { CK(cuLibraryLoadData(&lib, img.data(), 0, 0, 0, 0, 0, 0)); },
      [&] {
        CK(cuLibraryGetKernel(&kk, lib, "k7"));
        CK(cuKernelGetFunction(&f, kk));
      },
      lunload);
  if (!only) {
    CUdeviceptr va;
    CUmemGenericAllocationHandle h;
    CUmemAllocationProp pr = seg_prop();
    int fd;
    probe(
        "cuMemAddressReserve 512 GiB", 5, 0, [&] { CK(cuMemAddressReserve(&va, 512ull << 30, 0, WIN, 0)); },
        [&] { CK(cuMemAddressFree(va, 512ull << 30)); });
    for (size_t n : {2ull << 20, 256ull << 20}) {
      std::string z = n >> 20 == 2 ? " 2 MiB" : " 256 MiB";
      CK(cuMemAddressReserve(&va, n, 0, WIN, 0));
      auto rel = [&] { CK(cuMemRelease(h)); };
      auto mk = [&] { CK(cuMemCreate(&h, n, &pr, 0)); };
      probe(("cuMemCreate" + z).c_str(), 5, 0, mk, rel);
      probe(("cuMemMap+SetAccess" + z).c_str(), 5, mk,
            [&] {
              CK(cuMemMap(va, n, 0, h, 0));
              CK(seg_access(va, n));
            },
            [&] {
              CK(cuMemUnmap(va, n));
              rel();
            });
      probe(("cuMemUnmap" + z).c_str(), 5,
            [&] {
              mk();
              CK(cuMemMap(va, n, 0, h, 0));
              CK(seg_access(va, n));
            },
            [&] { CK(cuMemUnmap(va, n)); }, rel);
      probe(("cuMemRelease" + z).c_str(), 5, mk, rel, 0);
      CUmemGenericAllocationHandle h2;
      probe(("cuMemImport" + z).c_str(), 5,
            [&] {
              mk();
              CK(cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
            },
            [&] { CK(cuMemImportFromShareableHandle(&h2, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)); },
            [&] {
              close(fd);
              CK(cuMemRelease(h2));
              rel();
            });
      CK(cuMemAddressFree(va, n));
    }
    for (size_t n : {4ull << 20, 64ull << 20}) {
      int mf = memfd_create("r", 0);
      if (ftruncate(mf, n)) return 1;
      void *q = mmap(0, n, PROT_READ | PROT_WRITE, MAP_SHARED, mf, 0);
      memset(q, 1, n);
      std::string z = n >> 20 == 4 ? " 4 MiB" : " 64 MiB";
      auto reg = [&] { CK(cuMemHostRegister(q, n, CU_MEMHOSTREGISTER_DEVICEMAP)); };
      auto un = [&] { CK(cuMemHostUnregister(q)); };
      probe(("cuMemHostRegister" + z).c_str(), 4, 0, reg, un);
      probe(("cuMemHostUnregister" + z).c_str(), 4, reg, un, 0);
      munmap(q, n);
      close(mf);
    }
    CUdeviceptr al;
    probe("cuMemAlloc 64 MiB", 5, 0, [&] { CK(cuMemAlloc(&al, 64 << 20)); }, [&] { CK(cuMemFree(al)); });
    probe("cuMemFree 64 MiB", 5, [&] { CK(cuMemAlloc(&al, 64 << 20)); }, [&] { CK(cuMemFree(al)); }, 0);
    size_t st = 1024;
    probe(
        "cuCtxSetLimit(stack +2 KiB)", 3, 0,
        [&] {
          st += 2048;
          CK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, st));
        },
        0);
    CK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 1024));
    CK(cuModuleLoadData(&m, img.data()));
    CUfunction bl[2];
    CK(cuModuleGetFunction(&bl[0], m, "biglocal"));
    CK(cuModuleGetFunction(&bl[1], m, "biglocal2"));
    CK(cuFuncLoad(bl[0]));
    CK(cuFuncLoad(bl[1]));
    int nn = 64;
    void *la[] = {&p, &nn};
    int k = 0;
    probe(
        "launch, local 96/192 KiB/thread", 1, 0,
        [&] {
          CK(cuLaunchKernel(bl[k++], 1, 1, 1, 32, 1, 1, 0, own, la, 0));
          CK(cuStreamSynchronize(own));
        },
        0);
    k = 0;
    probe(
        "the same, second launch", 1, 0,
        [&] {
          CK(cuLaunchKernel(bl[k++], 1, 1, 1, 32, 1, 1, 0, own, la, 0));
          CK(cuStreamSynchronize(own));
        },
        0);
    CUgraph g;
    CUgraphExec ge;
    CK(cuGraphCreate(&g, 0));
    CUgraphNode nd, prev;
    int it = 10;
    void *wa[] = {&p, &it};
    for (int i = 0; i < 100; i++) {
      CUDA_KERNEL_NODE_PARAMS kp = {};
      kp.func = kw;
      kp.gridDimX = 4;
      kp.gridDimY = kp.gridDimZ = kp.blockDimY = kp.blockDimZ = 1;
      kp.blockDimX = 128;
      kp.kernelParams = wa;
      CK(cuGraphAddKernelNode(&nd, g, i ? &prev : 0, i ? 1 : 0, &kp));
      prev = nd;
    }
    probe("cuGraphInstantiate 100", 5, 0, [&] { CK(cuGraphInstantiateWithFlags(&ge, g, 0)); }, [&] { CK(cuGraphExecDestroy(ge)); });
    probe(
        "cuGraphUpload+launch 100", 5, [&] { CK(cuGraphInstantiateWithFlags(&ge, g, 0)); },
        [&] {
          CK(cuGraphLaunch(ge, own));
          CK(cuStreamSynchronize(own));
        },
        [&] { CK(cuGraphExecDestroy(ge)); });
    probe("cuGraphExecDestroy 100", 5, [&] { CK(cuGraphInstantiateWithFlags(&ge, g, 0)); }, [&] { CK(cuGraphExecDestroy(ge)); }, 0);
    CUstream s2;
    CUevent ev;
    probe("cuStreamCreate", 5, 0, [&] { CK(cuStreamCreate(&s2, CU_STREAM_NON_BLOCKING)); }, [&] { CK(cuStreamDestroy(s2)); });
    probe("cuStreamDestroy", 5, [&] { CK(cuStreamCreate(&s2, CU_STREAM_NON_BLOCKING)); }, [&] { CK(cuStreamDestroy(s2)); }, 0);
    probe("cuEventCreate", 5, 0, [&] { CK(cuEventCreate(&ev, CU_EVENT_DISABLE_TIMING)); }, [&] { CK(cuEventDestroy(ev)); });
    char *pg = (char *)malloc(4 << 20);
    memset(pg, 1, 4 << 20);
    probe("cuMemcpyHtoD pageable 1 MiB", 5, 0, [&] { CK(cuMemcpyHtoD(buf, pg, 1 << 20)); }, 0);
  }
  stop = true;
  th.join();
  fflush(stdout);
  _exit(0);
}
