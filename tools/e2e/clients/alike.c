// Small kernels of every kind, launched by many processes at about the same time: what coalescing lives on. One digest over all
// that was computed, so that an instance which took another's parameters, block or globals shows.
//
//   E2E_WAIT=1      wait for every launch
//   E2E_SHAPES=1    grids that depend on the seed, so that processes launch one kernel with different ones
//   E2E_GATE=1      say "ready", and begin when a byte comes on standard input
//   E2E_GATE=2      the same after the first round, in which the kernels are loaded; and say "submitted" when all is launched
//   E2E_FAULT=N     in round N store through a wild pointer, and expect to be told so
//   E2E_OWN=0       without the image that has device globals: an executor that dies takes those with it
//   E2E_STREAMS=N   spread the work over N streams (1)
#include "client.h"

#include <unistd.h>

enum { MOST = 1 << 12, STREAMS = 4 };

static int number(const char *name, int otherwise) {
  const char *v = getenv(name);
  return v ? atoi(v) : otherwise;
}

// Buffers of one stream, which nothing else touches.
struct lane {
  CUstream stream;
  CUdeviceptr bits, a, b, rows, bins, left, turned, cube, dynamic, sums;
};

static int wait_each;

static void launch(CUfunction f, const unsigned grid[3], unsigned x, unsigned y, unsigned shared, CUstream s, void **args) {
  CK(cuLaunchKernel(f, grid[0], grid[1], grid[2], x, y, 1, shared, s, args, NULL));
  if (wait_each) CK(cuStreamSynchronize(s));
}
#define GO(f, gx, gy, gz, x, y, shared, lane, ...)                                \
  do {                                                                            \
    unsigned grid_[3] = {(gx), (gy), (gz)};                                       \
    void *args_[] = {__VA_ARGS__};                                                \
    launch((f), grid_, (x), (y), (shared), (lane)->stream, args_);                \
  } while (0)

