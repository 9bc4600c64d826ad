// Images, functions and parameter layouts. Source: design.md section 4 "Code".
#ifndef HEDDLE_CODE_H
#define HEDDLE_CODE_H

#include "../session.h"

#define HEDDLE_CODE_MAX_PARAMS 512

// Everything the launch path needs of one CUfunction or CUkernel handle. Immutable once published except the marked fields.
struct heddle_function {
  void *handle;                  // CUfunction or CUkernel
  bool is_kernel;                // CUkernel
  uint32_t param_count, param_bytes;
  const uint32_t *param_offset, *param_size;
  uint32_t max_threads;          // cuFuncGetAttribute(MAX_THREADS_PER_BLOCK)
  uint32_t static_shared;
  _Atomic uint32_t max_dynamic_shared; // follows cuFuncSetAttribute
  _Atomic uint32_t generation;   // bumped when its module is unloaded: a stale entry is never used
  // kernel id per device session (executor side); 0 = not yet asked, UINT32_MAX = native for good, reason beside it
  _Atomic uint32_t kernel_id[HEDDLE_MAX_DEVICES];
  _Atomic uint8_t native_reason[HEDDLE_MAX_DEVICES];
};

// Lock-free lookup; NULL when the handle is unknown even after asking the driver (cuFuncGetModule, cuKernelGetLibrary).
const struct heddle_function *heddle_code_function(CUfunction f);
// The executor's kernel id for f on s, asking the daemon at first use (sends image and name; may take ms). 0: run natively, *why says why.
uint32_t heddle_code_kernel_id(struct heddle_session *s, const struct heddle_function *f, enum heddle_native_reason *why);
// Rises whenever a kernel that some executor knew may be another one there, or native, from now on: an id that was asked for before
// must be asked for again.
extern _Atomic uint32_t heddle_code_changes;
// The context that the handle belongs to; NULL: a CUkernel, which serves every context.
CUcontext heddle_code_context(const struct heddle_function *f);
// Replay after death: the native handle behind a kernel id; NULL if unloaded.
CUfunction heddle_code_native(struct heddle_session *s, uint32_t kernel_id);
// True when device globals of f's image live in the executor: a native launch of f would see other values. Cheap.
bool heddle_code_mirrored(struct heddle_session *s, const struct heddle_function *f);
// True when f's image has device globals that kernels can write, and the executor has its instance of them, whether or not the client
// ever asked for one: launches of it must not take turns between here and there. Known once its kernel's id is.
bool heddle_code_stateful(struct heddle_session *s, const struct heddle_function *f);
// True once the client was given the address of some global in an executor: any kernel may have got it, and here it means nothing.
bool heddle_code_mirrors(void);
// Around a native launch of f: its image's globals that the client knows are brought here before it and back to the executor behind
// it, in the stream's order. While the stream captures they are brought here at once, and again whenever the client writes one. No
// cost while no global is mirrored.
CUresult heddle_code_native_begin(CUfunction f, CUstream stream);
CUresult heddle_code_native_end(CUfunction f, CUstream stream, CUresult launched);
#define HEDDLE_CODE_NATIVE(f, stream, CALL)                                                              \
  ({                                                                                                     \
    CUresult heddle_n = heddle_code_native_begin((f), (stream));                                         \
    if (heddle_n == CUDA_SUCCESS) heddle_n = heddle_code_native_end((f), (stream), (CALL));              \
    heddle_n;                                                                                            \
  })
// Before and after a native graph launch on `stream`: the device globals that live in the executor are carried to this process's
// instances, in the order of the stream, and back. `launched` is the launch's own result; the first error is returned.
CUresult heddle_code_graph_begin(CUstream stream);
CUresult heddle_code_graph_end(CUstream stream, CUresult launched);
// Called by order/ when a context was destroyed or reset, after the drain: its modules are gone with it.
void heddle_code_context_gone(CUcontext context);
#endif
