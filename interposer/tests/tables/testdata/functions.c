// Handles that no hook gave out: the driver is asked whose they are, its answer "nobody's" holds until an image or a kernel becomes
// known, and then it is asked once more. Around code/function.c the driver has two modules, a library and a kernel of it.
#include "check.h"

#include <string.h>

#include "code/inner.h"
#include "hooks/hooks.h"
#include "log.h"
#include "order.h"

// A record that another one took the place of stays: a launch may hold it.
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; }

struct heddle_real heddle_real;
pthread_mutex_t heddle_code_lock = PTHREAD_MUTEX_INITIALIZER;

// What the driver has. FUNCTION is of MODULE, CAPTURED the function that a captured launch of KERNEL comes back as; BROKEN is no handle.
#define FUNCTION ((CUfunction)0x10)
#define CAPTURED ((CUfunction)0x20)
#define KERNEL ((CUkernel)0x30)
#define LATE ((CUkernel)0x40)
#define BROKEN ((CUfunction)0x50)
#define MODULE ((CUmodule)0x60)
#define LIBRARY ((CUlibrary)0x70)
static unsigned asked; // questions whose a handle is
static struct heddle_image image;
static bool module_known, library_known;

static CUresult get_module(CUmodule *m, CUfunction f) {
  asked++;
  *m = f == FUNCTION ? MODULE : (CUmodule)0x61;
  return f == FUNCTION || f == CAPTURED ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
static CUresult get_library(CUlibrary *l, CUkernel k) {
  *l = LIBRARY;
  return k == KERNEL || k == LATE ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
static CUresult function_name(const char **name, CUfunction f) { *name = f == FUNCTION ? "plain" : "kernel"; return CUDA_SUCCESS; }
static CUresult kernel_name(const char **name, CUkernel k) { *name = k == KERNEL ? "kernel" : "late"; return CUDA_SUCCESS; }
static CUresult kernel_function(CUfunction *f, CUkernel k) { *f = k == KERNEL ? CAPTURED : (CUfunction)0x99; return CUDA_SUCCESS; }
static CUresult get_kernel(CUkernel *k, CUlibrary l, const char *name) { (void)l, (void)name; *k = KERNEL; return CUDA_SUCCESS; }
static CUresult function_param(CUfunction f, size_t i, size_t *offset, size_t *bytes) { (void)f; *offset = 8 * i; *bytes = 8; return i < 2 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }
static CUresult kernel_param(CUkernel k, size_t i, size_t *offset, size_t *bytes) { return function_param((CUfunction)k, i, offset, bytes); }
static CUresult function_attribute(int *v, CUfunction_attribute a, CUfunction f) { (void)a, (void)f; *v = 64; return CUDA_SUCCESS; }
static CUresult kernel_attribute(int *v, CUfunction_attribute a, CUkernel k, CUdevice d) { (void)a, (void)k, (void)d; *v = 64; return CUDA_SUCCESS; }
static CUresult current_context(CUcontext *c) { *c = (CUcontext)1; return CUDA_SUCCESS; }
static CUresult current_device(CUdevice *d) { *d = 0; return CUDA_SUCCESS; }

// What the rest of the library has.
struct heddle_image *heddle_image_of_module(CUmodule m) { return m == MODULE && module_known ? &image : NULL; }
struct heddle_image *heddle_image_of_library(CUlibrary l) { return l == LIBRARY && library_known ? &image : NULL; }
uint64_t heddle_image_id(struct heddle_session *s, struct heddle_image *i, enum heddle_native_reason *why) { (void)s, (void)i, (void)why; return 0; }
void heddle_image_give_up(struct heddle_image *i, enum heddle_native_reason why) { (void)i, (void)why; }
int heddle_session_request(struct heddle_session *s, uint16_t type, const void *body, size_t body_bytes, const void *tail, size_t tail_bytes, const int *fds_in,
                           int nfds_in, void *reply_body, size_t reply_bytes, int *fds_out, int *nfds_out) {
  (void)s, (void)type, (void)body, (void)body_bytes, (void)tail, (void)tail_bytes, (void)fds_in, (void)nfds_in, (void)reply_body, (void)reply_bytes, (void)fds_out;
  *nfds_out = 0;
  return -1;
}
struct heddle_session *heddle_session_peek(CUdevice d) { (void)d; return NULL; }
struct heddle_session *heddle_session_current(void) { return NULL; }
CUstreamCaptureMode heddle_capture_relax(void) { return CU_STREAM_CAPTURE_MODE_RELAXED; }
void heddle_capture_restore(CUstreamCaptureMode mode) { (void)mode; }
void heddle_log(enum heddle_log_level level, const char *format, ...) { (void)level, (void)format; }

// The answer to f, asked often; by how many questions to the driver.
static const struct heddle_function *often(CUfunction f, unsigned questions) {
  unsigned before = asked;
  const struct heddle_function *first = heddle_code_function(f);
  for (int i = 0; i < 100; i++) CHECK(heddle_code_function(f) == first);
  CHECK(asked == before + questions);
  return first;
}

int main(void) {
  heddle_real.cuFuncGetModule = get_module;
  heddle_real.cuKernelGetLibrary = get_library;
  heddle_real.cuFuncGetName = function_name;
  heddle_real.cuKernelGetName = kernel_name;
  heddle_real.cuKernelGetFunction = kernel_function;
  heddle_real.cuLibraryGetKernel = get_kernel;
  heddle_real.cuFuncGetParamInfo = function_param;
  heddle_real.cuKernelGetParamInfo = kernel_param;
  heddle_real.cuFuncGetAttribute = function_attribute;
  heddle_real.cuKernelGetAttribute = kernel_attribute;
  heddle_real.cuCtxGetCurrent = current_context;
  heddle_real.cuCtxGetDevice = current_device;

  CHECK(heddle_code_function(NULL) == NULL && asked == 0);
  CHECK(often(FUNCTION, 1) == NULL); // nobody's, as far as is known
  CHECK(often(CAPTURED, 1) == NULL);
  CHECK(often((CUfunction)LATE, 1) == NULL);
  CHECK(often(BROKEN, 101) == NULL); // no handle: nothing is remembered of it
  // Some image became known: each is asked about once more, and again it is nobody's.
  atomic_fetch_add(&heddle_code_seen, 1);
  CHECK(often(FUNCTION, 1) == NULL && often(CAPTURED, 1) == NULL && often((CUfunction)LATE, 1) == NULL);
  // It is the image of FUNCTION's module.
  module_known = true;
  CHECK(often(FUNCTION, 0) == NULL);
  atomic_fetch_add(&heddle_code_seen, 1);
  const struct heddle_function *f = often(FUNCTION, 1);
  CHECK(f != NULL && f->handle == (void *)FUNCTION && !f->is_kernel && f->param_count == 2 && f->param_bytes == 16 && heddle_function_image(f) == &image);
  CHECK(often(CAPTURED, 1) == NULL);
  // A kernel that is asked for by name makes itself known, and so the function that it is in this context, and its library's others.
  library_known = true;
  CUkernel k = NULL;
  CHECK(heddle_hook_cuLibraryGetKernel(&k, LIBRARY, "kernel") == CUDA_SUCCESS && k == KERNEL);
  f = often(CAPTURED, 1);
  CHECK(f != NULL && f->handle == (void *)CAPTURED && !f->is_kernel && strcmp(((const struct heddle_record *)f)->name, "kernel") == 0);
  CHECK(((const struct heddle_record *)f)->kernel == (const struct heddle_record *)heddle_code_function((CUfunction)KERNEL));
  f = often((CUfunction)LATE, 1);
  CHECK(f != NULL && f->is_kernel && f->param_count == 2);
  // What is known is not asked about again, whatever else becomes known.
  atomic_fetch_add(&heddle_code_seen, 1);
  CHECK(often(FUNCTION, 0) != NULL && often(CAPTURED, 0) != NULL && often((CUfunction)KERNEL, 0) != NULL && often((CUfunction)LATE, 0) != NULL);
  return 0;
}
