// micro: what a launch costs. usage: micro CUBIN cpu | sync | idle | rate PROCESSES SECONDS. Prints one line of JSON.
#include "program.h"
#include <sys/mman.h>
#include <sys/wait.h>
struct board {
  volatile int ready, go;
  volatile double rate[64];
};

static double clock_cost(void) {
  double v[1000];
  for (int i = 0; i < 1000; i++) {
    double a = now_us();
    v[i] = now_us() - a;
  }
  return quantile(v, 1000, .5);
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  if (!strcmp(argv[2], "rate")) {  // processes that launch an empty kernel as fast as they can
    int n = atoi(argv[3]);
    double secs = atof(argv[4]);
    struct board *b = mmap(0, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (n > 64 || b == MAP_FAILED) return 2;
    for (int i = 0; i < n; i++)
      if (!fork()) {
        context_open();
        CUfunction f = function_of(module_open(argv[1]), "empty");
        CUstream s;
        CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
        for (int k = 0; k < 2000; k++) CK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, 0, 0));
        CK(cuStreamSynchronize(s));
        __sync_fetch_and_add(&b->ready, 1);
        while (!b->go) usleep(50);
        double t = now_us(), end = t + secs * 1e6;
        long k = 0;
        while (now_us() < end)
          for (int j = 0; j < 64; j++, k++) CK(cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, 0, 0));
        CK(cuStreamSynchronize(s));
        b->rate[i] = k / (now_us() - t) * 1e6;
        _exit(0);
      }
    for (int w = 0; b->ready < n && w < 60000; w++) usleep(1000);
    b->go = 1;
    int bad = 0, st;
    while (wait(&st) > 0) bad += st != 0;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += b->rate[i];
    printf("{\"rate\": %.0f, \"failed\": %d}\n", sum, bad);
    return bad;
  }
  context_open();
  CUmodule m = module_open(argv[1]);
  CUfunction e = function_of(m, "empty"), f = function_of(m, "add");
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUdeviceptr p;
  CK(cuMemAlloc(&p, 1 << 20));
  float v = 1;
  int n = 8192;
  void *a[] = {&p, &v, &n};
  static double t[40000];
  double cc = clock_cost();
  int k = 0;
  for (int i = 0; i < 3000; i++) CK(cuLaunchKernel(f, 64, 1, 1, 128, 1, 1, 0, s, a, 0));
  CK(cuStreamSynchronize(s));
  if (!strcmp(argv[2], "cpu")) {  // CPU time inside one launch; the queue never grows long
    for (int i = 0; i < 20000; i++) {
      if (i % 32 == 0) { CK(cuStreamSynchronize(s)); }
      double x = now_us();
      CUresult r = cuLaunchKernel(f, 64, 1, 1, 128, 1, 1, 0, s, a, 0);
      t[k++] = now_us() - x - cc;
      CK(r);
    }
    CK(cuStreamSynchronize(s));
    double p50 = quantile(t, k, .5), p99 = quantile(t, k, .99);
    printf("{\"p50\": %.3f, \"p99\": %.3f}\n", p50, p99);
  } else if (!strcmp(argv[2], "sync")) {
    for (int i = 0; i < 5000; i++) {
      double x = now_us();
      CK(cuLaunchKernel(f, 64, 1, 1, 128, 1, 1, 0, s, a, 0));
      CK(cuStreamSynchronize(s));
      t[k++] = now_us() - x;
    }
    double p50 = quantile(t, k, .5), p99 = quantile(t, k, .99);
    k = 0;
    static float h[1024];
    for (int i = 0; i < 2000; i++) {
      double x = now_us();
      CK(cuMemcpyHtoDAsync(p, h, 4096, s));
      for (int j = 0; j < 4; j++) CK(cuLaunchKernel(f, 64, 1, 1, 128, 1, 1, 0, s, a, 0));
      CK(cuMemcpyDtoHAsync(h, p, 4096, s));
      CK(cuStreamSynchronize(s));
      t[k++] = now_us() - x;
    }
    double r50 = quantile(t, k, .5), r99 = quantile(t, k, .99);
    printf("{\"p50\": %.2f, \"p99\": %.2f, \"request_p50\": %.2f, \"request_p99\": %.2f}\n", p50, p99, r50, r99);
  } else if (!strcmp(argv[2], "idle")) {
    for (int i = 0; i < 9; i++) {
      usleep(1000000);
      double x = now_us();
      CK(cuLaunchKernel(e, 1, 1, 1, 32, 1, 1, 0, s, 0, 0));
      CK(cuStreamSynchronize(s));
      t[k++] = now_us() - x;
    }
    double p50 = quantile(t, k, .5), worst = quantile(t, k, 1);
    printf("{\"p50\": %.1f, \"worst\": %.1f}\n", p50, worst);
  } else return 2;
  return 0;
}
