// p08_count: a preload that counts launches, memsets and copies by kind, and saves the sm_90 machine code of every image that a
// launched kernel comes from. gp_reset() and gp_report(label, requests) are called by the workload; GP_DUMP names the folder for
// images.
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#undef cuGetProcAddress
static void *(*real_dlsym)(void *, const char *);
static void *libcuda;
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
__attribute__((constructor)) static void init(void) {
  if (!real_dlsym) {
    real_dlsym = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
    if (!real_dlsym) real_dlsym = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
  }
}
static void *cu(const char *n) {
  init();
  if (!libcuda) libcuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  return libcuda ? real_dlsym(libcuda, n) : 0;
}
#define REAL(type, n)           \
  static __typeof__((type)0) r; \
  if (!r) r = (type)cu(n)

// ---- tables: handles to images, kernels, counters ----
typedef struct {
  const void *p;
  size_t n;
  int dumped, used;
  long entries, bytes, b90, u90;
  char kinds[96];
} image;
static image *img;
static int n_img, cap_img;
typedef struct {
  const void *k;
  int v;
  const char *name;
} slot;
enum { TAB = 1 << 18 };
static slot *tab;
static slot *find(const void *k) {
  if (!tab) tab = calloc(TAB, sizeof *tab);
  size_t i = ((uintptr_t)k >> 4) * 0x9e3779b97f4a7c15ull >> 46;
  while (tab[i].k && tab[i].k != k) i = (i + 1) % TAB;
  return &tab[i];
}
static void put(const void *k, int v, const char *name) {
  slot *s = find(k);
  s->k = k;
  s->v = v;
  s->name = name;
}
typedef struct {
  char key[40];
  long n;
} counter;
static counter cnt[400];
static int n_cnt;
static long n_launch, n_unknown;
static int on;
static void count(const char *k) {
  if (!on) return;
  for (int i = 0; i < n_cnt; i++)
    if (!strcmp(cnt[i].key, k)) {
      cnt[i].n++;
      return;
    }
  if (n_cnt < 400) {
    snprintf(cnt[n_cnt].key, sizeof cnt[0].key, "%s", k);
    cnt[n_cnt++].n = 1;
  }
}

