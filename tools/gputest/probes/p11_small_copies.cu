// p11: what do the small copies around a request cost the chip, when many clients' requests are in flight in one context?
// A request is a copy of 2 KiB to the device, a CUDA graph of 17 small kernels, a copy of 2 KiB back, each followed by a done word, as
// the executor issues those of a client that waits for its answer. Requests are in flight on streams of their own; as soon as one is
// done it is issued again (CUDA_DEVICE_MAX_CONNECTIONS=32, as in the executor). How the copies are made varies: by the copy engine
// (pinned memory), by a kernel that reads and writes host memory and stores the done word itself, or not at all.
#include <atomic>
#include <mutex>
#include <thread>

#include "probe.h"

constexpr int MOST = 32, NODES = 17, BYTES = 2048;

__global__ void layer(const float4 *w, float *x) { // reads 64 KiB from 16 blocks: a small matrix-vector product
  float4 v = w[blockIdx.x * 256 + threadIdx.x];
  float s = v.x + v.y + v.z + v.w + x[threadIdx.x];
  if (s == 1e30f) x[threadIdx.x] = s;
}
struct Move {
  uint64_t to, from, done;
  uint32_t value, pad;
};
struct Moves {
  Move m[8];
};
__global__ void move(Moves a) { // 128 threads × 16 bytes
  const Move &m = a.m[blockIdx.x];
  ((uint4 *)m.to)[threadIdx.x] = ((const uint4 *)m.from)[threadIdx.x];
  if (!m.done) return;
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x == 0) *(volatile uint32_t *)m.done = m.value;
}

struct Slot {
  cudaStream_t s;
  cudaGraphExec_t g;
  char *in, *out; // pinned
  char *din, *dout;
  volatile uint32_t *word; // three done words, 64 bytes apart
  uint32_t seq = 0;
};
static Slot slots[MOST];
static void write(Slot &t, int i) { CK(cuStreamWriteValue32(t.s, (CUdeviceptr)(uintptr_t)&t.word[16 * i], t.seq, 0)); }

static Move moved(Slot &t, char *to, char *from, int word) {
  return {(uint64_t)to, (uint64_t)from, (uint64_t)&t.word[16 * word], t.seq, 0};
}
static void copied(Slot &t, char *to, char *from, int word) {
  Moves m{};
  m.m[0] = moved(t, to, from, word);
  move<<<1, 128, 0, t.s>>>(m);
}

enum Way { NONE, ENGINE, ENGINE_ONE_WORD, KERNEL, INLINE };
static const char *names[] = {"no copies", "copy engine, 3 words", "copy engine, 1 word", "kernels", "pageable in, engine out"};
static char pageable[MOST][BYTES];

static void issue(int i, Way way) {
  Slot &t = slots[i];
  t.seq++;
  auto words = [&](int k) { if (way != ENGINE_ONE_WORD || k == 2) write(t, k); };
  switch (way) {
  case NONE: break;
  case KERNEL: copied(t, t.din, t.in, 0); break;
  case INLINE: CK(cuMemcpyHtoDAsync((CUdeviceptr)t.din, pageable[i], BYTES, t.s)); words(0); break;
  default: CK(cudaMemcpyAsync(t.din, t.in, BYTES, cudaMemcpyHostToDevice, t.s)); words(0);
  }
  CK(cudaGraphLaunch(t.g, t.s));
  if (way == NONE) return write(t, 2);
  words(1);
  if (way == KERNEL) return copied(t, t.out, t.dout, 2);
  CK(cudaMemcpyAsync(t.out, t.dout, BYTES, cudaMemcpyDeviceToHost, t.s));
  words(2);
}

// Requests/s and a request's median time with `flying` requests and `threads` issuers; and an issuer's time in calls, us a request.
static void measure(Way way, int flying, int threads) {
  std::vector<std::thread> all;
  std::vector<Stat> took(threads);
  std::vector<double> calls(threads);
  std::atomic<long> done{0};
  double begin = now(), end = begin + 300e3;
  for (int k = 0; k < threads; k++) all.emplace_back([&, k] {
    CK(cudaSetDevice(0));
    std::vector<double> at(MOST);
    for (int i = k; i < flying; i += threads) { at[i] = now(); issue(i, way); }
    while (now() < end)
      for (int i = k; i < flying; i += threads) {
        if (slots[i].word[32] != slots[i].seq) continue;
        double t = now();
        took[k].add(t - at[i]);
        at[i] = t;
        issue(i, way);
        calls[k] += now() - t;
        done++;
      }
  });
  for (auto &t : all) t.join();
  CK(cudaDeviceSynchronize());
  Stat sum;
  double c = 0;
  for (auto &s : took) sum.v.insert(sum.v.end(), s.v.begin(), s.v.end());
  for (double x : calls) c += x;
  printf("%-24s %2d in flight, %d threads: %8.0f requests/s, p50 %7.1f us, calls %5.1f us a request\n", names[way], flying, threads,
         done / 0.3, sum.p50(), c / done);
}

int main() {
  CK(cudaSetDevice(0));
  CK(cudaFree(0));
  for (int i = 0; i < MOST; i++) {
    Slot &t = slots[i];
    CK(cudaStreamCreateWithFlags(&t.s, cudaStreamNonBlocking));
    CK(cudaHostAlloc((void **)&t.in, BYTES, cudaHostAllocMapped));
    CK(cudaHostAlloc((void **)&t.out, BYTES, cudaHostAllocMapped));
    CK(cudaHostAlloc((void **)&t.word, 256, cudaHostAllocMapped));
    CK(cudaMalloc((void **)&t.din, 1 << 20));
    CK(cudaMalloc((void **)&t.dout, 1 << 20));
    cudaGraph_t g;
    CK(cudaStreamBeginCapture(t.s, cudaStreamCaptureModeThreadLocal));
    for (int n = 0; n < NODES; n++) layer<<<16, 256, 0, t.s>>>((float4 *)t.din, (float *)t.dout);
    CK(cudaStreamEndCapture(t.s, &g));
    CK(cudaGraphInstantiate(&t.g, g, 0));
  }
  for (int flying : {1, 8, 32})
    for (int threads : {1, 3}) {
      if (threads > flying) continue;
      for (Way w : {NONE, ENGINE, ENGINE_ONE_WORD, KERNEL, INLINE}) measure(w, flying, threads);
    }
  // One kernel for the copies of 8 clients, against 8: its time by itself.
  for (int n : {1, 8}) {
    Stat s = timed(300, 30, [&] {
      Moves m{};
      for (int i = 0; i < n; i++) slots[i].seq++, m.m[i] = moved(slots[i], slots[i].din, slots[i].in, 0);
      move<<<n, 128, 0, slots[0].s>>>(m);
      while (slots[n - 1].word[0] != slots[n - 1].seq) {}
    });
    printf("%d copies in one kernel, launch to done words: p50 %.1f p99 %.1f us\n", n, s.p50(), s.p99());
  }
  for (int size : {2048, 65536, 1 << 20}) {
    char *h;
    CK(cudaHostAlloc((void **)&h, 1 << 20, cudaHostAllocMapped));
    Stat s = timed(300, 30, [&] {
      slots[0].seq++;
      CK(cudaMemcpyAsync(slots[0].din, h, size, cudaMemcpyHostToDevice, slots[0].s));
      write(slots[0], 0);
      while (slots[0].word[0] != slots[0].seq) {}
    });
    printf("copy engine, %d bytes in, call to done word: p50 %.1f p99 %.1f us\n", size, s.p50(), s.p99());
  }
  return 0;
}
