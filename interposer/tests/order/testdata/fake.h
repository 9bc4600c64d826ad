// What the order tests put in place of the driver, the daemon, memory/ and code/: a session file in this process, driver calls that
// are written down, and an executor that the test drives. Everything else is the product's own source.
#ifndef FAKE_H
#define FAKE_H

#include "../../../src/lane.h"
#include "../../../src/hooks/hooks_gen.h"

#define CHECK(condition, ...)                                                             \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                     \
      fprintf(stderr, __VA_ARGS__);                                                       \
      fputc('\n', stderr);                                                                \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)

// Addresses that heddle_memory_where of the tests knows.
#define DEVICE_BASE UINT64_C(0x200000000000)
#define DEVICE_BYTES UINT64_C(0x10000000)
#define FREED_BYTES UINT64_C(0x100000) // the end of it counts as freed
#define FREED_BASE (DEVICE_BASE + DEVICE_BYTES - FREED_BYTES)
#define GLOBAL_BASE UINT64_C(0x300000000000)
#define GLOBAL_BYTES UINT64_C(0x1000000)

extern struct heddle_session *fake_session; // device 0
extern CUcontext fake_current;              // what cuCtxGetCurrent says (of every thread)
extern void *fake_shared_host;              // HEDDLE_WHERE_HOST, 1 MiB
extern void *fake_registered_host;          // HEDDLE_WHERE_REGISTERED, 1 MiB

// A session with a ring of ring_bytes, context (CUcontext)1 current (the primary one is (CUcontext)0x10), and driver calls that succeed.
void fake_start(uint64_t ring_bytes);
// Called by driver calls; NULL: nothing is noted. what: "write" (address, value), "wait" (address, value), "op", "record",
// "wait-event", with the stream that the product passed.
extern void (*fake_native)(const char *what, CUstream stream, CUdeviceptr address, uint32_t value, CUevent event);
extern CUresult (*fake_stream_query)(CUstream stream);
extern void (*fake_stream_synchronize)(CUstream stream);
// Called where the product would sleep on a word of the session.
extern int (*fake_sleep)(uint32_t *word, uint32_t expected);
extern _Atomic int fake_daemon_alive;

// The daemon: a HEDDLE_WIRE_STATUS_*. fd: of GRAPH, the file with its nodes. NULL: every request is refused.
extern int (*fake_request)(uint16_t type, const void *body, int fd, void *reply);
extern _Atomic uint32_t fake_native_counts[HEDDLE_NATIVE_REASONS];
extern _Atomic uint32_t fake_kernel; // the id of every kernel; 0: refused
extern _Atomic int fake_mirrored;    // device globals live in the executor, and the program has their addresses
extern _Atomic int fake_stateful;    // device globals that kernels use live in the executor

// A stream as the fake driver made it.
CUstream fake_stream(unsigned int flags);
#endif
