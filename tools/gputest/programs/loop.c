// loop: a driver-API client that works and checks for ever, or ROUNDS times. usage: loop CUBIN [ROUNDS [STEP]]
// Prints "done N at SECONDS" (monotonic clock); ends with "WRONG" (exit 4) when a result differs, with "gone: CODE NAME" (exit 3)
// when the driver gives an error. STEP: how far it goes before it exits: start (a context), load (and the code, and one launch of
// it), allocate (and 8 MiB of device memory and 1 MiB of pinned memory, freed again), work (the default: no such launch and
// allocations, but ROUNDS of work).
#include "program.h"

enum { N = 16384, ADDS = 20 };
#define GO(x)                                                                    \
  do {                                                                           \
    CUresult r_ = (x);                                                           \
    if (r_) {                                                                    \
      printf("gone: %d %s %s\n", r_, error_name(r_), #x);                        \
      fflush(stdout);                                                            \
      _exit(3);                                                                  \
    }                                                                            \
  } while (0)

int main(int argc, char **argv) {
  const char *step = argc > 3 ? argv[3] : "work";
  if (argc < 2) return 2;
  static float host[N];
  CUdeviceptr p, q;
  CUstream s;
  context_open();
  if (!strcmp(step, "start")) return 0;
  CUmodule m = module_open(argv[1]);
  CUfunction f = function_of(m, "add");
  GO(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  if (strcmp(step, "work")) {
    void *pinned;
    GO(cuLaunchKernel(function_of(m, "empty"), 1, 1, 1, 1, 1, 1, 0, s, 0, 0));
    GO(cuStreamSynchronize(s));
    if (!strcmp(step, "load")) return 0;
    GO(cuMemAlloc(&p, 8 << 20));
    GO(cuMemHostAlloc(&pinned, 1 << 20, 0));
    GO(cuMemFreeHost(pinned));
    GO(cuMemFree(p));
    return 0;
  }
  GO(cuMemAlloc(&p, sizeof host));
  GO(cuMemAlloc(&q, sizeof host));
  float one = 1;
  int n = N;
  void *args[] = {&p, &one, &n};
  double last = 0;
  long rounds = argc > 2 ? atol(argv[2]) : -1;
  for (long k = 0; k != rounds; k++) {
    GO(cuMemsetD32Async(p, 0, N, s));
    for (int i = 0; i < ADDS; i++) GO(cuLaunchKernel(f, N / 128, 1, 1, 128, 1, 1, 0, s, args, 0));
    GO(cuMemcpyDtoDAsync(q, p, sizeof host, s));
    GO(cuMemcpyDtoHAsync(host, q, sizeof host, s));
    GO(cuStreamSynchronize(s));
    for (int i = 0; i < N; i++)
      if (host[i] != ADDS) {
        printf("WRONG: element %d is %g, expected %d, in round %ld\n", i, host[i], ADDS, k);
        fflush(stdout);
        _exit(4);
      }
    double t = now_us();
    if (t - last > 10000) {
      printf("done %ld at %.3f\n", k, t / 1e6);
      fflush(stdout);
      last = t;
    }
  }
  return 0;
}