#pragma pack(push, 1)
typedef struct {
  uint32_t magic;
  uint16_t version, hsize;
  uint64_t size;
} fathead;
typedef struct {
  uint16_t kind, u1;
  uint32_t hsize;
  uint64_t size;
  uint32_t csize, u2;
  uint16_t minor, major;
  uint32_t arch, no, nl;
  uint64_t flags, z, dsize;
} fatent;
#pragma pack(pop)
static int readable(const void *p, size_t n) {
  int fd[2];
  if (pipe(fd)) return 0;
  int ok = write(fd[1], p, n < 4096 ? n : 4096) > 0;
  close(fd[0]);
  close(fd[1]);
  return ok;
}
static void walk(image *m, int dump, int id) {  // entries of a fatbin; with dump, each sm_90 entry goes to a fatbin file of its own
  const fathead *h = m->p;
  const char *dir = getenv("GP_DUMP");
  char path[512];
  if (!memcmp(m->p, "\177ELF", 4)) {
    m->entries = 1;
    m->bytes = m->n;
    m->b90 = m->u90 = m->n;
    strcpy(m->kinds, "elf");
    if (dump && dir && m->n) {
      snprintf(path, sizeof path, "%s/i%d.cubin", dir, id);
      int f = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
      if (write(f, m->p, m->n) < 0) {}
      close(f);
    }
    return;
  }
  if (h->magic != 0xBA55ED50) {
    strcpy(m->kinds, "ptx-or-other");
    return;
  }
  const char *e = (const char *)h + h->hsize, *end = e + h->size;
  m->entries = 0;
  m->b90 = m->u90 = 0;
  m->bytes = h->hsize + h->size;
  m->kinds[0] = 0;
  while (e + sizeof(fatent) <= end) {
    const fatent *t = (const fatent *)e;
    if (!t->hsize || t->kind > 64) break;
    size_t all = t->hsize + t->size;
    m->entries++;
    if (m->entries <= 8)
      snprintf(m->kinds + strlen(m->kinds), sizeof m->kinds - strlen(m->kinds), "%s%d%s ", t->kind == 2 ? "s" : "p", t->arch,
               t->flags & 0xf000 ? "z" : "");
    if (t->kind == 2 && t->arch == 90) {
      m->b90 += all;
      m->u90 += t->dsize ? (long)t->dsize : (long)t->size;
      if (dump && dir) {
        snprintf(path, sizeof path, "%s/i%d.fatbin", dir, id);
        int f = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
        fathead nh = *h;
        nh.hsize = sizeof nh;
        nh.size = all;
        if (write(f, &nh, sizeof nh) < 0 || write(f, t, all) < 0) {}
        close(f);
      }
    }
    e += all;
  }
}
static int image_of(const void *data, int copy) {  // registers an image; heap images are copied, they may be freed
  const uint32_t *w = data;
  size_t n = 0;
  if (!data) return -1;
  if (*w == 0x466243b1) {
    data = *(const void *const *)((const char *)data + 8);
    copy = 0;
  }
  if (((const fathead *)data)->magic == 0xBA55ED50) n = ((const fathead *)data)->hsize + ((const fathead *)data)->size;
  else if (!memcmp(data, "\177ELF", 4)) {
    const unsigned char *e = data;
    uint64_t sho = *(uint64_t *)(e + 40), pho = *(uint64_t *)(e + 32);
    uint16_t shn = *(uint16_t *)(e + 60), phn = *(uint16_t *)(e + 56);
    n = sho + 64ull * shn;
    if (pho + 56ull * phn > n) n = pho + 56ull * phn;
  }
  pthread_mutex_lock(&mu);
  for (int i = 0; i < n_img; i++)
    if (img[i].p == data && !copy) {
      pthread_mutex_unlock(&mu);
      return i;
    }
  if (n_img == cap_img) {
    cap_img = cap_img ? cap_img * 2 : 1024;
    img = realloc(img, cap_img * sizeof *img);
  }
  image *m = &img[n_img];
  memset(m, 0, sizeof *m);
  m->p = data;
  m->n = n;
  if (copy && n && n < (256 << 20)) {
    void *c = malloc(n);
    memcpy(c, data, n);
    m->p = c;
  }
  int id = n_img++;
  pthread_mutex_unlock(&mu);
  return id;
}
static void launched(const void *f) {
  if (!on) return;
  pthread_mutex_lock(&mu);
  n_launch++;
  slot *s = find(f);
  if (!s->k || s->v < 0) n_unknown++;
  else {
    image *m = &img[s->v];
    m->used++;
    if (!m->dumped && readable(m->p, 64)) {
      m->dumped = 1;
      walk(m, 1, s->v);
    }
    if (s->name) {
      const char *d = getenv("GP_DUMP");
      char p[512];
      snprintf(p, sizeof p, "%s/kernels.txt", d ? d : "/tmp");
      FILE *o = fopen(p, "a");
      if (o) {
        fprintf(o, "%d %s\n", s->v, s->name);
        fclose(o);
      }
      s->name = 0;
      count("distinct kernels");
    }
  }
  pthread_mutex_unlock(&mu);
}
static const char *hostkind(const void *p) {
  REAL(CUresult (*)(void *, CUpointer_attribute, CUdeviceptr), "cuPointerGetAttribute");
  unsigned t = 0;
  return r && !r(&t, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)p) && t ? t == CU_MEMORYTYPE_DEVICE ? "dev" : "pin" : "pg";
}
static const char *size_class(size_t n) {
  return n <= 64 ? "<=64B" : n <= 1024 ? "<=1K" : n <= 65536 ? "<=64K" : n <= (1 << 20) ? "<=1M" : ">1M";
}
static void op(const char *what, const void *host, size_t n) {
  if (!on) return;
  char k[40];
  snprintf(k, sizeof k, "%s %s %s", what, host ? hostkind(host) : "", size_class(n));
  pthread_mutex_lock(&mu);
  count(k);
  pthread_mutex_unlock(&mu);
}

