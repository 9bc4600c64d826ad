// Memory and events that go from process to process by cuIpc*: as torch.multiprocessing hands tensors over. Two processes work in turns on
// the same memory, each behind the other's event and never waiting on the host in between; then wrong use, memory that is freed, a process
// that ends with what it shared and what it had opened.
#include "client.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS = 600000, SOME = 6000, FEW = 1000, TURNS = 12, STEPS = 4 }; // WORDS: more than 2 MiB

// What the first process gives the second.
struct gift {
  CUipcMemHandle large, small;
  CUipcEventHandle mine, yours; // recorded by the first; made by the first and recorded by the second
};

static void give(int to, const void *p, size_t n) { CHECK(write(to, p, n) == (ssize_t)n); }
static void take(int from, void *p, size_t n) { CHECK(read(from, p, n) == (ssize_t)n); } // a socket of packets: whole, or the end
static void say(int to) { give(to, "!", 1); }
static void hear(int from) {
  char c;
  take(from, &c, 1);
}

// A turn: behind `after` (unless NULL), steps on both, and `then` behind them; and something of one's own, so that the stream's last work is a
// kernel when it waits for the next turn.
static void turn(CUstream stream, CUdeviceptr large, CUdeviceptr small, CUdeviceptr own, unsigned first, CUevent after, CUevent then) {
  CUfunction step = function("step");
  unsigned n = SOME, few = FEW;
  large += (WORDS - SOME) * 4;
  if (after) CK(cuStreamWaitEvent(stream, after, 0));
  for (unsigned k = first; k < first + STEPS; k++) {
    LAUNCH(step, (n + 255) / 256, 256, 0, stream, &large, &n, &k);
    LAUNCH(step, (few + 255) / 256, 256, 0, stream, &small, &few, &k);
  }
  CK(cuMemcpyDtoDAsync(large, small, FEW, stream));
  CK(cuEventRecord(then, stream));
  LAUNCH(step, (few + 255) / 256, 256, 0, stream, &own, &few, &first);
}