int main(void) {
  open_device();
  char *text = ptx_text("alike.ptx"), *own_text = ptx_text("alike_own.ptx");
  CUmodule m, own;
  CK(cuModuleLoadData(&m, text));
  CK(cuModuleLoadData(&own, own_text));
  free(text);
  free(own_text);
  CUfunction fill = function("fill"), tofloat = function("tofloat"), add, softmax, tally, leave, turn, cube, dynamic, last, bump, use;
  CK(cuModuleGetFunction(&add, m, "alike_add"));
  CK(cuModuleGetFunction(&softmax, m, "alike_softmax"));
  CK(cuModuleGetFunction(&tally, m, "alike_tally"));
  CK(cuModuleGetFunction(&leave, m, "alike_leave"));
  CK(cuModuleGetFunction(&turn, m, "alike_turn"));
  CK(cuModuleGetFunction(&cube, m, "alike_cube"));
  CK(cuModuleGetFunction(&dynamic, m, "alike_dynamic"));
  CK(cuModuleGetFunction(&last, m, "alike_last"));
  CK(cuModuleGetFunction(&bump, own, "alike_bump"));
  CK(cuModuleGetFunction(&use, own, "alike_use"));
  CUdeviceptr key, own_word, table;
  size_t bytes;
  uint64_t rnd = seed() * 7919u + 3;
  unsigned keys[4];
  for (int i = 0; i < 4; i++) keys[i] = random_next(&rnd);
  int globals = number("E2E_OWN", 1);
  if (globals) {
    CK(cuModuleGetGlobal(&key, &bytes, own, "key"));
    CK(cuModuleGetGlobal(&own_word, &bytes, own, "own"));
    CK(cuModuleGetGlobal(&table, &bytes, own, "table"));
    CK(cuMemcpyHtoD(key, keys, sizeof keys));
  }

  wait_each = number("E2E_WAIT", 0);
  int shapes = number("E2E_SHAPES", 0), fault = number("E2E_FAULT", -1), lanes = number("E2E_STREAMS", 1);
  CHECK(lanes >= 1 && lanes <= STREAMS);
  struct lane lane[STREAMS];
  for (int i = 0; i < lanes; i++) {
    struct lane *l = &lane[i];
    CK(cuStreamCreate(&l->stream, CU_STREAM_NON_BLOCKING));
    CUdeviceptr *each[] = {&l->bits, &l->a, &l->b, &l->rows, &l->bins, &l->left, &l->turned, &l->cube, &l->dynamic, &l->sums};
    unsigned n = MOST, x = seed() * 31 + (unsigned)i;
    for (unsigned k = 0; k < sizeof each / sizeof *each; k++) {
      CK(cuMemAlloc(each[k], MOST * 4));
      CK(cuMemsetD32Async(*each[k], 0, MOST, l->stream));
    }
    GO(fill, MOST / 256, 1, 1, 256, 1, 0, l, &l->bits, &n, &x);
    GO(tofloat, MOST / 256, 1, 1, 256, 1, 0, l, &l->a, &l->bits, &n);
    GO(tofloat, MOST / 256, 1, 1, 256, 1, 0, l, &l->b, &l->bits, &n);
  }
  CK(cuCtxSynchronize());
  int gate = number("E2E_GATE", 0);

  for (unsigned i = 0; i < rounds(12); i++) {
    if ((int)i == gate - 1) {
      char go;
      CK(cuCtxSynchronize());
      printf("ready\n");
      fflush(stdout);
      CHECK(read(0, &go, 1) == 1);
    }
    struct lane *l = &lane[i % (unsigned)lanes];
    unsigned k = i * 13 + seed(), blocks = shapes ? 1 + random_next(&rnd) % 12 : 4, n = blocks * 64 - k % 7, width = 50 + blocks;
    if ((int)i == fault) {
      CUdeviceptr nowhere = 0x10;
      CK(cuCtxSynchronize()); // nothing else of this process is in doubt then
      void *args[] = {&nowhere, &l->b, &l->b, &n};
      CUresult r = cuLaunchKernel(add, blocks, 1, 1, 64, 1, 1, 0, l->stream, args, NULL);
      if (r == CUDA_SUCCESS) r = cuStreamSynchronize(l->stream);
      CUresult again = cuCtxSynchronize();
      printf("after a wild store: %d, then %d\n", r, again);
      return finish("alike"); // of what came before: nothing was read back yet
    }
    for (int burst = 0; burst < 3; burst++) GO(add, blocks, 1, 1, 64, 1, 0, l, &l->a, &l->a, &l->b, &n);
    GO(softmax, blocks, 1, 1, 64, 1, 0, l, &l->rows, &l->a, &width);
    GO(tally, blocks, 1, 1, 64, 1, 0, l, &l->bins, &l->bits, &n);
    GO(leave, blocks, 1, 1, 64, 1, 0, l, &l->left, &n, &k);
    unsigned w = blocks * 8 - 3, h = 29;
    GO(turn, blocks, 4, 1, 8, 8, 0, l, &l->turned, &l->left, &w, &h);
    GO(cube, 2, blocks, 3, 32, 1, 0, l, &l->cube, &k);
    unsigned words = 40 + 8 * (k % 3);
    GO(dynamic, blocks, 1, 1, 32, 1, words * 4, l, &l->dynamic, &words);
    CUdeviceptr parts = l->sums + 256, arrived = l->sums + 128;
    GO(last, blocks, 1, 1, 64, 1, 0, l, &l->sums, &parts, &arrived, &l->bits, &n);
    if (!globals || i % (unsigned)lanes) continue; // one lane writes, the same reads
    GO(bump, 1, 1, 1, 32, 1, 0, l, &k);
    GO(use, blocks, 1, 1, 64, 1, 0, l, &l->left, &n);
  }
  if (gate == 2) {
    printf("submitted\n");
    fflush(stdout);
  }
  CK(cuCtxSynchronize());
  for (int i = 0; i < lanes; i++) {
    struct lane *l = &lane[i];
    CUdeviceptr each[] = {l->a, l->rows, l->bins, l->left, l->turned, l->cube, l->dynamic, l->sums};
    for (unsigned k = 0; k < sizeof each / sizeof *each; k++) digest_device(each[k], MOST * 4);
  }
  if (globals) {
    digest_device(own_word, 4);
    digest_device(table, 64);
  }
  return finish("alike");
}
