// What the files of graph/ share. Nobody else includes this; the rest of the library sees graph.h.
//
// Locks, outermost first: one struct heddle_exec's lock → lane locks and the ring (lane.h). The table's lock and mirror.c's lock are
// leaves. A request to the daemon happens under an exec's lock, because nobody may launch the graph before it is answered.
#ifndef HEDDLE_GRAPH_INNER_H
#define HEDDLE_GRAPH_INNER_H

#include <cuda.h>

#include "../lane.h"
#include "../ops.h"
#include "graph.h"

// ---- describe.c: what a CUgraph holds ----

struct heddle_node {
  CUgraphNode handle;            // in the graph that it was read from
  uint16_t kind;                 // HEDDLE_WIRE_KIND_*: of its record; EVENT joins only; 0: .child stands for it
  bool enabled;
  uint8_t why;                   // enum heddle_native_reason: why it cannot run in the executor; NONE
  uint32_t body_bytes;
  unsigned char *body;           // of its record
  const struct heddle_function *function; // LAUNCH
  uint32_t generation;           // of .function when it was read
  uint32_t ndeps, first_dep;     // predecessors: indices into .nodes, at .deps[first_dep]
  struct heddle_description *child;
};
// A graph: its nodes in an order in which each follows what it depends on.
struct heddle_description {
  uint32_t n;
  uint32_t last_found;           // where heddle_description_find found something: the next question is mostly about the next node
  struct heddle_node *nodes;
  uint32_t *deps;
};

// Reads a graph. NULL: *why says what of it can never be mirrored. Nodes that only with their present parameters cannot are in it,
// with their own reason. `owner`: the context that its kernels must belong to.
struct heddle_description *heddle_describe(struct heddle_session *s, CUcontext owner, CUgraph graph, enum heddle_native_reason *why);
void heddle_description_free(struct heddle_description *d);
// The node with that handle, in d or in a graph within it; NULL: none.
struct heddle_node *heddle_description_find(struct heddle_description *d, CUgraphNode handle);
// No handle names a node of d any more.
void heddle_description_forget_names(struct heddle_description *d);
// New parameters of one node.
void heddle_node_set_kernel(struct heddle_session *s, CUcontext owner, struct heddle_node *n, const CUDA_KERNEL_NODE_PARAMS *p);
void heddle_node_set_memset(struct heddle_session *s, struct heddle_node *n, const CUDA_MEMSET_NODE_PARAMS *p);
void heddle_node_set_copy(struct heddle_session *s, struct heddle_node *n, const CUDA_MEMCPY3D *p);
// Asks for every kernel's id again (heddle_code_changes rose).
void heddle_description_renew(struct heddle_session *s, struct heddle_description *d);
bool heddle_description_any_disabled(const struct heddle_description *d);
// Some kernel of it sees device globals that live in the executor, or an op touches one.
bool heddle_description_globals(struct heddle_session *s, const struct heddle_description *d);

// ---- records.c: a description as records ----

struct heddle_records {
  unsigned char *at;
  size_t bytes, room;
  uint32_t nodes;
};
// The records of a graph (free r->at). False: *why says why it cannot be launched in the executor as it is.
bool heddle_records_write(const struct heddle_description *d, struct heddle_records *r, enum heddle_native_reason *why);

// ---- mirror.c: graphs that the executor has ----

struct heddle_mirror {
  struct heddle_mirror *next;    // of the process
  struct heddle_session *session;
  uint32_t id;
  uint64_t hash, bytes;
  const unsigned char *records;  // mapped from the sealed file that was sent
  bool dropped;                  // nobody launches it any more
  bool stale;                    // names memory that the executor does not have any more, or has anew
  uint32_t nlast, room;
  struct heddle_wire_dep *last;  // its last launch in each lane that may not be done
};

// Gives a graph to the daemon. NULL: *why says why not.
struct heddle_mirror *heddle_mirror_make(struct heddle_session *s, const struct heddle_records *r, uint64_t hash, enum heddle_native_reason *why);
// Notes a launch of it. False: no host memory; nothing may be launched then.
bool heddle_mirror_launch_room(struct heddle_mirror *m);
void heddle_mirror_launched(struct heddle_mirror *m, uint32_t lane, uint32_t seq);
bool heddle_mirror_stale(struct heddle_mirror *m);
// Nobody will launch it any more: the daemon is told, and it is freed here when the last launch is done.
void heddle_mirror_drop(struct heddle_mirror *m);

// ---- exec.c: executable graphs ----

enum {
  HEDDLE_KEPT = 4,  // descriptions of one executable graph that the executor keeps: programs change between a few
  HEDDLE_HASTY = 8, // after so many new ones in a row for one launch each, making them costs more than it gives
};

struct heddle_exec {
  struct heddle_exec *next;      // hash chain; guarded by the table's lock
  CUgraphExec handle;
  uint32_t users;                // guarded by the table's lock; the table is one
  struct heddle_mutex lock;      // guards what follows
  struct heddle_session *session;
  CUcontext context;
  struct heddle_description *description; // NULL: native for good, .why says why
  enum heddle_native_reason why; // with a description: of its present state; NONE when .current is to be launched
  bool changed;                  // since .current and .why were found out
  uint32_t code_changes;         // heddle_code_changes at that time
  struct heddle_mirror *current;
  struct heddle_mirror *kept[HEDDLE_KEPT]; // .current among them; the one used last comes first
  uint32_t launches;             // since the last change
  uint32_t hasty;                // changes in a row to something new that was launched once
  bool globals;                  // heddle_description_globals
  uint32_t lane, seq;            // the last forwarded launch; seq 0: none
  uint32_t native_lane;          // lane of the last native launch, plus 1; 0: none since the last forwarded one
};

// The entry of a handle, held until heddle_exec_release; NULL: not known.
struct heddle_exec *heddle_exec_hold(CUgraphExec handle);
void heddle_exec_release(struct heddle_exec *x);
// The description of x is d from now on (NULL: native for good, because of why). x is locked; d is x's.
void heddle_exec_describe(struct heddle_exec *x, struct heddle_description *d, enum heddle_native_reason why);
// The description was changed in place. x is locked.
void heddle_exec_changed(struct heddle_exec *x);
// Before the driver lets go of what a graph keeps alive for its launches (user objects): launches of x under way are waited for.
void heddle_exec_before_release(struct heddle_exec *x);

#endif
