// p03: one large window mapped piecewise in two processes; attributes of such memory; how many windows there are; registered shared
// memory at a fixed address.
#include "probe.h"
constexpr uint64_t W = 512ull << 30, PIECE = 2 << 20;
static void attrs(const char *n, CUdeviceptr p) {
  unsigned mt = 0, man = 9, ord = 9, ipc = 9, map = 9;
  CUdeviceptr dp = 0, rs = 0;
  size_t sz = 0, as = 0;
  unsigned long long id = 0, ht = 0;
  CUcontext c = 0;
  CUmemoryPool mp = 0;
  CUresult r[12];
  int k = 0;
  r[k++] = cuPointerGetAttribute(&mt, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p);
  r[k++] = cuPointerGetAttribute(&dp, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, p);
  r[k++] = cuPointerGetAttribute(&rs, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, p);
  r[k++] = cuPointerGetAttribute(&sz, CU_POINTER_ATTRIBUTE_RANGE_SIZE, p);
  r[k++] = cuPointerGetAttribute(&ord, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, p);
  r[k++] = cuPointerGetAttribute(&c, CU_POINTER_ATTRIBUTE_CONTEXT, p);
  r[k++] = cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, p);
  r[k++] = cuPointerGetAttribute(&ipc, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, p);
  r[k++] = cuPointerGetAttribute(&ht, CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES, p);
  r[k++] = cuPointerGetAttribute(&man, CU_POINTER_ATTRIBUTE_IS_MANAGED, p);
  r[k++] = cuPointerGetAttribute(&map, CU_POINTER_ATTRIBUTE_MAPPED, p);
  r[k++] = cuPointerGetAttribute(&mp, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, p);
  CUdeviceptr base = 0;
  CUresult ra = cuMemGetAddressRange(&base, &as, p);
  printf(
      "%-22s at %llx: type %u devptr%s range %llx+%zu KiB ord %u ctx %s id %llu ipc %u handles %llu managed %u mapped %u pool %d | "
      "AddressRange %s %llx+%zu KiB | codes",
      n, (long long)p, mt, dp == p ? "=" : "!=", (long long)rs, sz >> 10, ord, c ? "set" : "null", id, ipc, ht, man, map, mp != 0,
      ename(ra), (long long)base, as >> 10);
  for (int i = 0; i < k; i++) printf(" %d", r[i]);
  int so = -1;
  CUresult rs2 = cuPointerGetAttribute(&so, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, p);
  printf(" sync_memops %d/%d\n", rs2, so);
}
int main() {
  setvbuf(stdout, 0, _IOLBF, 0);
  Sh *sh = shm_make();
  int sv[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv)) return 1;
  pid_t pid = fork();
  if (!pid) {
    close(sv[0]);  // the daemon: reserves the same window once, maps the pieces that come
    ctx_open();
    CUresult r = cuMemHostRegister(sh, SHM_SIZE, CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_PORTABLE);
    CUdeviceptr dp = 0;
    cuMemHostGetDevicePointer(&dp, sh, 0);
    sh->code[0] = r;
    sh->code[1] = dp == (CUdeviceptr)sh;
    CUdeviceptr va = 0;
    double t = now();
    r = cuMemAddressReserve(&va, W, 0, WIN, 0);
    sh->t[0] = now() - t;
    sh->code[2] = r;
    sh->code[3] = va == WIN;
    Stat s;
    int n = 0;
    for (;;) {
      int fd = fd_recv(sv[1]);
      if (fd < 0) break;
      CUmemGenericAllocationHandle h;
      CUresult a = cuMemImportFromShareableHandle(&h, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
      close(fd);
      CUdeviceptr at = WIN + (uint64_t)n * 3 * PIECE;
      t = now();
      CUresult b = cuMemMap(at, PIECE, 0, h, 0), c = seg_access(at, PIECE);
      s.add(now() - t);
      if (a || b || c) {
        sh->code[4] = a;
        sh->code[5] = b;
        sh->code[6] = c;
      }
      cuMemRelease(h);
      n++;
    }
    CUresult c = cuMemsetD8(WIN + 3 * PIECE, 0x5a, PIECE);
    sh->code[7] = c;
    c = cuCtxSynchronize();
    sh->code[8] = c;
    sh->t[1] = s.p50();
    sh->t[2] = n;
    _exit(0);
  }
  close(sv[1]);
  ctx_open();
  CUresult r = cuMemHostRegister(sh, SHM_SIZE, CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_PORTABLE);
  CUdeviceptr dp = 0;
  cuMemHostGetDevicePointer(&dp, sh, 0);
  printf("client: register memfd at 16 TiB %s, devptr==hostptr %d\n", ename(r), dp == (CUdeviceptr)sh);
  printf("reserve with a hint of 32 TiB, exact?");
  for (uint64_t n : {2ull << 20, 64ull << 20, 1ull << 30, 8ull << 30, 32ull << 30, 64ull << 30, 128ull << 30, 256ull << 30}) {
    CUdeviceptr v = 0;
    r = cuMemAddressReserve(&v, n, 0, WIN, 0);
    printf(" %lluM:%s", (long long)(n >> 20), r ? ename(r) : v == WIN ? "yes" : "NO");
    if (!r) cuMemAddressFree(v, n);
  }
  printf("\n");
  CUdeviceptr va = 0;
  double t = now();
  r = cuMemAddressReserve(&va, W, 0, WIN, 0);
  printf("client: reserve 512 GiB at 32 TiB %s exact %d %.0f us\n", ename(r), va == WIN, now() - t);
  Stat m, u;
  int N = 16;
  std::vector<CUmemGenericAllocationHandle> H(N);
  for (int i = 0; i < N; i++) {
    CUmemAllocationProp p = seg_prop();
    CK(cuMemCreate(&H[i], PIECE, &p, 0));
    int fd;
    CK(cuMemExportToShareableHandle(&fd, H[i], CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    CUdeviceptr at = WIN + (uint64_t)i * 3 * PIECE;
    t = now();
    r = cuMemMap(at, PIECE, 0, H[i], 0);
    CUresult b = seg_access(at, PIECE);
    m.add(now() - t);
    if (r || b) printf("map piece %d: %s %s\n", i, ename(r), ename(b));
    fd_send(sv[0], fd);
    close(fd);
  }
  close(sv[0]);
  int st;
  waitpid(pid, &st, 0);
  printf(
      "daemon: register %s devptr==hostptr %d, reserve %s exact %d %.0f us, %.0f pieces mapped at offsets (codes %d %d %d) %.0f us "
      "each, memset %s, sync %s; client %.0f us each\n",
      ename(sh->code[0]), sh->code[1], ename(sh->code[2]), sh->code[3], sh->t[0], sh->t[2], sh->code[4], sh->code[5], sh->code[6],
      sh->t[1], ename(sh->code[7]), ename(sh->code[8]), m.p50());
  unsigned char b = 0;
  CK(cuMemcpyDtoH(&b, WIN + 3 * PIECE + 12345, 1));
  printf("client reads what the daemon's memset wrote: %s\n", b == 0x5a ? "yes" : "NO");
  CUdeviceptr q;
  CK(cuMemAlloc(&q, 4 << 20));
  CUdeviceptr q2;
  CK(cuMemAlloc(&q2, 512));
  char *hp;
  CK(cuMemAllocHost((void **)&hp, 1 << 20));
  attrs("window piece+4096", WIN + 4096);
  attrs("window hole", WIN + PIECE);
  attrs("cuMemAlloc+4096", q + 4096);
  attrs("registered memfd", (CUdeviceptr)sh + 4096);
  attrs("cuMemAllocHost", (CUdeviceptr)hp);
  {
    CUdeviceptr l = WIN + 3ull * PIECE * N + PIECE * 8;
    CUmemGenericAllocationHandle h;
    CUmemAllocationProp p = seg_prop();
    CK(cuMemCreate(&h, 2 * PIECE, &p, 0));
    r = cuMemMap(l, PIECE, PIECE, h, 0);
    printf("cuMemMap with an offset inside the handle: %s\n", ename(r));
    if (r) { CK(cuMemMap(l, 2 * PIECE, 0, h, 0)); }
    CK(seg_access(l, r ? 2 * PIECE : PIECE));
    attrs("second", l);
    CK(cuMemUnmap(l, r ? 2 * PIECE : PIECE));
    CK(cuMemRelease(h));
  }
  // Two adjacent handles: does one memset / copy / peer copy / IPC span them?
  {
    CUdeviceptr l = WIN + (W / 2);
    CUmemGenericAllocationHandle h[2];
    CUmemAllocationProp p = seg_prop();
    for (int i = 0; i < 2; i++) {
      CK(cuMemCreate(&h[i], PIECE, &p, 0));
      CK(cuMemMap(l + i * PIECE, PIECE, 0, h[i], 0));
      CK(seg_access(l + i * PIECE, PIECE));
    }
    CUcontext c;
    cuCtxGetCurrent(&c);
    CUipcMemHandle ih;
    char *big = (char *)malloc(2 * PIECE);
    printf("spanning two handles: memset %s", ename(cuMemsetD8(l, 1, 2 * PIECE)));
    printf(" D2H %s", ename(cuMemcpyDtoH(big, l, 2 * PIECE)));
    printf(" D2D %s", ename(cuMemcpyDtoD(q, l, 2 * PIECE)));
    printf(" peer %s", ename(cuMemcpyPeer(l, c, q, c, 2 * PIECE)));
    printf(" AddressRange");
    CUdeviceptr ba;
    size_t sz;
    CK(cuMemGetAddressRange(&ba, &sz, l));
    printf(" %zu KiB, cuIpcGetMemHandle %s, cuMemFree %s", sz >> 10, ename(cuIpcGetMemHandle(&ih, l)), ename(cuMemFree(l)));
    printf(", sync %s\n", ename(cuCtxSynchronize()));
  }
  // unmapped hole: what does a copy to it say?
  {
    char x[16];
    printf("D2H from a hole of the window: %s", ename(cuMemcpyDtoH(x, WIN + PIECE, 16)));
    printf(", memset %s, sync %s\n", ename(cuMemsetD8(WIN + PIECE, 0, 16)), ename(cuCtxSynchronize()));
  }
  for (uint64_t w : {512ull << 30, 1ull << 40}) {
    int ok = 0, run = 0, first = -1;
    std::vector<CUdeviceptr> got;
    char bad[400] = "";
    Stat c;
    for (uint64_t a = 32 * TIB + (w == W ? W : TIB); a < 128 * TIB; a += w) {
      CUdeviceptr v = 0;
      t = now();
      CUresult rr = cuMemAddressReserve(&v, w, 0, a, 0);
      c.add(now() - t);
      if (!rr && v == a) {
        ok++;
        got.push_back(v);
        if (run) {
          snprintf(bad + strlen(bad), sizeof bad - strlen(bad), " %.1f-%.1f", first / 2.0, (a >> 39) / 2.0);
          run = 0;
        }
      } else {
        if (!rr) cuMemAddressFree(v, w);
        if (!run) first = a >> 39;
        run++;
      }
    }
    if (run) snprintf(bad + strlen(bad), sizeof bad - strlen(bad), " %.1f-128", first / 2.0);
    printf("windows of %llu GiB from 32 TiB up: %d exact at once, %.0f/%.0f us each; not exact (TiB):%s\n", (long long)(w >> 30),
           ok, c.p50(), c.p99(), bad);
    for (auto v : got) cuMemAddressFree(v, w);
  }
  for (uint64_t a : {2ull, 4ull, 8ull, 12ull, 16ull, 17ull, 20ull, 24ull, 28ull}) {
    void *p = mmap((void *)(a * TIB + (1ull << 30)), 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
                   -1, 0);
    if (p == MAP_FAILED) {
      printf("mmap at %llu TiB: %s; ", (long long)a, strerror(errno));
      continue;
    }
    CUresult rr = cuMemHostRegister(p, 4096, CU_MEMHOSTREGISTER_DEVICEMAP);
    CUdeviceptr d2 = 0;
    cuMemHostGetDevicePointer(&d2, p, 0);
    printf("%llu TiB %s%s; ", (long long)a, rr ? ename(rr) : "ok", d2 == (CUdeviceptr)p ? "=" : "!=");
    if (!rr) cuMemHostUnregister(p);
    munmap(p, 4096);
  }
  printf("(register at fixed addresses)\n");
}
