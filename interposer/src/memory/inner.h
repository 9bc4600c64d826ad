// What the files of memory/ share. Nobody else includes this; the rest of the library sees memory.h.
//
// Lock order: one struct heddle_memory's lock is a leaf. No driver call, request, or wait happens under it, because draining may
// call heddle_memory_collect, which takes it. Of order/ only the two questions about points are asked under it.
#ifndef HEDDLE_MEMORY_INNER_H
#define HEDDLE_MEMORY_INNER_H

#include <cuda.h>
#include <pthread.h>

#include "../order.h"
#include "heap.h"
#include "memory.h"
#include "ranges.h"

#define HEDDLE_GRANULE (UINT64_C(2) << 20) // cuMemGetAllocationGranularity of every GPU so far; checked at attach
#define HEDDLE_UNIT UINT64_C(512)          // alignment of every allocation we serve (the driver's own: 256 or 512)
#define HEDDLE_REGIONS 64

enum heddle_segment_kind {
  HEDDLE_SEGMENT_DEVICE, // cuMemAlloc and friends
  HEDDLE_SEGMENT_STREAM, // stream-ordered allocations
  HEDDLE_SEGMENT_OPENED, // another client's, opened by cuIpcOpenMemHandle
  HEDDLE_SEGMENT_CLIENT, // mapped by the client itself with cuMemMap
  HEDDLE_SEGMENT_HOST,   // shared host memory
};

// One piece of physical memory at its place in a region. Structs are recycled, never freed: lock-free readers may hold one.
struct heddle_segment {
  _Atomic uint64_t base, bytes;
  _Atomic uint32_t kind;
  CUmemGenericAllocationHandle handle; // ours; of CLIENT segments the client's, not owned
  struct heddle_span *span;            // in the heap of its kind; NULL for CLIENT and for cached segments
  struct heddle_block *place;          // its addresses in memory->space (device kinds only)
  struct heddle_segment *next;         // cache or recycling list
};

// A window of addresses with one slot per granule, which says what segment lies there.
struct heddle_region {
  uint64_t base, bytes;
  bool host;
  struct heddle_memory *memory;
  _Atomic(struct heddle_segment *) *slots;
};

// A stream-ordered block that was freed but may still be in use by earlier work of its lane.
struct heddle_pending {
  struct heddle_block *block;
  struct heddle_point point;
};
struct heddle_pending_list {
  struct heddle_pending *entries; // oldest first
  size_t count, capacity;
};

// An allocation of another client that was opened here: it lies somewhere in a segment of its own. Changed with both locks held,
// sharing.c's and the memory's; either is enough to read.
struct heddle_opened {
  struct heddle_opened *next;
  struct heddle_segment *segment;
  uint64_t token[2];
  uint64_t address, bytes;
  uint64_t id;                 // for CU_POINTER_ATTRIBUTE_BUFFER_ID
  uint32_t count;              // how often it was opened and not closed
  CUcontext context;
};

// The memory of one device of this process.
struct heddle_memory {
  pthread_mutex_t lock;
  struct heddle_session *session;
  CUdevice device;
  struct heddle_heap space;   // addresses of the windows, in granules
  struct heddle_heap blocks;  // HEDDLE_SEGMENT_DEVICE
  struct heddle_heap stream;  // HEDDLE_SEGMENT_STREAM
  struct heddle_heap host;    // HEDDLE_SEGMENT_HOST
  struct heddle_segment *cached; // mapped, shared with the executor, unused: served again before a new one is made
  struct heddle_segment *recycled;
  uint64_t cached_bytes;
  uint64_t cache_limit;       // bytes of cached segments kept
  uint64_t device_bytes;
  bool rdma;                  // the device supports GPUDirect RDMA with mapped memory
  struct heddle_opened *opened; // what this process has opened of other clients'
  struct heddle_pending_list pending;
  uint64_t stream_keep;       // release threshold: bytes that the stream heap may keep beyond what is in use
  uint64_t stream_high;       // most bytes the stream heap ever held
};

// ---- where.c ----
extern struct heddle_region heddle_regions[HEDDLE_REGIONS];
extern _Atomic uint32_t heddle_region_count;
// Registered host memory, managed and foreign device memory, globals: value = enum heddle_where | device << 8.
extern struct heddle_ranges heddle_side_ranges;
// The region and segment of an address, NULL when it is in no region / no segment. Lock-free.
struct heddle_region *heddle_region_find(uint64_t address);
struct heddle_segment *heddle_segment_find(struct heddle_region *region, uint64_t address);
// Before a block of a HEDDLE_SEGMENT_DEVICE segment is freed (lock held): what threads remember about blocks counts no more.
void heddle_blocks_change(void);
// Publishes or clears the segment's granules.
void heddle_segment_publish(struct heddle_region *region, struct heddle_segment *s);
void heddle_segment_unpublish(struct heddle_region *region, struct heddle_segment *s);
// Adds a region; false when the table is full or host memory ran out.
bool heddle_region_add(struct heddle_memory *m, uint64_t base, uint64_t bytes, bool host);
// Device memory that the driver serves behind us: kernels that touch it must run natively.
void heddle_foreign_add(CUdevice device, CUdeviceptr address, size_t bytes);
void heddle_foreign_drop(CUdeviceptr address);