static int other(int peer) {
  struct gift g;
  take(peer, &g, sizeof g);
  open_device();
  CUdeviceptr large, small, again, base, own;
  size_t size;
  CUevent theirs, mine;
  CUstream stream;
  CK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CK(cuIpcOpenMemHandle(&large, g.large, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  CK(cuIpcOpenMemHandle(&small, g.small, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  CK(cuIpcOpenMemHandle(&again, g.large, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  CHECK(again == large); // open twice is the same memory, counted
  CK(cuIpcCloseMemHandle(again));
  CK(cuMemGetAddressRange(&base, &size, large + 4096));
  CHECK(base == large && size >= WORDS * 4);
  CK(cuIpcOpenEventHandle(&theirs, g.mine));
  CK(cuIpcOpenEventHandle(&mine, g.yours));
  CUfunction fill = function("fill");
  unsigned n = WORDS, few = FEW, value = 5;
  CK(cuMemAlloc(&own, FEW * 4));
  LAUNCH(fill, (few + 255) / 256, 256, 0, stream, &own, &few, &value);
  for (unsigned i = 0; i < TURNS; i++) {
    hear(peer);
    turn(stream, large, small, own, (2 * i + 1) * STEPS, theirs, mine);
    say(peer);
  }
  CK(cuCtxSynchronize()); // what is closed is in use no more
  unsigned words[FEW];
  CK(cuMemcpyDtoH(words, small, sizeof words));
  CK(cuIpcCloseMemHandle(small));
  CHECK(cuIpcCloseMemHandle(small) != CUDA_SUCCESS);
  CK(cuIpcCloseMemHandle(large));
  CK(cuEventDestroy(theirs));
  // `mine` is the first process's event, whose last record it still waits for.
  give(peer, words, sizeof words);
  hear(peer); // it has freed the memory
  CHECK(cuIpcOpenMemHandle(&large, g.large, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) != CUDA_SUCCESS);
  CK(cuEventDestroy(mine));
  // Now the other way round: this process gives, and ends without a word while the first one has it open.
  CUipcMemHandle mem;
  CUdeviceptr p;
  CK(cuMemAlloc(&p, WORDS * 4));
  LAUNCH(fill, (n + 255) / 256, 256, 0, stream, &p, &n, &value);
  CK(cuStreamSynchronize(stream));
  CK(cuIpcGetMemHandle(&mem, p));
  give(peer, &mem, sizeof mem);
  hear(peer);
  exit(7);
}

int main(int argc, char **argv) {
  if (argc > 1) return other(atoi(argv[1]));
  int pair[2], status;
  char number[16];
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    close(pair[0]);
    snprintf(number, sizeof number, "%d", pair[1]);
    execl("/proc/self/exe", argv[0], number, (char *)NULL);
    _exit(1);
  }
  close(pair[1]);
  int peer = pair[0];
  open_device();
  struct gift g;
  CUdeviceptr large, small, before, at;
  CUevent mine, yours;
  CUstream stream;
  CUipcMemHandle same;
  CUfunction fill = function("fill");
  unsigned n = WORDS, few = FEW, value = seed();
  CK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CK(cuMemAlloc(&before, FEW * 4)); // so that `small` is not the first of whatever it is cut from
  CK(cuMemAlloc(&large, WORDS * 4));
  CK(cuMemAlloc(&small, FEW * 4));
  CK(cuEventCreate(&mine, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
  CK(cuEventCreate(&yours, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
  CK(cuIpcGetMemHandle(&g.large, large));
  CK(cuIpcGetMemHandle(&g.small, small));
  CK(cuIpcGetMemHandle(&same, large));
  CHECK(memcmp(&same, &g.large, sizeof same) == 0); // PyTorch knows what it has opened by the handle's bytes
  CHECK(memcmp(&g.small, &g.large, sizeof same) != 0);
  CHECK(cuIpcOpenMemHandle(&at, g.large, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) != CUDA_SUCCESS); // not in the process that gave it
  CHECK(cuIpcGetMemHandle(&same, 0x1000) != CUDA_SUCCESS);
  CHECK(cuIpcCloseMemHandle(large) != CUDA_SUCCESS);
  CK(cuIpcGetEventHandle(&g.mine, mine));
  CK(cuIpcGetEventHandle(&g.yours, yours));
  LAUNCH(fill, (n + 255) / 256, 256, 0, stream, &large, &n, &value);
  LAUNCH(fill, (few + 255) / 256, 256, 0, stream, &small, &few, &value);
  LAUNCH(fill, (few + 255) / 256, 256, 0, stream, &before, &few, &value);
  give(peer, &g, sizeof g);
  for (unsigned i = 0; i < TURNS; i++) {
    turn(stream, large, small, before, 2 * i * STEPS, i ? yours : NULL, mine);
    say(peer);
    hear(peer);
  }
  CK(cuStreamWaitEvent(stream, yours, 0));
  unsigned theirs[FEW], ours[FEW];
  CK(cuMemcpyDtoHAsync(ours, small, sizeof ours, stream));
  CK(cuStreamSynchronize(stream));
  take(peer, theirs, sizeof theirs); // and it has closed them
  CHECK(memcmp(ours, theirs, sizeof ours) == 0);
  digest_device(large, WORDS * 4);
  digest_device(before, FEW * 4);
  digest(ours, sizeof ours);
  CK(cuMemFree(large));
  say(peer);
  CUipcMemHandle mem;
  CUdeviceptr p;
  take(peer, &mem, sizeof mem);
  CK(cuIpcOpenMemHandle(&p, mem, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  digest_device(p, WORDS * 4);
  unsigned nine = 9;
  LAUNCH(fill, (n + 255) / 256, 256, 0, stream, &p, &n, &nine);
  CK(cuStreamSynchronize(stream));
  digest_device(p, WORDS * 4);
  say(peer);
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
  CK(cuIpcCloseMemHandle(p));
  LAUNCH(fill, (few + 255) / 256, 256, 0, stream, &small, &few, &nine);
  CK(cuStreamSynchronize(stream));
  digest_device(small, FEW * 4);
  CK(cuMemFree(small));
  CK(cuMemFree(before));
  CK(cuEventDestroy(mine));
  CK(cuEventDestroy(yours));
  return finish("sharing");
}
