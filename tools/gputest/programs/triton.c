// triton: small driver-API processes that launch Triton's kernels: vector add 16 K, softmax 64×512, layernorm 64×768 in turn, and a
// GEMM 128×768×768 fp16. Every result is compared with what one process computed natively, by hash.
//
//   triton PTXDIR ARCH reference FILE CLIENTS      writes the hashes of the results of each client's data
//   triton PTXDIR ARCH run FILE CLIENTS SECONDS    that many processes; three loops of SECONDS each: launching without waiting,
//                                                  waiting for each, the GEMM waiting for each
//   triton PTXDIR ARCH streams STREAMS SECONDS     one process that launches the three over so many streams without waiting
//
// PTXDIR/triton_NAME.ARCH.ptx are the kernels (jit/interp/kernels/triton), whose first line says how much shared memory they need.
// TRITON_VERBOSE=1: a line on standard error for each client and loop. Prints one line of JSON; exit 1 if a process failed or a
// result is wrong.
#include "program.h"
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>

// QUEUE bounds what a process that does not wait has in flight, as a GPU's own queue does, to twice as many launches.
enum { KERNELS = 4, SMALL = 3, GEMM = 3, RING = 8, CLIENTS = 256, SAMPLES = 4096, LOOPS = 3, QUEUE = 512 };

static const char *const names[KERNELS] = {"vadd_16k", "softmax_64x512", "layernorm_64x768", "gemm_f16_64"};
static const unsigned grids[KERNELS][2] = {{16, 1}, {64, 1}, {64, 1}, {2, 12}};
static const size_t out_bytes[KERNELS] = {16384 * 4, 64 * 512 * 4, 64 * 768 * 2, 128 * 768 * 2};

// One client's data: inputs, and RING outputs of each kernel, used in turn, so that a launch that was left out shows.
struct data {
  CUdeviceptr a, b, c, d, out[KERNELS][RING];
};
static CUfunction function[KERNELS];
static unsigned shared[KERNELS];

static void load(const char *dir, const char *arch) {
  char path[4096], line[512];
  for (int k = 0; k < KERNELS; k++) {
    snprintf(path, sizeof path, "%s/triton_%s.%s.ptx", dir, names[k], arch);
    FILE *f = fopen(path, "r");
    const char *at = f && fgets(line, sizeof line, f) ? strstr(line, " shared=") : NULL;
    if (!at) {
      fprintf(stderr, "%s: no line that says how to launch it\n", path);
      _exit(1);
    }
    fclose(f);
    shared[k] = (unsigned)atoi(at + 8);
    char name[64];
    snprintf(name, sizeof name, "triton_%s", names[k]);
    function[k] = function_of(module_open(path), name);
    if (shared[k] > 48 << 10) CK(cuFuncSetAttribute(function[k], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)shared[k]));
  }
}

static uint32_t next(uint64_t *s) {
  *s = *s * 6364136223846793005ull + 1442695040888963407ull;
  return (uint32_t)(*s >> 33);
}

// Bits of numbers of modest size: fp32 in [1, 2), fp16 in [0.25, 0.5) with either sign.
static void random_bits(uint32_t *p, size_t words, int half, uint64_t *s) {
  for (size_t i = 0; i < words; i++) p[i] = half ? (next(s) & 0x83ff83ff) | 0x34003400 : (next(s) & 0x007fffff) | 0x3f800000;
}

static void prepare(struct data *v, unsigned client) {
  static uint32_t host[128 * 768];
  uint64_t s = client * 7919u + 1;
  const struct { CUdeviceptr *p; size_t words; int half; } inputs[] = {
      {&v->a, 64 * 512, 0}, {&v->b, 16384, 0}, {&v->c, 128 * 768 / 2, 1}, {&v->d, 768 * 768 / 2, 1}};
  for (int i = 0; i < 4; i++) {
    CK(cuMemAlloc(inputs[i].p, inputs[i].words * 4));
    for (size_t at = 0; at < inputs[i].words; at += 65536) {
      size_t n = inputs[i].words - at < 65536 ? inputs[i].words - at : 65536;
      random_bits(host, n, inputs[i].half, &s);
      CK(cuMemcpyHtoD(*inputs[i].p + at * 4, host, n * 4));
    }
  }
  for (int k = 0; k < KERNELS; k++)
    for (int r = 0; r < RING; r++) CK(cuMemAlloc(&v->out[k][r], out_bytes[k]));
  CK(cuCtxSynchronize()); // the copies return before the device has all of them, and streams here do not wait for the null stream
}

static void launch(struct data *v, int k, unsigned turn, CUstream s) {
  CUdeviceptr out = v->out[k][turn % RING], none = 0;
  int n = k == 0 ? 16384 : k == 1 ? 512 : 768, m = 128, q = 768;
  float eps = 1e-5f;
  void *args[KERNELS][8] = {{&v->a, &v->b, &out, &n, &none, &none},
                            {&out, &v->a, &n, &none, &none},
                            {&out, &v->c, &v->b, &n, &eps, &none, &none},
                            {&v->c, &v->d, &out, &m, &n, &q, &none, &none}};
  CK(cuLaunchKernel(function[k], grids[k][0], grids[k][1], 1, 128, 1, 1, shared[k], s, args[k], NULL));
}