// ---- window.c ----
// The memory of an attached session, or of a device that once had one; NULL when there never was.
struct heddle_memory *heddle_memory_of(struct heddle_session *s);
struct heddle_memory *heddle_memory_of_device(CUdevice device);
// The memory that serves allocations in the current context, attaching at first use; NULL: the driver does. *sticky is the
// session's error, which every call returns after a fault, also when the session is closed.
struct heddle_memory *heddle_memory_serving(CUresult *sticky);
// Addresses for `bytes` (multiple of the granule); asks for another window when the present ones are full. NULL: none.
struct heddle_block *heddle_window_take(struct heddle_memory *m, uint64_t bytes, uint64_t align);
// The same at a place of the caller's choosing.
struct heddle_block *heddle_window_take_at(struct heddle_memory *m, uint64_t address, uint64_t bytes);
void heddle_window_give(struct heddle_memory *m, struct heddle_block *place);

// ---- segment.c ----
// Physical memory at a window address, mapped here and in the executor. Driver calls: the lock must not be held.
// CUDA_ERROR_OUT_OF_MEMORY after everything cached was given up; other codes: the caller turns to the real driver.
CUresult heddle_segment_make(struct heddle_memory *m, enum heddle_segment_kind kind, uint64_t bytes, struct heddle_segment **made);
// The same for memory of another client, of which fd is a descriptor (the caller's) and `bytes` the whole size.
CUresult heddle_segment_open(struct heddle_memory *m, uint64_t bytes, int fd, struct heddle_segment **opened);
// Unmaps here and in the executor and gives the memory back. The caller has drained.
void heddle_segment_drop(struct heddle_memory *m, struct heddle_segment *s);
// Sends a segment's handle to the daemon. flags: HEDDLE_WIRE_SEGMENT_FLAG_*. False: the executor does not have it.
bool heddle_segment_share(struct heddle_memory *m, uint64_t address, uint64_t bytes, uint64_t flags, CUmemGenericAllocationHandle handle);
struct heddle_segment *heddle_segment_new(struct heddle_memory *m); // lock held; NULL: no host memory
void heddle_segment_recycle(struct heddle_memory *m, struct heddle_segment *s); // lock held
// Gives back every unused segment; waits for the client's forwarded work first. Returns the bytes freed.
uint64_t heddle_memory_trim(struct heddle_memory *m);
// After a span became wholly free (lock held): the segment goes to the cache; *drop receives a list of segments that are too
// many and must be dropped once the lock is released (heddle_segment_drop_list).
void heddle_segment_retire(struct heddle_memory *m, struct heddle_heap *h, struct heddle_span *span, struct heddle_segment **drop);
void heddle_segment_drop_list(struct heddle_memory *m, struct heddle_segment *list);

// ---- alloc.c ----
// A block of device memory. flags and pool are recorded with it.
CUresult heddle_device_alloc(struct heddle_memory *m, size_t bytes, CUdeviceptr *address);
// Next number for CU_POINTER_ATTRIBUTE_BUFFER_ID.
uint64_t heddle_buffer_id(void);
// Finds the allocated block of an address under the lock, which stays held when a block is returned (unlock m->lock).
struct heddle_block *heddle_block_locked(uint64_t address, struct heddle_memory **m, struct heddle_segment **s);
// In block->flags: somebody frees it; other processes were given a handle of it; and of host blocks the CU_MEMHOSTALLOC_ bits.
enum { HEDDLE_BLOCK_FREEING = 0x80000000u, HEDDLE_BLOCK_SHARED = 0x40000000u };

// ---- sharing.c ----
// Before a block with HEDDLE_BLOCK_SHARED is freed, the lock not held: its handle opens nothing any more.
void heddle_share_drop(struct heddle_memory *m, uint64_t address);
// What was opened or shared in a context that is gone; the caller has drained, the lock is not held.
void heddle_sharing_context_gone(struct heddle_memory *m, CUcontext context);
// The allocation of another client that holds an address, as this process opened it. Lock held; NULL: none.
const struct heddle_opened *heddle_opened_at(struct heddle_memory *m, uint64_t address);
// The hooks' part for handles of ours. False: the handle, or the memory, is the driver's.
bool heddle_share(CUipcMemHandle *handle, CUdeviceptr address, CUresult *result);
bool heddle_share_open(CUdeviceptr *address, const CUipcMemHandle *handle, unsigned int flags, CUresult *result);
bool heddle_share_close(CUdeviceptr address, CUresult *result);

// ---- async.c ----
// Makes freed blocks available whose lane has passed (lock held).
void heddle_stream_collect_locked(struct heddle_memory *m);
// Takes all pending blocks, so that the caller can drain without the lock and then free them (lock held at both calls).
struct heddle_pending_list heddle_stream_detach_locked(struct heddle_memory *m);
void heddle_stream_release_locked(struct heddle_memory *m, struct heddle_pending_list list);

// ---- pool.c ----
// Whether allocations of a pool come from our segments (device memory that nobody exports), and its accounts.
bool heddle_pool_served(CUmemoryPool pool, CUdevice device);
// The device of a pool that we serve; false for others.
bool heddle_pool_device(CUmemoryPool pool, CUdevice *device);
void heddle_pool_account(CUmemoryPool pool, int64_t bytes);

// ---- peer.c ----
extern _Atomic uint32_t heddle_peers[HEDDLE_MAX_DEVICES]; // bit d: device d may access memory of the device
// Who may access memory of a device: itself and its peers. desc has room for HEDDLE_MAX_DEVICES; returns how many.
size_t heddle_peer_access(CUdevice owner, CUmemAccessDesc *desc);

// ---- host.c ----
// Unmaps and unregisters a shared host segment here and in the executor. The caller has drained; the lock is not held.
void heddle_host_drop(struct heddle_memory *m, struct heddle_segment *s);

#endif
