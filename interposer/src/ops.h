// Ops in their wire form: what a call asks for, judged and put into the body of a record. Used by the calls themselves (launch.c,
// memset.c, copy.c) and for the nodes of graphs (graph/), which are the same ops described ahead.
#ifndef HEDDLE_OPS_H
#define HEDDLE_OPS_H

#include "code/code.h"
#include "memory/memory.h"

struct heddle_launch {
  CUfunction function;            // or a CUkernel
  struct heddle_wire_launch wire; // dims, shared memory, flags, cluster; the kernel and its parameters' size are filled in
  void **params, **extra;         // as cuLaunchKernel takes them
};
#define HEDDLE_PACKED_BYTES (HEDDLE_WIRE_MAX_PARAM_BYTES + 4)
// Takes up an attribute of a launch or of a kernel node. False: it is not forwarded.
bool heddle_launch_attribute(struct heddle_wire_launch *w, const CUlaunchAttribute *a);
// Judges a launch on the device of s, asks for its kernel and packs its parameters (HEDDLE_PACKED_BYTES of room). NULL: natively,
// *why says why. May take ms at a kernel's first use.
const struct heddle_function *heddle_launch_encode(struct heddle_session *s, struct heddle_launch *l, unsigned char *packed,
                                                   enum heddle_native_reason *why);

// Judges a memset: w->dst, .pitch, .width, .height, .element and .value are the call's; the pitch of one row is set. *where
// receives whose memory it is. HEDDLE_OP_OPEN, HEDDLE_OP_NATIVE (*why says why), or a CUresult: the driver's answer to freed memory.
int heddle_memset_encode(struct heddle_session *s, struct heddle_wire_memset *w, enum heddle_where *where, enum heddle_native_reason *why);

// A copy whose two ends the executor reaches, as the body of a COPY or a COPY3D record.
struct heddle_copy_body {
  uint16_t kind;
  bool apart; // with false: this one copy can run natively while what is around it does not
  bool left;  // with .apart: it may take SMs, so it is counted. Copies of host memory are the copy engines'
  union {
    struct heddle_wire_copy copy;
    struct heddle_wire_copy3d copy3d;
  };
};
// Judges a copy of a graph. False: natively, *why says why.
bool heddle_copy_encode(struct heddle_session *s, const CUDA_MEMCPY3D *p, struct heddle_copy_body *body, enum heddle_native_reason *why);

#endif
