// p07: a fault in the daemon's context: which call tells, what survives in the client, how soon the next daemon serves; a daemon
// that is SIGKILLed; GPU core dumps through a fifo. usage: p07_fault [coredump]
#include "probe.h"
#include <poll.h>
#include <sys/stat.h>
#include <string>
__global__ void k_bad(int *p) { *p = 1; }
__global__ void k_sum(const unsigned *p, int n, unsigned *out) {
  unsigned s = 0;
  for (int i = 0; i < n; i++) s += p[i];
  *out = s;
}
__global__ void k_forever(volatile unsigned *go) {
  while (!*go) {}
}
struct Kid {
  pid_t pid;
  int sock;
};
// A daemon process that first opens its context, then takes the segment and obeys one letter at a time.
// (A lazy one opens its context only when a letter comes: CUDA does not survive a fork, so every daemon is forked first.)
static Kid kid(Sh *sh, int slot, const char *core, bool lazy = false) {
  int sv[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv)) _exit(1);
  pid_t pid = fork();
  if (pid) {
    close(sv[1]);
    return {pid, sv[0]};
  }
  close(sv[0]);
  if (core) {
    setenv("CUDA_ENABLE_COREDUMP_ON_EXCEPTION", "1", 1);
    setenv("CUDA_ENABLE_LIGHTWEIGHT_COREDUMP", "1", 1);
    setenv("CUDA_COREDUMP_FILE", core, 1);
    setenv("CUDA_COREDUMP_GENERATION_FLAGS", "skip_nonrelocated_elf_images,skip_global_memory,skip_shared_memory,skip_local_memory",
           1);
  }
  char c;
  if (lazy && recv(sv[1], &c, 1, 0) != 1) _exit(0);
  ctx_open();
  shm_register(sh);
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUfunction bad = FN(k_bad), w = FN(k_work), fv = FN(k_forever);
  CK(cuFuncLoad(bad));
  CK(cuFuncLoad(w));
  CK(cuFuncLoad(fv));
  sh->word[slot] = 1;  // context is up
  bool mapped = false;
  while (recv(sv[1], &c, 1, MSG_PEEK) > 0) {
    if (!mapped && c == 0) {
      int fd = fd_recv(sv[1]);
      seg_import(fd, WIN, SEG_SIZE);
      mapped = true;
    } else if (recv(sv[1], &c, 1, 0) == 1) {
    }
    CUdeviceptr seg = WIN + (1 << 20), nul = 16;
    int it = 10;
    void *a[] = {&seg, &it}, *b[] = {&nul};
    if (c == 0) {
      CK(cuLaunchKernel(w, 4, 1, 1, 128, 1, 1, 0, s, a, 0));
      CK(cuStreamSynchronize(s));
      sh->word[slot] = 2;
    }  // first kernel done
    if (c == 'k') {
      CUresult r = cuLaunchKernel(w, 4, 1, 1, 128, 1, 1, 0, s, a, 0), q = cuStreamSynchronize(s);
      sh->code[slot] = r ? r : q;
      sh->word[slot] = 3;
    }
    if (c == 'l') {
      CUdeviceptr g = (CUdeviceptr)&sh->word[15];
      void *x[] = {&g};
      CK(cuLaunchKernel(fv, 1, 1, 1, 32, 1, 1, 0, s, x, 0));
      usleep(20000);
      sh->word[slot] = 4;
    }
    if (c == 'f') {
      CUevent e;
      CK(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
      int *r = (int *)sh->code;
      double t = now();
      r[0] = cuLaunchKernel(bad, 1, 1, 1, 32, 1, 1, 0, s, b, 0);
      r[1] = cuEventRecord(e, s);
      CK(cuStreamWriteValue32(s, (CUdeviceptr)&sh->done, 77, 0));
      CUresult q;
      while ((q = cuStreamQuery(s)) == CUDA_ERROR_NOT_READY && now() - t < 30e6) {}
      sh->t[0] = t;
      sh->t[1] = now();
      r[2] = q;
      r[3] = cuEventQuery(e);
      r[4] = cuStreamSynchronize(s);
      r[5] = cuCtxSynchronize();
      r[6] = cuLaunchKernel(w, 4, 1, 1, 128, 1, 1, 0, s, a, 0);
      CUdeviceptr m;
      r[7] = cuMemAlloc(&m, 4096);
      r[8] = cuStreamWriteValue32(s, (CUdeviceptr)&sh->done, 78, 0);
      r[9] = cuMemHostUnregister(sh);
      CUdevice dv = 0;
      unsigned fl;
      int act;
      r[10] = cuDevicePrimaryCtxGetState(dv, &fl, &act);
      r[11] = act;
      r[12] = sh->done;
      r[13] = cuMemUnmap(WIN, SEG_SIZE);
      r[14] = cuDevicePrimaryCtxReset(dv);
      CUcontext nc;
      r[15] = cuDevicePrimaryCtxRetain(&nc, dv);
      r[16] = cuMemAlloc(&m, 4096);
      sh->t[2] = now();
      __sync_synchronize();
      sh->word[slot] = 5;
      _exit(3);
    }
  }
  _exit(0);
}
static bool up(Sh *sh, int slot, uint32_t v, double s = 30) { return spin_until(sh->word[slot], v, s); }
static void cmd(Kid &k, char c) {
  if (send(k.sock, &c, 1, 0) != 1) printf("! command %c not sent\n", c);
}
int main(int argc, char **) {
  setvbuf(stdout, 0, _IOLBF, 0);
  signal(SIGPIPE, SIG_IGN);
  Sh *sh = shm_make();
  if (argc > 1) {  // the coredump variant: no client, one daemon, a fifo
    std::string fifo = "/tmp/gpt_core." + std::to_string(getpid());
    if (mkfifo(fifo.c_str(), 0600)) return 1;
    int fd = open(fifo.c_str(), O_RDWR | O_NONBLOCK);
    Kid k = kid(sh, 0, fifo.c_str());
    up(sh, 0, 1);
    double t = now(), first = 0, last = 0;
    long n = 0;
    char b[65536];
    cmd(k, 'f');
    while (now() - t < 20e6) {
      pollfd p = {fd, POLLIN, 0};
      poll(&p, 1, 20);
      ssize_t r;
      while ((r = read(fd, b, sizeof b)) > 0) {
        if (!first) first = now() - t;
        last = now() - t;
        n += r;
        if (n == r) printf("core dump starts with: %02x %c%c%c\n", (unsigned char)b[0], b[1], b[2], b[3]);
      }
      if (sh->word[0] == 5 && now() - t > last + 300e3) break;
      int st;
      if (waitpid(k.pid, &st, WNOHANG) == k.pid) {
        printf("faulting process ended: status %x\n", st);
        break;
      }
    }
    printf(
        "light core dump by a fifo: %ld bytes, first after %.0f ms, last after %.0f ms, fault seen by the program after %.0f ms "
        "(code %d %s)\n",
        n, first / 1e3, last / 1e3, (sh->t[1] - sh->t[0]) / 1e3, sh->code[2], ename(sh->code[2]));
    kill(k.pid, SIGKILL);
    close(fd);
    unlink(fifo.c_str());
    return 0;
  }
  Kid d = kid(sh, 0, 0), spare = kid(sh, 1, 0), late = kid(sh, 2, 0, true);
  ctx_open();
  shm_register(sh);
  CUmemGenericAllocationHandle h;
  int fd = seg_create(WIN, SEG_SIZE, &h);
  CUstream s;
  CK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUfunction fs = FN(k_sum);
  CK(cuFuncLoad(fs));
  CK(cuMemsetD32(WIN, 7, 1024));
  CK(cuCtxSynchronize());
  if (!up(sh, 0, 1) || !up(sh, 1, 1)) {
    printf("! daemons did not come up\n");
    return 1;
  }
  fd_send(d.sock, fd);
  if (!up(sh, 0, 2)) printf("! first daemon's kernel\n");
  double t = now();
  cmd(d, 'f');
  if (!up(sh, 0, 5)) printf("! fault not reported\n");
  volatile int *c = sh->code;
  printf(
      "fault seen by cuStreamQuery after %.1f ms; codes: launch %d, eventRecord %d, streamQuery %d %s, eventQuery %d, streamSync "
      "%d, ctxSync %d, next launch %d, memAlloc %d, writeValue %d, hostUnregister %d, primary state %d active %d, done word %d, "
      "memUnmap %d, primaryReset %d, retain again %d, then memAlloc %d (%.0f ms in all)\n",
      (sh->t[1] - sh->t[0]) / 1e3, c[0], c[1], c[2], ename(c[2]), c[3], c[4], c[5], c[6], c[7], c[8], c[9], c[10], c[11], c[12],
      c[13], c[14], c[15], c[16], (sh->t[2] - sh->t[0]) / 1e3);
  t = now();
  fd_send(spare.sock, fd);
  bool ok = up(sh, 1, 2);
  printf("spare daemon with a context from before the fault: %s, import+map+first kernel %.1f ms\n", ok ? "works" : "FAILS",
         (now() - t) / 1e3);
  t = now();
  cmd(late, 'o');
  ok = up(sh, 2, 1);
  double tc = now() - t;
  if (ok) {
    fd_send(late.sock, fd);
    ok = up(sh, 2, 2);
  }
  printf("fresh daemon after the fault: %s, context %.0f ms, first kernel on the segment after %.0f ms\n", ok ? "works" : "FAILS",
         tc / 1e3, (now() - t) / 1e3);
  auto client = [&](const char *w) {
    CUdeviceptr in = WIN, out = (CUdeviceptr)&sh->word[10];
    int n = 1024;
    void *a[] = {&in, &n, &out};
    sh->word[10] = 0;
    sh->word[11] = 0;
    CUresult r = cuLaunchKernel(fs, 1, 1, 1, 1, 1, 1, 0, s, a, 0), q = cuStreamWriteValue32(s, (CUdeviceptr)&sh->word[11], 9, 0),
             y = cuStreamSynchronize(s);
    unsigned v[4] = {};
    CUresult cp = cuMemcpyDtoH(v, WIN, 16);
    CUdeviceptr m;
    CUresult al = cuMemAlloc(&m, 4096);
    if (!al) cuMemFree(m);
    printf("client after %s: kernel %d/%d, sum %s, stream write %d %s, copy %d %s, alloc %d\n", w, r, y,
           sh->word[10] == 7168 ? "right" : "WRONG", q, sh->word[11] == 9 ? "seen" : "NOT seen", cp, v[0] == 7 ? "right" : "WRONG",
           al);
  };
  client("the daemon's fault");
  // A client stream blocked on a word when the daemon dies; then the CPU writes it.
  sh->word[12] = sh->word[13] = 0;
  CK(cuStreamWaitValue32(s, (CUdeviceptr)&sh->word[12], 1, CU_STREAM_WAIT_VALUE_GEQ));
  CK(cuStreamWriteValue32(s, (CUdeviceptr)&sh->word[13], 1, 0));
  usleep(2000);
  t = now();
  kill(spare.pid, SIGKILL);
  waitpid(spare.pid, 0, 0);
  printf("SIGKILL of an idle daemon: reaped after %.1f ms; client stream still blocked: %s; ", (now() - t) / 1e3,
         sh->word[13] ? "NO" : "yes");
  sh->word[12] = 1;
  t = now();
  ok = spin_until(sh->word[13], 1, 5);
  printf("proceeds after the CPU's write: %s (%.0f us)\n", ok ? "yes" : "NO", now() - t);
  client("SIGKILL of a daemon");
  // A daemon killed in an endless kernel, while the client waits on the GPU.
  sh->word[15] = 0;
  cmd(late, 'l');
  if (!up(sh, 2, 4)) printf("! endless kernel did not start\n");
  t = now();
  kill(late.pid, SIGKILL);
  double tk = now();
  waitpid(late.pid, 0, 0);
  printf("SIGKILL of a daemon in an endless kernel: reaped after %.1f ms; ", (now() - tk) / 1e3);
  tk = now();
  printf("\n");
  client("SIGKILL in an endless kernel");
  printf("that client work took %.1f ms\n", (now() - tk) / 1e3);
  // A client's context when the client itself faults does not touch a fresh daemon: same path, skipped. Time to free: how soon is
  // the dead daemon's memory back?
  size_t fr, tot;
  CK(cuMemGetInfo(&fr, &tot));
  printf("free memory now %zu MiB of %zu\n", fr >> 20, tot >> 20);
  for (Kid k : {d, spare, late}) {
    kill(k.pid, SIGKILL);
    waitpid(k.pid, 0, 0);
  }
  fflush(stdout);
  _exit(0);
}
