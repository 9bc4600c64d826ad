// probe.h: what every probe shares: clocks, percentiles, small kernels, and a pair of processes (client and daemon) around one segment.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <vector>

static inline const char *ename(int r) {
  const char *s = nullptr;
  cuGetErrorName((CUresult)r, &s);
  return s ? s : "?";
}
#define CK(x)                                                                                  \
  do {                                                                                         \
    int r_ = (int)(x);                                                                         \
    if (r_) {                                                                                  \
      printf("! %s:%d pid %d %s -> %d %s\n", __FILE__, __LINE__, getpid(), #x, r_, ename(r_)); \
      fflush(stdout);                                                                          \
      _exit(1);                                                                                \
    }                                                                                          \
  } while (0)
static inline double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

struct Stat {
  std::vector<double> v;
  void add(double x) { v.push_back(x); }
  double q(double p) {
    if (v.empty()) return -1;
    std::sort(v.begin(), v.end());
    return v[std::min(v.size() - 1, (size_t)(v.size() * p))];
  }
  double p50() { return q(.5); }
  double p99() { return q(.99); }
};

// The median and p99 of n calls of f, in microseconds, after w calls that are not counted.
static inline Stat timed(int n, int w, const std::function<void()> &f) {
  Stat s;
  for (int i = 0; i < n + w; i++) {
    double a = now();
    f();
    if (i >= w) s.add(now() - a);
  }
  return s;
}

__global__ void k_work(float *p, int iters) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float v = p[i];
  for (int k = 0; k < iters; k++) v = fmaf(v, 1.0001f, 0.5f);
  p[i] = v;
}
__global__ void k_empty() {}
// Spins for ns nanoseconds of the GPU's global timer, then stores v at flag (if any) with system scope.
__global__ void k_spin(unsigned long long ns, volatile unsigned *flag, unsigned v) {
  unsigned long long a, b;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(a));
  do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(b));
  while (b - a < ns);
  if (flag && threadIdx.x == 0 && blockIdx.x == 0) {
    *flag = v;
    __threadfence_system();
  }
}
static inline CUfunction fn(const void *sym) {
  cudaFunction_t f;
  CK(cudaGetFuncBySymbol(&f, sym));
  return (CUfunction)f;
}
#define FN(k) fn((const void *)(k))
static inline CUresult spin_on(CUfunction f, CUstream s, unsigned long long ns, CUdeviceptr flag, unsigned v) {
  void *a[] = {&ns, &flag, &v};
  return cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, a, 0);
}

