// Contexts end: everything forwarded from them is waited for first, then their lanes are forgotten. A sticky error ends with its
// context, as natively; the session that had it is given up, and the program goes on natively. Source: CUDA driver API,
// cuCtxDestroy, cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxReset; design.md section 4 "Errors".
#include "code/code.h"
#include "hooks/hooks_gen.h"
#include "lane.h"
#include "memory/memory.h"

static void forgive(struct heddle_session *s) {
  if (s == NULL || atomic_load(&s->sticky) == 0) return;
  heddle_session_given_up(s);
  atomic_store(&s->sticky, 0);
}

// The context's device memory and code are given back by the driver: nothing forwarded may still use them.
static void quiesce(struct heddle_context *c) {
  if (c != NULL && c->session != NULL) (void)heddle_order_drain(c->session, c->handle); // a sticky error does not keep a context alive
}

CUresult heddle_hook_cuCtxDestroy_v2(CUcontext ctx) {
  struct heddle_context *c = heddle_context_peek(ctx);
  struct heddle_session *s = c == NULL ? NULL : c->session;
  quiesce(c);
  CUresult r = heddle_real.cuCtxDestroy_v2(ctx);
  if (c != NULL && (r == CUDA_SUCCESS || (s != NULL && atomic_load(&s->sticky) != 0))) {
    heddle_order_context_gone(ctx);
    heddle_code_context_gone(ctx);
    heddle_memory_context_gone(ctx);
    forgive(s);
  }
  return r;
}

CUresult heddle_hook_cuCtxDetach(CUcontext ctx) {
  struct heddle_context *c = heddle_context_peek(ctx);
  if (c != NULL && c->session != NULL) {
    quiesce(c);
    (void)heddle_real.cuCtxSynchronize();
  }
  CUresult r = heddle_real.cuCtxDetach(ctx);
  if (r == CUDA_SUCCESS) heddle_order_context_gone(ctx); // if others still use it, its lanes are made anew
  return r;
}

CUresult heddle_hook_cuGreenCtxDestroy(CUgreenCtx hCtx) { return heddle_real.cuGreenCtxDestroy(hCtx); }

// The primary context of a device that is active; NULL otherwise.
static CUcontext primary(CUdevice dev) {
  unsigned int flags;
  int active = 0;
  CUcontext handle = NULL;
  if (heddle_real.cuDevicePrimaryCtxGetState(dev, &flags, &active) != CUDA_SUCCESS || active == 0) return NULL;
  if (heddle_real.cuDevicePrimaryCtxRetain(&handle, dev) != CUDA_SUCCESS) return NULL;
  (void)heddle_real.cuDevicePrimaryCtxRelease_v2(dev);
  return handle;
}

static CUresult primary_end(CUdevice dev, CUresult (*call)(CUdevice), bool always_ends) {
  CUcontext handle = primary(dev);
  struct heddle_context *c = handle == NULL ? NULL : heddle_context_peek(handle);
  struct heddle_session *s = c == NULL ? NULL : c->session;
  quiesce(c);
  CUresult r = call(dev);
  unsigned int flags;
  int active = 1;
  if (c == NULL) return r;
  if (!always_ends && (heddle_real.cuDevicePrimaryCtxGetState(dev, &flags, &active) != CUDA_SUCCESS || active != 0)) return r;
  if (r == CUDA_SUCCESS || (s != NULL && atomic_load(&s->sticky) != 0)) {
    heddle_order_context_gone(handle);
    heddle_code_context_gone(handle);
    heddle_memory_context_gone(handle);
    forgive(s);
  }
  return r;
}

CUresult heddle_hook_cuDevicePrimaryCtxRelease_v2(CUdevice dev) { return primary_end(dev, heddle_real.cuDevicePrimaryCtxRelease_v2, false); }
CUresult heddle_hook_cuDevicePrimaryCtxReset_v2(CUdevice dev) { return primary_end(dev, heddle_real.cuDevicePrimaryCtxReset_v2, true); }
