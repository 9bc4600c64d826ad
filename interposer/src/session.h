// One session per (process, GPU): the connection to the daemon and the shared file.
// Source: docs/protocol.md.
#ifndef HEDDLE_SESSION_H
#define HEDDLE_SESSION_H

#include <cuda.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "heddle_channel.h"
#include "heddle_ring.h"
#include "heddle_wire.h"

#define HEDDLE_MAX_DEVICES 16

// Why an op, a kernel or a whole client runs natively. One list for logs, `heddle explain` and docs.
enum heddle_native_reason {
  HEDDLE_NATIVE_NONE = 0,
  HEDDLE_NATIVE_NO_DAEMON,      // nobody listens, or version mismatch
  HEDDLE_NATIVE_DISABLED,       // HEDDLE_DISABLE=1
  HEDDLE_NATIVE_TOOL,           // injection library, CUPTI or debugger
  HEDDLE_NATIVE_CAPTURE,        // the stream is capturing
  HEDDLE_NATIVE_GRAPH,          // a graph with a node that stays native (conditional, semaphore), or more memory operations than pay to cut
                                // it at, or one made behind our back, or for launches by the device
  HEDDLE_NATIVE_GRAPH_HOST,     // a graph with more host functions than pay to cut it at
  HEDDLE_NATIVE_GRAPH_MEMORY,   // a graph that allocates or frees memory
  HEDDLE_NATIVE_GRAPH_EVENT,    // a graph that records and waits for the same event, or for more than pay to cut it at
  HEDDLE_NATIVE_GRAPH_REFUSED,  // the daemon or the executor refused the graph, or it is too large
  HEDDLE_NATIVE_GRAPH_CHANGES,  // a graph that is changed before nearly every launch
  HEDDLE_NATIVE_UNKNOWN_CODE,   // function handle whose image we never saw
  HEDDLE_NATIVE_REFUSED_CODE,   // the executor refused the kernel (printf, textures, device malloc, …)
  HEDDLE_NATIVE_GLOBALS,        // writable device globals that could not be mirrored
  HEDDLE_NATIVE_HOST_REGISTERED,// a parameter points into memory of cuMemHostRegister
  HEDDLE_NATIVE_FOREIGN_MEMORY, // managed memory, arrays, imported pools: not in a window
  HEDDLE_NATIVE_ATTRIBUTE,      // a launch attribute that is not forwarded
  HEDDLE_NATIVE_ARGUMENT,       // arguments that the driver itself must judge
  HEDDLE_NATIVE_LANES,          // no lane left
  HEDDLE_NATIVE_STRAGGLER,      // the executor sent the client to its own context (producer.own_context)
  HEDDLE_NATIVE_CLOSED,         // session closed: finishing alone
  HEDDLE_NATIVE_REASONS
};

struct heddle_session {
  int device;                    // CUdevice ordinal in this process
  int socket;                    // -1 when closed
  void *map;                     // session file, map_bytes long
  size_t map_bytes;
  struct heddle_wire_session_status *status;
  struct heddle_wire_lane *lanes;   // HEDDLE_WIRE_LANES of them
  struct heddle_wire_reply *replies;
  struct heddle_ring ring;       // guarded by ring_lock
  void *doorbell;                // struct heddle_wire_doorbell
  uint64_t client_id;
  uint64_t window_base, window_bytes;
  uint64_t host_base, host_bytes;
  CUdeviceptr lanes_device;      // device address of lanes[0] in this process (memops); 0 until registered
  uint64_t forwarded;            // kernels, memsets and device-to-device copies published so far; guarded by ring_lock
  _Atomic int live;              // 1: forward; 0: native (never attached, or closed)
  _Atomic int sticky;            // CUresult to return from every call; 0 none
  _Atomic int lost;              // the fault's code once the primary context that had it has ended: sticky is then
                                 // CUDA_ERROR_CONTEXT_IS_DESTROYED until this process ends, as natively; 0 otherwise
};

// The session of a device, attached on first use; NULL when this process or device runs natively.
// Cheap after the first call. Never blocks longer than HEDDLE_CONNECT_MS (2 s).
struct heddle_session *heddle_session_of_device(CUdevice device);
// The session of the calling thread's current context; NULL: native (or no context).
struct heddle_session *heddle_session_current(void);
// The session if it is already attached, without attaching.
struct heddle_session *heddle_session_peek(CUdevice device);
// Registers the lane words with the driver in the current context (first use of a memop or wait on the GPU). 0 on success.
CUresult heddle_session_register_words(struct heddle_session *s);

// One request and its reply, under the session's request lock. fds_in are sent (and stay the caller's);
// fds_out (capacity HEDDLE_WIRE_MESSAGE_FDS, *nfds_out set) are the caller's to close. Returns a HEDDLE_WIRE_STATUS_*,
// or -1 when the daemon is gone (the session is then closed).
int heddle_session_request(struct heddle_session *s, uint16_t type, const void *body, size_t body_bytes,
                           const void *tail, size_t tail_bytes, const int *fds_in, int nfds_in,
                           void *reply_body, size_t reply_bytes, int *fds_out, int *nfds_out);
// True while the daemon's end of the socket is open (poll, no read).
bool heddle_session_daemon_alive(struct heddle_session *s);
// Gives the session up: finish alone (alone.c) and stay native. Safe from any thread, idempotent.
void heddle_session_close(struct heddle_session *s, enum heddle_native_reason why);
// In the child of a fork whose parent had initialised CUDA: forget every session, close its fds, unmap its files. Called from
// pthread_atfork (hooks/), hooks are off by then; async-signal-safe calls only, takes no lock (another thread may have held it).
void heddle_session_forked(void);
// A context was destroyed or reset: what was registered in it is registered anew at the next use. Called by memory/.
void heddle_session_context_gone(CUcontext context);
// Counters by reason (process wide); printed at exit with HEDDLE_LOG=stats, behind the number of forwarded ops that use the SMs.
void heddle_count_native(enum heddle_native_reason why);

#endif
