// The driver double's functions with behaviour; the rest is generated (generate_test.go).
#include <cuda.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"

unsigned cudbgIpcFlag;  // as in libcuda: raised by cuda-gdb
int double_own_lookups; // dlsym calls of the driver's own that did not answer the driver's own function
int double_inits;

static CUstream captured;

// As libcuda from 12.8 on: looks itself up while it is loaded and initialised. It must get itself.
static void look_self_up(void) {
  void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  void *p = self ? dlsym(self, "cuMemAlloc_v2") : NULL;
  if (p && p != (void *)cuMemAlloc_v2) double_own_lookups++;
}

__attribute__((constructor)) static void loaded(void) {
  cudbgIpcFlag = getenv("DOUBLE_DEBUGGED") != NULL;
  look_self_up();
}

CUresult cuInit(unsigned int flags) {
  (void)flags;
  look_self_up();
  double_inits++;
  return CUDA_SUCCESS;
}

// The newest form that is not newer than what was asked for.
static const struct driver_row *resolve(const char *symbol, int version, cuuint64_t flags) {
  const struct driver_row *best = NULL;
  for (int per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0; per_thread >= 0 && !best; per_thread--)
    for (const struct driver_row *r = driver_rows; r->name; r++)
      if (r->since && r->per_thread == per_thread && strcmp(r->base, symbol) == 0 && r->since <= version && (!best || r->since > best->since))
        best = r;
  return best;
}

CUresult cuGetProcAddress(const char *symbol, void **pfn, int version, cuuint64_t flags) {
  const struct driver_row *r = resolve(symbol, version, flags);
  *pfn = r ? r->pointer : NULL;
  return r ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **pfn, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
  const struct driver_row *r = resolve(symbol, version, flags);
  *pfn = r ? r->pointer : NULL;
  if (status) *status = r ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return CUDA_SUCCESS;
}

static CUresult begin(CUstream s) {
  if (captured) return CUDA_ERROR_ILLEGAL_STATE;
  captured = s;
  return CUDA_SUCCESS;
}
CUresult cuStreamBeginCapture(CUstream s) { return begin(s); }
CUresult cuStreamBeginCapture_ptsz(CUstream s) { return begin(s); }
CUresult cuStreamBeginCapture_v2(CUstream s, CUstreamCaptureMode m) { return (void)m, begin(s); }
CUresult cuStreamBeginCapture_v2_ptsz(CUstream s, CUstreamCaptureMode m) { return (void)m, begin(s); }
CUresult cuStreamBeginCaptureToGraph(CUstream s, CUgraph g, const CUgraphNode *n, const CUgraphEdgeData *e, size_t c, CUstreamCaptureMode m) {
  return (void)g, (void)n, (void)e, (void)c, (void)m, begin(s);
}
CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream s, CUgraph g, const CUgraphNode *n, const CUgraphEdgeData *e, size_t c,
                                          CUstreamCaptureMode m) {
  return (void)g, (void)n, (void)e, (void)c, (void)m, begin(s);
}
// A NULL graph pointer: the capture ends, with an error, as an invalidated one does.
static CUresult end(CUstream s, CUgraph *g) {
  if (captured != s) return CUDA_ERROR_ILLEGAL_STATE;
  captured = NULL;
  return g ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}
CUresult cuStreamEndCapture(CUstream s, CUgraph *g) { return end(s, g); }
CUresult cuStreamEndCapture_ptsz(CUstream s, CUgraph *g) { return end(s, g); }
static CUresult is(CUstream s, CUstreamCaptureStatus *status) {
  if (status) *status = captured && captured == s ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *status) { return is(s, status); }
CUresult cuStreamIsCapturing_ptsz(CUstream s, CUstreamCaptureStatus *status) { return is(s, status); }
