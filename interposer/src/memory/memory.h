// Which addresses belong to Heddle. Source: design.md section 4 "Memory windows".
#ifndef HEDDLE_MEMORY_H
#define HEDDLE_MEMORY_H

#include "../session.h"

enum heddle_where {
  HEDDLE_WHERE_UNKNOWN = 0, // not ours: pageable host memory, or memory the driver allocated behind us
  HEDDLE_WHERE_DEVICE,      // in a window: valid at the same address in the executor
  HEDDLE_WHERE_HOST,        // host memory we allocated: shared, same address, registered on both sides
  HEDDLE_WHERE_REGISTERED,  // registered by the client (cuMemHostRegister): only this process has it
  HEDDLE_WHERE_GLOBAL,      // a device global that lives in the executor (code/): forwarded copies only
  HEDDLE_WHERE_MANAGED,     // managed memory, arrays' linear views: native only
};

// Classifies [address, address+bytes). Lock-free; a few ns. *s (may be NULL) receives the session that owns it.
enum heddle_where heddle_memory_where(CUdeviceptr address, size_t bytes, struct heddle_session **s);
// True when the first or the last byte of [address, address+bytes) lies in device memory that was freed but is still mapped: a hole
// of a segment, or a segment kept for the next allocation. The driver answers a copy or memset there with
// CUDA_ERROR_INVALID_VALUE. Stream-ordered memory and the client's own mappings never count as freed. Some 10 ns when this thread asked
// about the block before and nothing was freed since; otherwise one lock and one O(log n) search.
bool heddle_memory_freed(CUdeviceptr address, size_t bytes);
// True when any 8-byte aligned word of a kernel's parameters points into client-registered or managed memory. Cheap when
// the process has registered none.
bool heddle_memory_params_native(const void *params, size_t bytes, enum heddle_native_reason *why);
// The device globals' ranges are recorded by code/.
void heddle_memory_add_global(struct heddle_session *s, CUdeviceptr address, size_t bytes);
void heddle_memory_drop_global(CUdeviceptr address);
// Stream-ordered frees: called by order/ when a lane's number passed (cold path, may unmap).
void heddle_memory_collect(struct heddle_session *s);
// The error of the current context's session after a fault (closed or not), which its calls return; CUDA_SUCCESS otherwise.
CUresult heddle_memory_sticky(void);
// Called by session.c when a device attaches, before its first allocation: reserves the window. False: run natively.
bool heddle_memory_attach(struct heddle_session *s);
// Called by order/ when a context was destroyed or reset, after the drain: what it had allocated is gone, as natively.
void heddle_memory_context_gone(CUcontext context);
// A host memory block we allocated is at least this aligned; and the executor sees it.
#endif