// ---- one segment and one shared page between two processes ----
constexpr uint64_t TIB = 1ull << 40, WIN = 32 * TIB, SHM_AT = 16 * TIB;
constexpr uint64_t WIN_SIZE = 512ull << 30;
constexpr size_t SHM_SIZE = 4 << 20, SEG_SIZE = 4 << 20;
struct Sh {  // at SHM_AT in both processes, registered in both contexts
  volatile uint32_t cmd, op, n, up;
  char p0[48];
  volatile uint32_t done;
  char p1[60];
  volatile uint32_t ready;
  char p2[60];
  volatile uint32_t word[16];  // free for each probe
  volatile double t[16];
  volatile int code[32];
  char *buf() { return (char *)this + 65536; }
};
static inline Sh *shm_make() {
  int fd = memfd_create("probe", 0);
  if (fd < 0 || ftruncate(fd, SHM_SIZE)) {
    printf("! memfd: %s\n", strerror(errno));
    _exit(1);
  }
  void *p = mmap((void *)SHM_AT, SHM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
  if (p != (void *)SHM_AT) {
    printf("! shared page not at 16 TiB: %s\n", strerror(errno));
    _exit(1);
  }
  memset(p, 0, SHM_SIZE);
  return (Sh *)p;
}
static inline void shm_register(Sh *sh) {
  CK(cuMemHostRegister(sh, SHM_SIZE, CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_PORTABLE));
}
static inline void fd_send(int s, int fd) {
  char c = 0, cb[CMSG_SPACE(sizeof(int))] = {};
  iovec io = {&c, 1};
  msghdr m = {};
  m.msg_iov = &io;
  m.msg_iovlen = 1;
  m.msg_control = cb;
  m.msg_controllen = sizeof cb;
  cmsghdr *h = CMSG_FIRSTHDR(&m);
  h->cmsg_level = SOL_SOCKET;
  h->cmsg_type = SCM_RIGHTS;
  h->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(h), &fd, sizeof fd);
  if (sendmsg(s, &m, 0) != 1) {
    printf("! sendmsg: %s\n", strerror(errno));
    _exit(1);
  }
}
static inline int fd_recv(int s) {
  char c, cb[CMSG_SPACE(sizeof(int))] = {};
  iovec io = {&c, 1};
  msghdr m = {};
  m.msg_iov = &io;
  m.msg_iovlen = 1;
  m.msg_control = cb;
  m.msg_controllen = sizeof cb;
  if (recvmsg(s, &m, 0) != 1 || !CMSG_FIRSTHDR(&m)) return -1;
  int fd;
  memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
  return fd;
}
static inline CUcontext ctx_open() {
  CUdevice d;
  CUcontext c;
  CK(cuInit(0));
  CK(cuDeviceGet(&d, 0));
  CK(cuDevicePrimaryCtxRetain(&c, d));
  CK(cuCtxSetCurrent(c));
  return c;
}
static inline CUmemAllocationProp seg_prop() {
  CUmemAllocationProp p = {};
  p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  p.location.id = 0;
  return p;
}
static inline CUresult seg_access(CUdeviceptr va, size_t n) {
  CUmemAccessDesc ad = {};
  ad.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  ad.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  return cuMemSetAccess(va, n, &ad, 1);
}
// Small reservations do not get the address they ask for, so the whole window is reserved once and pieces are mapped into it.
static inline CUdeviceptr seg_map(CUmemGenericAllocationHandle h, size_t n, CUdeviceptr at) {
  static bool reserved;
  if (!reserved) {
    CUdeviceptr va;
    CK(cuMemAddressReserve(&va, WIN_SIZE, 0, WIN, 0));
    if (va != WIN) {
      printf("! window came back at %llx\n", (long long)va);
      _exit(1);
    }
    reserved = true;
  }
  CK(cuMemMap(at, n, 0, h, 0));
  CK(seg_access(at, n));
  return at;
}
static inline int seg_create(CUdeviceptr at, size_t n, CUmemGenericAllocationHandle *h) {  // the exported fd
  CUmemAllocationProp p = seg_prop();
  CK(cuMemCreate(h, n, &p, 0));
  int fd;
  CK(cuMemExportToShareableHandle(&fd, *h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  seg_map(*h, n, at);
  return fd;
}
static inline void seg_import(int fd, CUdeviceptr at, size_t n) {
  CUmemGenericAllocationHandle h;
  CK(cuMemImportFromShareableHandle(&h, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  seg_map(h, n, at);
  close(fd);
}
// Waits on the CPU until w == v; false after s seconds.
static inline bool spin_until(volatile uint32_t &w, uint32_t v, double s = 5) {
  double t0 = 0;
  for (long i = 0; w != v; i++)
    if (!(i & 0xfffff)) {
      double t = now();
      if (!t0) t0 = t;
      else if (t - t0 > s * 1e6) return false;
    }
  return true;
}

// The daemon of the two-process probes: obeys sh->op whenever sh->cmd rises and has its stream write the same number to sh->done.
enum { OP_KERNEL = 1, OP_KERNEL_D2H, OP_H2D_KERNEL, OP_WATCH_KERNEL, OP_WAIT_KERNEL, OP_QUIT = 9 };
static inline void daemon_loop(Sh *sh, int sock) {
  ctx_open();
  shm_register(sh);
  int fd = fd_recv(sock);
  if (fd < 0) _exit(1);
  seg_import(fd, WIN, SEG_SIZE);
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUfunction f = FN(k_work);
  CUdeviceptr seg = WIN;
  int it = 100;
  void *a[] = {&seg, &it};
  uint32_t seen = 0;
  auto kernel = [&] { CK(cuLaunchKernel(f, 64, 1, 1, 128, 1, 1, 0, s, a, 0)); };
  kernel();
  CK(cuStreamSynchronize(s));
  auto done = [&](uint32_t v) { CK(cuStreamWriteValue32(s, (CUdeviceptr)&sh->done, v, 0)); };
  sh->up = 1;
  pid_t pp = getppid();
  for (;;) {
    for (long i = 0; sh->cmd == seen; i++)
      if (!(i & 0xffffff) && getppid() != pp) _exit(0);
    seen = sh->cmd;
    __sync_synchronize();
    switch (sh->op) {
      case OP_KERNEL:
        kernel();
        done(seen);
        break;
      case OP_KERNEL_D2H:
        kernel();
        CK(cuMemcpyDtoHAsync(sh->buf(), seg, sh->n, s));
        done(seen);
        break;
      case OP_H2D_KERNEL:
        CK(cuMemcpyHtoDAsync(seg, sh->buf(), sh->n, s));
        kernel();
        done(seen);
        break;
      case OP_WATCH_KERNEL:
        while (sh->ready != seen) {}
        kernel();
        done(seen);
        break;  // ready watched on the CPU
      case OP_WAIT_KERNEL:
        CK(cuStreamWaitValue32(s, (CUdeviceptr)&sh->ready, seen, CU_STREAM_WAIT_VALUE_EQ));
        kernel();
        done(seen);
        break;
      default:
        cuStreamSynchronize(s);
        _exit(0);
    }
  }
}
struct Duo {
  Sh *sh;
  pid_t pid;
  CUmemGenericAllocationHandle h;
  uint32_t seq = 0;
  void post(uint32_t op, uint32_t n = 0) {
    sh->op = op;
    sh->n = n;
    __sync_synchronize();
    sh->cmd = ++seq;
  }
  void wait() {
    if (!spin_until(sh->done, seq)) {
      printf("! done word did not come\n");
      fflush(stdout);
      kill(pid, SIGKILL);
      _exit(1);
    }
  }
  void quit() {
    post(OP_QUIT);
    waitpid(pid, 0, 0);
  }
};
// Forks the daemon before any CUDA call, opens the client's context and shares the segment at WIN.
static inline Duo duo_open() {
  setvbuf(stdout, 0, _IOLBF, 0);
  Duo d;
  d.sh = shm_make();
  int sv[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv)) _exit(1);
  d.pid = fork();
  if (!d.pid) {
    close(sv[0]);
    daemon_loop(d.sh, sv[1]);
  }
  close(sv[1]);
  ctx_open();
  shm_register(d.sh);
  int fd = seg_create(WIN, SEG_SIZE, &d.h);
  fd_send(sv[0], fd);
  close(fd);
  double t0 = now();
  while (!d.sh->up) {
    int st;
    if (waitpid(d.pid, &st, WNOHANG) == d.pid || now() - t0 > 20e6) {
      printf("! daemon did not come up\n");
      _exit(1);
    }
    usleep(1000);
  }
  return d;
}