// ---- wrappers ----
#define EX __attribute__((visibility("default")))
EX CUresult cuModuleLoadData(CUmodule *m, const void *d) {
  REAL(CUresult (*)(CUmodule *, const void *), "cuModuleLoadData");
  CUresult e = r(m, d);
  if (!e) put(*m, image_of(d, 1), 0);
  return e;
}
EX CUresult cuModuleLoadDataEx(CUmodule *m, const void *d, unsigned n, CUjit_option *o, void **v) {
  REAL(CUresult (*)(CUmodule *, const void *, unsigned, CUjit_option *, void **), "cuModuleLoadDataEx");
  CUresult e = r(m, d, n, o, v);
  if (!e) put(*m, image_of(d, 1), 0);
  return e;
}
EX CUresult cuModuleLoadFatBinary(CUmodule *m, const void *d) {
  REAL(CUresult (*)(CUmodule *, const void *), "cuModuleLoadFatBinary");
  CUresult e = r(m, d);
  if (!e) put(*m, image_of(d, 1), 0);
  return e;
}
EX CUresult cuLibraryLoadData(CUlibrary *l, const void *d, CUjit_option *a, void **b, unsigned c, CUlibraryOption *x, void **y,
                              unsigned z) {
  REAL(CUresult (*)(CUlibrary *, const void *, CUjit_option *, void **, unsigned, CUlibraryOption *, void **, unsigned),
       "cuLibraryLoadData");
  CUresult e = r(l, d, a, b, c, x, y, z);
  if (!e) put(*l, image_of(d, 1), 0);
  return e;
}
EX CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *n) {
  REAL(CUresult (*)(CUfunction *, CUmodule, const char *), "cuModuleGetFunction");
  CUresult e = r(f, m, n);
  if (!e) {
    pthread_mutex_lock(&mu);
    slot *s = find(m);
    int v = s->k ? s->v : -1;
    if (!find(*f)->k) put(*f, v, strdup(n));
    pthread_mutex_unlock(&mu);
  }
  return e;
}
EX CUresult cuLibraryGetKernel(CUkernel *f, CUlibrary m, const char *n) {
  REAL(CUresult (*)(CUkernel *, CUlibrary, const char *), "cuLibraryGetKernel");
  CUresult e = r(f, m, n);
  if (!e) {
    pthread_mutex_lock(&mu);
    slot *s = find(m);
    int v = s->k ? s->v : -1;
    if (!find(*f)->k) put(*f, v, strdup(n));
    pthread_mutex_unlock(&mu);
  }
  return e;
}
EX CUresult cuKernelGetFunction(CUfunction *f, CUkernel k) {
  REAL(CUresult (*)(CUfunction *, CUkernel), "cuKernelGetFunction");
  CUresult e = r(f, k);
  if (!e) {
    pthread_mutex_lock(&mu);
    slot *s = find(k);
    if (s->k && !find(*f)->k) put(*f, s->v, s->name);
    pthread_mutex_unlock(&mu);
  }
  return e;
}
EX CUresult cuLaunchKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned h,
                           CUstream s, void **p, void **x) {
  REAL(CUresult (*)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **),
       "cuLaunchKernel");
  launched(f);
  return r(f, a, b, c, d, e, g, h, s, p, x);
}
EX CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **p, void **x) {
  REAL(CUresult (*)(const CUlaunchConfig *, CUfunction, void **, void **), "cuLaunchKernelEx");
  launched(f);
  return r(c, f, p, x);
}
EX CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g,
                                      unsigned h, CUstream s, void **p) {
  REAL(CUresult (*)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **),
       "cuLaunchCooperativeKernel");
  launched(f);
  op("cooperative", 0, 0);
  return r(f, a, b, c, d, e, g, h, s, p);
}
#undef cuMemcpyHtoDAsync
#undef cuMemcpyDtoHAsync
#undef cuMemcpyDtoDAsync
#undef cuMemcpyHtoD
#undef cuMemcpyDtoH
EX CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr d, const void *h, size_t n, CUstream s) {
  REAL(CUresult (*)(CUdeviceptr, const void *, size_t, CUstream), "cuMemcpyHtoDAsync_v2");
  op("H2D async", h, n);
  return r(d, h, n, s);
}
EX CUresult cuMemcpyDtoHAsync_v2(void *h, CUdeviceptr d, size_t n, CUstream s) {
  REAL(CUresult (*)(void *, CUdeviceptr, size_t, CUstream), "cuMemcpyDtoHAsync_v2");
  op("D2H async", h, n);
  return r(h, d, n, s);
}
EX CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr a, CUdeviceptr d, size_t n, CUstream s) {
  REAL(CUresult (*)(CUdeviceptr, CUdeviceptr, size_t, CUstream), "cuMemcpyDtoDAsync_v2");
  op("D2D async", 0, n);
  return r(a, d, n, s);
}
EX CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void *h, size_t n) {
  REAL(CUresult (*)(CUdeviceptr, const void *, size_t), "cuMemcpyHtoD_v2");
  op("H2D sync", h, n);
  return r(d, h, n);
}
EX CUresult cuMemcpyDtoH_v2(void *h, CUdeviceptr d, size_t n) {
  REAL(CUresult (*)(void *, CUdeviceptr, size_t), "cuMemcpyDtoH_v2");
  op("D2H sync", h, n);
  return r(h, d, n);
}
EX CUresult cuMemcpyAsync(CUdeviceptr a, CUdeviceptr b, size_t n, CUstream s) {
  REAL(CUresult (*)(CUdeviceptr, CUdeviceptr, size_t, CUstream), "cuMemcpyAsync");
  op("cuMemcpyAsync", (void *)b, n);
  return r(a, b, n, s);
}
EX CUresult cuMemsetD8Async(CUdeviceptr a, unsigned char v, size_t n, CUstream s) {
  REAL(CUresult (*)(CUdeviceptr, unsigned char, size_t, CUstream), "cuMemsetD8Async");
  op("memsetD8", 0, n);
  return r(a, v, n, s);
}
EX CUresult cuMemsetD32Async(CUdeviceptr a, unsigned v, size_t n, CUstream s) {
  REAL(CUresult (*)(CUdeviceptr, unsigned, size_t, CUstream), "cuMemsetD32Async");
  op("memsetD32", 0, n * 4);
  return r(a, v, n, s);
}
EX CUresult cuStreamSynchronize(CUstream s) {
  REAL(CUresult (*)(CUstream), "cuStreamSynchronize");
  op("StreamSynchronize", 0, 0);
  return r(s);
}
EX CUresult cuEventRecord(CUevent e, CUstream s) {
  REAL(CUresult (*)(CUevent, CUstream), "cuEventRecord");
  op("EventRecord", 0, 0);
  return r(e, s);
}
EX CUresult cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *c) {
  REAL(CUresult (*)(CUstream, CUstreamCaptureStatus *), "cuStreamIsCapturing");
  op("StreamIsCapturing", 0, 0);
  return r(s, c);
}
static const struct {
  const char *n;
  void *f;
} W[] = {
#define E(n) {#n, (void *)n}
    E(cuModuleLoadData),     E(cuModuleLoadDataEx),        E(cuModuleLoadFatBinary), E(cuLibraryLoadData),
    E(cuModuleGetFunction),  E(cuLibraryGetKernel),        E(cuKernelGetFunction),   E(cuLaunchKernel),
    E(cuLaunchKernelEx),     E(cuLaunchCooperativeKernel), E(cuMemcpyAsync),         E(cuMemsetD8Async),
    E(cuMemsetD32Async),     E(cuStreamSynchronize),       E(cuEventRecord),         E(cuStreamIsCapturing),
    E(cuMemcpyHtoDAsync_v2), E(cuMemcpyDtoHAsync_v2),      E(cuMemcpyDtoDAsync_v2),  E(cuMemcpyHtoD_v2),
    E(cuMemcpyDtoH_v2)};