// The results of kernels first up to last, each launched RING times after the outputs were cleared: 0 and the hashes, or 1 when two
// launches of one kernel differ.
static int results(struct data *v, CUstream s, int first, int last, uint64_t hash[KERNELS]) {
  static unsigned char host[64 * 512 * 4];
  for (int k = first; k < last; k++)
    for (int r = 0; r < RING; r++) CK(cuMemsetD8Async(v->out[k][r], 0xee, out_bytes[k], s));
  for (int r = 0; r < RING; r++)
    for (int k = first; k < last; k++) launch(v, k, (unsigned)r, s);
  int bad = 0;
  for (int k = first; k < last; k++)
    for (int r = 0; r < RING; r++) {
      CK(cuMemcpyDtoHAsync(host, v->out[k][r], out_bytes[k], s));
      CK(cuStreamSynchronize(s));
      uint64_t h = 0xcbf29ce484222325ull;
      for (size_t i = 0; i < out_bytes[k]; i++) h = (h ^ host[i]) * 0x100000001b3ull;
      bad |= r > 0 && h != hash[k];
      hash[k] = h;
    }
  return bad;
}

// What parent and children share.
struct board {
  int ready, failed, turn, left[LOOPS]; // turn: the loop that runs, from 1
  double begun[LOOPS];
  struct child {
    int wrong[LOOPS];
    long launches[LOOPS];
    double ended[LOOPS];
    float sample[LOOPS][SAMPLES];
  } child[CLIENTS];
};

static void client(struct board *b, int i, const char *dir, const char *arch, const uint64_t *want, double seconds) {
  struct child *c = &b->child[i];
  struct data v;
  CUstream s;
  CUevent passed[2];
  uint64_t hash[KERNELS] = {0};
  context_open();
  load(dir, arch);
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  for (int k = 0; k < 2; k++) CK(cuEventCreate(&passed[k], CU_EVENT_DISABLE_TIMING));
  prepare(&v, (unsigned)i);
  int early = results(&v, s, 0, KERNELS, hash) || memcmp(hash, want, sizeof hash) != 0;
  __atomic_add_fetch(&b->ready, 1, __ATOMIC_SEQ_CST);
  for (int loop = 0; loop < LOOPS; loop++) {
    while (__atomic_load_n(&b->turn, __ATOMIC_ACQUIRE) != loop + 1) usleep(50);
    int first = loop < 2 ? 0 : GEMM, last = loop < 2 ? SMALL : KERNELS;
    double end = b->begun[loop] + seconds * 1e6, t = now_us();
    long n = 0;
    for (; t < end; n++) {
      launch(&v, first + (int)(n % (last - first)), (unsigned)(n / (last - first)), s);
      if (loop == 0) {
        if (n % QUEUE == QUEUE - 1) {
          CK(cuEventSynchronize(passed[n / QUEUE % 2 ^ 1]));
          CK(cuEventRecord(passed[n / QUEUE % 2], s));
        }
        if (n % 16 == 15) t = now_us();
        continue;
      }
      CK(cuStreamSynchronize(s));
      double now = now_us();
      c->sample[loop][n % SAMPLES] = (float)(now - t);
      t = now;
    }
    CK(cuStreamSynchronize(s));
    c->ended[loop] = now_us();
    c->launches[loop] = n;
    int differs = results(&v, s, first, last, hash) || memcmp(hash, want, sizeof hash) != 0;
    c->wrong[loop] = early || differs;
    if (getenv("TRITON_VERBOSE"))
      fprintf(stderr, "client %d, loop %d: %ld launches, %s\n", i, loop, n, c->wrong[loop] ? "WRONG" : "right");
    __atomic_add_fetch(&b->left[loop], 1, __ATOMIC_SEQ_CST);
  }
  _exit(0);
}

// Waits for children that end early: how many have failed so far.
static int failures(struct board *b) {
  int how;
  while (waitpid(-1, &how, WNOHANG) > 0) b->failed += !WIFEXITED(how) || WEXITSTATUS(how) != 0;
  return b->failed;
}

