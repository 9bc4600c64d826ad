// Contexts end: everything forwarded from them is waited for first, then their lanes are forgotten. After a fault the session is
// given up. When the primary context ends, the device stays lost to this process, as natively (measured on an H200, driver 580:
// cuDevicePrimaryCtxReset succeeds, cuDevicePrimaryCtxRetain goes on returning the fault's code and work of any kind
// CUDA_ERROR_CONTEXT_IS_DESTROYED); when one of cuCtxCreate ends, the program goes on natively and the driver decides. Source: CUDA
// driver API, cuCtxDestroy, cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxReset, CUDA_ERROR_ILLEGAL_ADDRESS.
#include "code/code.h"
#include "graph/graph.h"
#include "hooks/hooks_gen.h"
#include "lane.h"
#include "memory/memory.h"

// A context of s ended. Its sticky error, if there is one, becomes what the driver says from then on.
static void outlive(struct heddle_session *s, bool primary) {
  int code = s == NULL ? 0 : atomic_load(&s->sticky), none = 0;
  if (code == 0) return;
  heddle_session_given_up(s);
  if (primary) (void)atomic_compare_exchange_strong(&s->lost, &none, code); // the first code stays
  atomic_store(&s->sticky, atomic_load(&s->lost) != 0 ? CUDA_ERROR_CONTEXT_IS_DESTROYED : 0);
}

// The context's device memory and code are given back by the driver: nothing forwarded may still use them.
static void quiesce(struct heddle_context *c) {
  if (c != NULL && c->session != NULL) (void)heddle_order_drain(c->session, c->handle); // a sticky error does not keep a context alive
}

// The driver has ended the context: what is known of it is forgotten, and the executor's copies of its graphs are given back.
static void forget(CUcontext ctx, struct heddle_session *s, bool is_primary) {
  heddle_graph_context_gone(ctx);
  heddle_order_context_gone(ctx);
  heddle_code_context_gone(ctx);
  heddle_memory_context_gone(ctx);
  outlive(s, is_primary);
}

CUresult heddle_hook_cuCtxDestroy_v2(CUcontext ctx) {
  struct heddle_context *c = heddle_context_peek(ctx);
  struct heddle_session *s = c == NULL ? NULL : c->session;
  quiesce(c);
  CUresult r = heddle_real.cuCtxDestroy_v2(ctx);
  if (c != NULL && (r == CUDA_SUCCESS || (s != NULL && atomic_load(&s->sticky) != 0))) forget(ctx, s, false);
  return r;
}

CUresult heddle_hook_cuCtxDetach(CUcontext ctx) {
  struct heddle_context *c = heddle_context_peek(ctx);
  struct heddle_session *s = c == NULL ? NULL : c->session;
  if (s != NULL) {
    quiesce(c);
    (void)heddle_real.cuCtxSynchronize();
  }
  CUresult r = heddle_real.cuCtxDetach(ctx);
  CUcontext now = NULL;
  if (r != CUDA_SUCCESS) return r;
  // It was current, or the driver had refused; when its last user lets go the driver destroys it, and it is current no more.
  if (c != NULL && heddle_real.cuCtxGetCurrent(&now) == CUDA_SUCCESS && now != ctx) forget(ctx, s, false);
  else heddle_order_context_gone(ctx); // others still use it: its lanes are made anew
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
  if (r == CUDA_SUCCESS || (s != NULL && atomic_load(&s->sticky) != 0)) forget(handle, s, true);
  return r;
}

CUresult heddle_hook_cuDevicePrimaryCtxRelease_v2(CUdevice dev) { return primary_end(dev, heddle_real.cuDevicePrimaryCtxRelease_v2, false); }
CUresult heddle_hook_cuDevicePrimaryCtxReset_v2(CUdevice dev) { return primary_end(dev, heddle_real.cuDevicePrimaryCtxReset_v2, true); }

// After a fault the driver refuses with the fault's code, before and after a reset, and the handle is filled in all the same.
CUresult heddle_hook_cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev) {
  struct heddle_session *s = heddle_session_peek(dev);
  CUresult fault = s == NULL ? CUDA_SUCCESS : heddle_sticky(s);
  CUresult r = heddle_real.cuDevicePrimaryCtxRetain(pctx, dev);
  if (r != CUDA_SUCCESS || fault == CUDA_SUCCESS) return r;
  int lost = atomic_load(&s->lost);
  if (lost != 0) return (CUresult)lost; // the driver's reference stays: without it the handle would mean nothing
  (void)heddle_real.cuDevicePrimaryCtxRelease_v2(dev);
  return fault;
}