static void *wrapped(const char *n, int proc) {
  for (size_t i = 0; i < sizeof W / sizeof *W; i++) {
    size_t l = strlen(W[i].n);
    if (!strcmp(W[i].n, n)) return W[i].f;
    if (proc && l > 3 && !strcmp(W[i].n + l - 3, "_v2") && strlen(n) == l - 3 && !strncmp(n, W[i].n, l - 3)) return W[i].f;
  }
  return 0;
}
EX CUresult cuGetProcAddress_v2(const char *n, void **p, int v, cuuint64_t fl, CUdriverProcAddressQueryResult *q);
EX CUresult cuGetProcAddress(const char *n, void **p, int v, cuuint64_t fl) {
  REAL(CUresult (*)(const char *, void **, int, cuuint64_t), "cuGetProcAddress");
  CUresult e = r(n, p, v, fl);
  void *w;
  if (!e && *p && !(fl & 2) && (w = wrapped(n, 1))) *p = w;
  return e;
}
EX CUresult cuGetProcAddress_v2(const char *n, void **p, int v, cuuint64_t fl, CUdriverProcAddressQueryResult *q) {
  REAL(CUresult (*)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *), "cuGetProcAddress_v2");
  CUresult e = r(n, p, v, fl, q);
  if (!e && p && *p) {
    void *w;
    if (!strcmp(n, "cuGetProcAddress")) *p = v >= 12000 ? (void *)cuGetProcAddress_v2 : (void *)cuGetProcAddress;
    else if (!(fl & 2) && (w = wrapped(n, 1))) *p = w;
  }
  return e;
}
EX void *dlsym(void *h, const char *n) {
  init();
  void *p = real_dlsym(h, n);
  if (p && n[0] == 'c' && n[1] == 'u') {
    if (!strcmp(n, "cuGetProcAddress_v2")) return (void *)cuGetProcAddress_v2;
    if (!strcmp(n, "cuGetProcAddress")) return (void *)cuGetProcAddress;
    void *w = wrapped(n, 0);
    if (w) return w;
  }
  return p;
}
EX void gp_reset(void) {
  pthread_mutex_lock(&mu);
  n_cnt = 0;
  n_launch = n_unknown = 0;
  on = 1;
  for (int i = 0; i < n_img; i++) img[i].used = 0;
  pthread_mutex_unlock(&mu);
}
EX void gp_report(const char *label, int n) {
  pthread_mutex_lock(&mu);
  on = 0;
  int used = 0;
  long b = 0, b90 = 0, u90 = 0, big = 0;
  for (int i = 0; i < n_img; i++)
    if (img[i].used) {
      used++;
      b += img[i].bytes;
      b90 += img[i].b90;
      u90 += img[i].u90;
      if (img[i].u90 > big) big = img[i].u90;
    }
  printf("%s: a request has %.1f launches (unknown image %.1f);", label, (double)n_launch / n, (double)n_unknown / n);
  for (int i = 0; i < n_cnt; i++)
    printf(" %s %.*f;", cnt[i].key, strstr(cnt[i].key, "distinct") ? 0 : 1,
           strstr(cnt[i].key, "distinct") ? (double)cnt[i].n : (double)cnt[i].n / n);
  printf(
      "\n  images loaded so far %d, launched from %d: fatbin %.1f MB, sm_90 as stored %.2f MB, uncompressed %.2f MB, largest %.2f "
      "MB\n",
      n_img, used, b / 1e6, b90 / 1e6, u90 / 1e6, big / 1e6);
  fflush(stdout);
  const char *d = getenv("GP_DUMP");
  char p[512];
  snprintf(p, sizeof p, "%s/images.txt", d ? d : "/tmp");
  FILE *o = fopen(p, "w");
  for (int i = 0; o && i < n_img; i++)
    if (img[i].dumped) fprintf(o, "%d %ld %ld %ld %s\n", i, img[i].bytes, img[i].b90, img[i].u90, img[i].kinds);
  if (o) fclose(o);
  pthread_mutex_unlock(&mu);
}
