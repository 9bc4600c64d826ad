// What the tests of graphs share: the driver's graphs are structs of this file, the daemon keeps what it is given, and the executor is a
// function that takes the ring's records when the program sleeps or the test says so.
#ifndef GRAPHFAKE_H
#define GRAPHFAKE_H

#include "fake.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../../src/code/code.h"
#include "../../../src/graph/graph.h"

#define OK(call) CHECK((call) == CUDA_SUCCESS, "not CUDA_SUCCESS")
#define KERNEL ((CUfunction)0xf1)
#define CONTEXT ((CUcontext)1)

// ---- the driver's graphs ----

struct node {
  CUgraphNodeType type;
  CUDA_KERNEL_NODE_PARAMS kernel;
  CUDA_MEMSET_NODE_PARAMS set;
  CUDA_MEMCPY3D copy;
  CUDA_HOST_NODE_PARAMS host;
  CUDA_BATCH_MEM_OP_NODE_PARAMS memops;
  CUstreamBatchMemOpParams op;
  CUevent event;
  CUgraph child;
  unsigned cluster;
  bool cooperative, updatable;
};
struct graph {
  struct node **node;
  struct node **from, **to;
  size_t n, edges, room, edge_room;
};
extern uint64_t arguments[3];
extern void *parameters[3];
extern _Atomic uint32_t natively; // launches of whole graphs
extern uint32_t replayed[16];     // what was run one by one: [0] blocks, [1] values of memsets

struct graph *graph_new(void);
void graph_free(struct graph *g);
struct node *add(struct graph *g, CUgraphNodeType type);
void edge(struct graph *g, struct node *from, struct node *to);

// What the client's own stream was given, in order, with how many launches of graphs the executor had taken before.
struct told {
  char what; // 'h' a host function, 'm' memory operations, 'g' a graph of one copy or memset
  uint32_t behind;
};
extern struct told told[64];
extern uint32_t ntold;
extern void (*on_told)(void); // called with each

// ---- the daemon ----

enum { KEPT = 8192 };
struct kept {
  const unsigned char *at;
  uint64_t bytes;
  uint32_t nodes;
  uint64_t dropped; // the ring's tail at that time; 0: it was not
};
extern struct kept kept[KEPT];
extern _Atomic uint32_t given, drops, asked;
extern _Atomic uint32_t refuse, refuse_known; // new graphs, and those that another executor had
// The records of a graph as the contract has them; node[seq] points at record seq.
uint32_t check_records(uint32_t id, const struct heddle_wire_record **node, uint32_t room);
const void *body(const struct heddle_wire_record *r);
uint32_t dep(const struct heddle_wire_record *r, uint32_t i);
const struct heddle_wire_record *record_of(uint32_t id, uint32_t seq);

// ---- the executor ----

extern uint32_t launched[KEPT], launches, last_graph, last_ndeps;
extern struct heddle_wire_dep last_dep;
extern bool hold_back; // takes records and completes none
extern void (*on_record)(const struct heddle_wire_record *r); // each op that it takes
void execute(void);
// Another thread's executor, until stop_executor.
void start_executor(void);
void stop_executor(void);

CUgraphExec make(struct graph *g);
void go(CUgraphExec x, CUstream s);
void lose(void); // the daemon says that nobody serves any more
// The graph is launched natively, once, and counted so.
void expect_native(struct graph *g, enum heddle_native_reason why, const char *what);

struct test {
  const char *name;
  void (*f)(void);
};
int run_test(int argc, char **argv, const struct test *all, size_t n);
#endif
