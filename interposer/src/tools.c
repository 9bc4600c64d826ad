#include "tools.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "hooks/dlsym.h"
#include "log.h"
#include "session.h"

static _Atomic bool subscribed; // somebody called cuptiSubscribe or cuptiActivityEnable

// Reads a small file; returns its length, always terminated.
static size_t slurp(const char *path, char *text, size_t bytes) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t n = read(fd, text, bytes - 1);
  close(fd);
  text[n > 0 ? n : 0] = 0;
  return n > 0 ? (size_t)n : 0;
}

// cuda-gdb raises a flag inside libcuda when it attaches; before that it is this process's tracer. A plain gdb or strace sees
// no GPU work and changes nothing.
static bool debugged(void) {
  void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  heddle_dlsym_function real = heddle_dlsym_real();
  const uint32_t *flag = driver && real ? real(driver, "cudbgIpcFlag") : NULL; // CUDBG_IPC_FLAG_NAME in cudadebugger.h
  if (flag && __atomic_load_n(flag, __ATOMIC_RELAXED)) return true;
  char text[2048], path[64];
  if (!slurp("/proc/self/status", text, sizeof text)) return false;
  const char *line = strstr(text, "\nTracerPid:");
  long tracer = line ? strtol(line + 11, NULL, 10) : 0;
  if (tracer <= 0) return false;
  static const char head[] = "/proc/", tail[] = "/comm";
  char digits[24];
  int n = 0;
  for (long t = tracer; t; t /= 10) digits[n++] = (char)('0' + t % 10);
  char *at = path;
  memcpy(at, head, sizeof head - 1);
  at += sizeof head - 1;
  while (n) *at++ = digits[--n];
  memcpy(at, tail, sizeof tail);
  return slurp(path, text, sizeof text) && strncmp(text, "cuda-gdb", 8) == 0;
}

// Libraries that exist only to watch CUDA calls. libcupti itself is no sign: PyTorch links it always.
static const char *const watchers[] = {
    "libToolsInjection", "libcuda-injection", "libsanitizer-collection", "libInterceptorInjectionTarget", "libTreeLauncherTargetInjection",
};

static int find_watcher(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  const char *slash = strrchr(info->dlpi_name, '/'), *base = slash ? slash + 1 : info->dlpi_name;
  for (size_t i = 0; i < sizeof watchers / sizeof watchers[0]; i++) {
    if (strncmp(base, watchers[i], strlen(watchers[i])) != 0) continue;
    *(const char **)data = watchers[i];
    return 1;
  }
  return 0;
}

bool heddle_tools_active(const char **which) {
  if (heddle_config()->force) return false;
  // NVTX_INJECTION64_PATH only receives marks: harmless.
  const char *injected = secure_getenv("CUDA_INJECTION64_PATH");
  if (injected && *injected) *which = "CUDA_INJECTION64_PATH (a profiler's injection library)";
  else if (atomic_load_explicit(&subscribed, memory_order_acquire)) *which = "a CUPTI subscriber";
  else if (debugged()) *which = "a CUDA debugger";
  else return dl_iterate_phdr(find_watcher, which) == 1;
  return true;
}

// ---- CUPTI ----
// A profiler inside the process (torch.profiler) subscribes when it starts, long after cuInit. From then on it must see launches
// in this process: sessions finish what they have and the process stays native. These symbols are exported for that alone; the
// call goes on to the real function, wherever it is loaded.
void cuptiSubscribe(void);
void cuptiSubscribe_v2(void);
void cuptiActivityEnable(void);
void cuptiActivityEnableContext(void);
static struct { const char *name; void (*ours)(void); void *_Atomic real; } cupti[] = {
    {"cuptiSubscribe", cuptiSubscribe, NULL},
    {"cuptiSubscribe_v2", cuptiSubscribe_v2, NULL},
    {"cuptiActivityEnable", cuptiActivityEnable, NULL},
    {"cuptiActivityEnableContext", cuptiActivityEnableContext, NULL},
};
enum { CUPTIS = sizeof cupti / sizeof cupti[0] };