static int run(const char *dir, const char *arch, const uint64_t (*want)[KERNELS], int clients, double seconds) {
  struct board *b = mmap(0, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (b == MAP_FAILED) return 2;
  double begun = now_us();
  for (int i = 0; i < clients; i++)
    if (!fork()) client(b, i, dir, arch, want[i], seconds);
  while (__atomic_load_n(&b->ready, __ATOMIC_SEQ_CST) + failures(b) < clients) usleep(1000);
  int ready = b->ready, wrong = 0;
  double start = now_us() - begun;
  static const char *const loops[LOOPS] = {"stream", "wait", "gemm"};
  static double all[CLIENTS * SAMPLES];
  printf("{\"clients\": %d, \"start_s\": %.1f", ready, start / 1e6);
  for (int loop = 0; loop < LOOPS; loop++) {
    b->begun[loop] = now_us() + 5000;
    __atomic_store_n(&b->turn, loop + 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&b->left[loop], __ATOMIC_SEQ_CST) + failures(b) < clients) usleep(1000);
    long launches = 0;
    double ended = b->begun[loop];
    int n = 0;
    for (int i = 0; i < clients; i++) {
      const struct child *c = &b->child[i];
      if (!c->ended[loop]) continue;
      launches += c->launches[loop];
      wrong += c->wrong[loop] != 0;
      if (c->ended[loop] > ended) ended = c->ended[loop];
      for (long k = 0; k < c->launches[loop] && k < SAMPLES; k++) all[n++] = c->sample[loop][k];
    }
    printf(", \"%s\": {\"rate\": %.0f, \"launches\": %ld", loops[loop], launches / (ended - b->begun[loop]) * 1e6, launches);
    if (loop) {
      double p50 = quantile(all, n, .5), p99 = quantile(all, n, .99), worst = quantile(all, n, 1);
      printf(", \"p50\": %.1f, \"p99\": %.1f, \"worst\": %.1f", p50, p99, worst);
    }
    printf("}");
  }
  while (wait(&(int){0}) > 0) {}
  printf(", \"failed\": %d, \"wrong\": %d}\n", b->failed, wrong);
  return b->failed || wrong;
}

static void streams(const char *dir, const char *arch, int n, double seconds) {
  struct data v[64];
  CUstream s[64];
  context_open();
  load(dir, arch);
  for (int i = 0; i < n; i++) {
    CK(cuStreamCreate(&s[i], CU_STREAM_NON_BLOCKING));
    prepare(&v[i], (unsigned)i);
  }
  for (int i = 0; i < n; i++)
    for (int k = 0; k < SMALL; k++) launch(&v[i], k, 0, s[i]);
  CK(cuCtxSynchronize());
  double t = now_us(), end = t + seconds * 1e6;
  long launches = 0;
  for (unsigned turn = 0; now_us() < end; turn++)
    for (int i = 0; i < n; i++, launches++) launch(&v[i], (int)(turn % SMALL), turn / SMALL, s[i]);
  CK(cuCtxSynchronize());
  printf("{\"rate\": %.0f, \"launches\": %ld}\n", launches / (now_us() - t) * 1e6, launches);
}

int main(int argc, char **argv) {
  if (argc < 6) {
    fprintf(stderr, "usage: triton PTXDIR ARCH reference FILE CLIENTS | run FILE CLIENTS SECONDS | streams STREAMS SECONDS\n");
    return 2;
  }
  const char *dir = argv[1], *arch = argv[2], *what = argv[3];
  static uint64_t want[CLIENTS][KERNELS];
  int n = atoi(strcmp(what, "streams") ? argv[5] : argv[4]);
  if (n < 1 || n > (strcmp(what, "streams") ? CLIENTS : 64)) return 2;
  if (!strcmp(what, "reference")) {
    context_open();
    load(dir, arch);
    for (int i = 0; i < n; i++) {
      struct data v;
      prepare(&v, (unsigned)i);
      if (results(&v, NULL, 0, KERNELS, want[i])) {
        fprintf(stderr, "client %d: a kernel differs from itself\n", i);
        return 1;
      }
      const CUdeviceptr inputs[] = {v.a, v.b, v.c, v.d};
      for (int k = 0; k < 4; k++) CK(cuMemFree(inputs[k]));
      for (int k = 0; k < KERNELS; k++)
        for (int r = 0; r < RING; r++) CK(cuMemFree(v.out[k][r]));
    }
    for (int i = 1; i < n; i++)
      for (int k = 0; k < KERNELS; k++)
        if (want[i][k] == want[0][k]) {
          fprintf(stderr, "%s: clients 0 and %d have one result: it says nothing\n", names[k], i);
          return 1;
        }
    FILE *f = fopen(argv[4], "wb");
    if (!f || fwrite(want, sizeof want[0], (size_t)n, f) != (size_t)n || fclose(f)) return 1;
    printf("{\"clients\": %d}\n", n);
    return 0;
  }
  if (!strcmp(what, "streams")) {
    streams(dir, arch, n, atof(argv[5]));
    return 0;
  }
  FILE *f = fopen(argv[4], "rb");
  if (strcmp(what, "run") || argc < 7 || !f || fread(want, sizeof want[0], (size_t)n, f) != (size_t)n) {
    fprintf(stderr, "%s: no reference for %d clients\n", argv[4], n);
    return 2;
  }
  fclose(f);
  return run(dir, arch, (const uint64_t (*)[KERNELS])want, n, atof(argv[6]));
}