static int cupti_index(const char *name) {
  for (int i = 0; i < CUPTIS; i++)
    if (strcmp(cupti[i].name, name) == 0) return i;
  return -1;
}

static int find_cupti(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  const char *slash = strrchr(info->dlpi_name, '/'), *base = slash ? slash + 1 : info->dlpi_name;
  if (strncmp(base, "libcupti.so", 11) != 0) return 0;
  *(const char **)data = info->dlpi_name;
  return 1;
}

void *heddle_tools_cupti_ours(const char *name) {
  int i = cupti_index(name);
  return i < 0 ? NULL : (void *)cupti[i].ours;
}

void *heddle_tools_cupti_real(const char *name) {
  int i = cupti_index(name);
  heddle_dlsym_function real = heddle_dlsym_real();
  if (i < 0 || !real) return NULL;
  void *known = atomic_load_explicit(&cupti[i].real, memory_order_acquire);
  if (known) return known;
  void *next = real(RTLD_NEXT, name);
  if (next) return next;
  const char *path = NULL; // loaded with RTLD_LOCAL, as Python does
  void *handle = dl_iterate_phdr(find_cupti, &path) == 1 ? dlopen(path, RTLD_LAZY | RTLD_NOLOAD) : NULL;
  return handle ? real(handle, name) : NULL;
}

void *heddle_tools_cupti_substitute(const char *name, void *found) {
  int i = cupti_index(name);
  if (i < 0) return found;
  void *before = NULL;
  // Two CUPTIs in one process: only the first one found is watched.
  if (!atomic_compare_exchange_strong(&cupti[i].real, &before, found) && before != found) return found;
  return (void *)cupti[i].ours;
}

// Called by the stand-ins below. Returns where to go on.
void *heddle_tools_cupti(unsigned index);
__attribute__((used)) void *heddle_tools_cupti(unsigned index) {
  if (!heddle_config()->force && !atomic_exchange_explicit(&subscribed, true, memory_order_acq_rel)) {
    heddle_log(HEDDLE_LOG_WARN, "running natively from here because of a CUPTI subscriber; HEDDLE_FORCE=1 forwards nevertheless");
    for (int d = 0; d < HEDDLE_MAX_DEVICES; d++) {
      struct heddle_session *s = heddle_session_peek(d);
      if (s) heddle_session_close(s, HEDDLE_NATIVE_TOOL);
    }
  }
  return heddle_tools_cupti_real(cupti[index].name);
}

// Keeps the caller's argument registers and jumps on; CUPTI_ERROR_NOT_INITIALIZED (15) when there is no CUPTI.
#define CUPTI(name, index)                                       \
  __asm__(".text\n.globl " #name "\n.protected " #name "\n"      \
          ".type " #name ", @function\n"                         \
          ".p2align 4\n" #name ":\n  .cfi_startproc\n  endbr64\n" \
          "  pushq %rdi\n  pushq %rsi\n  pushq %rdx\n  pushq %rcx\n  pushq %r8\n" \
          "  .cfi_adjust_cfa_offset 40\n"                         \
          "  movl $" #index ", %edi\n  call heddle_tools_cupti\n" \
          "  popq %r8\n  popq %rcx\n  popq %rdx\n  popq %rsi\n  popq %rdi\n" \
          "  .cfi_adjust_cfa_offset -40\n"                        \
          "  testq %rax, %rax\n  je 1f\n  jmp *%rax\n"            \
          "1:\n  movl $15, %eax\n  ret\n  .cfi_endproc\n.size " #name ", .-" #name "\n")
CUPTI(cuptiSubscribe, 0);
CUPTI(cuptiSubscribe_v2, 1);
CUPTI(cuptiActivityEnable, 2);
CUPTI(cuptiActivityEnableContext, 3);
