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

// What the executor does not run, and the client's own stream does between parts of the graph that the executor runs. Numbers apart
// from those of wire records, among which they stand until the graph is cut (cut.c).
enum heddle_step_kind {
  HEDDLE_STEP_RECORD = 0x100, // body: the CUevent
  HEDDLE_STEP_WAIT,           // body: the CUevent
  HEDDLE_STEP_HOST,           // body: CUDA_HOST_NODE_PARAMS
  HEDDLE_STEP_MEMOPS,         // body: struct heddle_step_memops, then the operations
  HEDDLE_STEP_COPY,           // body: CUDA_MEMCPY3D that the executor cannot make
  HEDDLE_STEP_MEMSET,         // body: CUDA_MEMSET_NODE_PARAMS of memory that the executor does not have
};
struct heddle_step_memops {
  uint32_t count, flags;
};

struct heddle_node {
  CUgraphNode handle;            // in the graph that it was read from
  uint16_t kind;                 // HEDDLE_WIRE_KIND_*: of its record; EVENT joins only; or HEDDLE_STEP_*; 0: .child stands for it
  bool enabled;
  uint8_t why;                   // enum heddle_native_reason: why it cannot run in the executor; NONE
  uint32_t body_bytes;
  unsigned char *body;           // of its record or step
  uint8_t left;                  // enum heddle_native_reason: as what each run of a step is counted; NONE: not, because it uses no SM
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
void heddle_node_set_host(struct heddle_node *n, const CUDA_HOST_NODE_PARAMS *p);
void heddle_node_set_event(struct heddle_node *n, enum heddle_step_kind kind, CUevent e);
void heddle_node_set_memops(CUcontext owner, struct heddle_node *n, const CUDA_BATCH_MEM_OP_NODE_PARAMS *p);
// Asks for every kernel's id again (heddle_code_changes rose).
void heddle_description_renew(struct heddle_session *s, struct heddle_description *d);
bool heddle_description_any_disabled(const struct heddle_description *d);
// The events that a graph records and waits for when it runs, each with the node that does.
struct heddle_graph_event {
  CUgraphNode node;
  CUevent event;
};
struct heddle_graph_events {
  struct heddle_graph_event *record, *wait;
  uint32_t nrecord, nwait;
};
// Adds those of d, or of a graph that was not described. Without memory some are missing.
void heddle_description_events(const struct heddle_description *d, struct heddle_graph_events *e);
void heddle_graph_events(CUgraph graph, struct heddle_graph_events *e);
// One more; set: instead of the one that its node had.
void heddle_graph_event_add(struct heddle_graph_events *e, bool record, struct heddle_graph_event event);
void heddle_graph_event_set(struct heddle_graph_events *e, bool record, struct heddle_graph_event event);
void heddle_graph_events_free(struct heddle_graph_events *e);
// Some kernel of it sees device globals that live in the executor, or an op touches one.
bool heddle_description_globals(struct heddle_session *s, const struct heddle_description *d);
// Some kernel of it is of an image whose device globals are the executor's instance (heddle_code_stateful).
bool heddle_description_stateful(struct heddle_session *s, const struct heddle_description *d);

// ---- records.c: a description as records ----

struct heddle_records {
  unsigned char *at;
  size_t bytes, room;
  uint32_t nodes;
};
// One record behind the records `deps`. Its number, from 1; 0: the graph is larger than any may be, or no memory.
uint32_t heddle_records_put(struct heddle_records *r, uint16_t kind, uint8_t left, const void *body, uint32_t body_bytes, const uint32_t *deps, uint32_t ndeps);
// A record that does nothing but follow others.
uint32_t heddle_records_join(struct heddle_records *r, const uint32_t *deps, uint32_t ndeps);
static inline const unsigned char *heddle_record_body(const struct heddle_wire_record *r) {
  return (const unsigned char *)(r + 1) + ((r->ndeps * sizeof(struct heddle_wire_dep) + 15) & ~UINT64_C(15));
}
// The records of a graph (free r->at), steps among them: their kind is HEDDLE_STEP_*, and .flags is what they are counted as. False:
// *why says why it cannot be launched in the executor as it is.
bool heddle_records_write(const struct heddle_description *d, struct heddle_records *r, enum heddle_native_reason *why);

// ---- cut.c: where steps cut a graph into parts ----

enum {
  HEDDLE_PARTS = 64,   // of one graph: each is a launch, with a wait on the GPU behind what the client's own stream does
  HEDDLE_STEPS = 1024, // of one graph, parts included
};
struct heddle_cut_step {
  uint16_t kind;                // HEDDLE_STEP_*; 0: .part
  uint8_t left;
  uint32_t bytes;               // of .body
  const unsigned char *body;    // in the records that were cut
  struct heddle_records part;   // a graph of its own; room 0: the records that were cut
};
struct heddle_cut {
  uint32_t n;
  struct heddle_cut_step *steps;
};
// Cuts a graph at its steps: done one behind another, parts and steps do what the graph does. False: *why says why it is not to be cut.
bool heddle_cut(const struct heddle_records *all, struct heddle_cut *c, enum heddle_native_reason *why);
void heddle_cut_free(struct heddle_cut *c);

// ---- mirror.c: graphs that the executor has ----

struct heddle_extent {
  uint64_t first, end;
};
struct heddle_mirror {
  struct heddle_mirror *next;    // of the process
  struct heddle_session *session;
  uint32_t id;
  uint64_t bytes;
  const unsigned char *records;  // mapped from the sealed file that was sent
  uint32_t epoch;                // of the executor that is known to have it; guarded by its executable graph's lock
  bool dropped;                  // nobody launches it any more
  bool stale;                    // names memory that the executor does not have any more, or has anew
  struct heddle_extent *named;   // what its copies and memsets name
  uint32_t nnamed;
  struct heddle_extent all;      // from the first to the last of it
  uint32_t nlast, room;
  struct heddle_wire_dep *last;  // its last launch in each lane that may not be done
};

// Gives a graph to the daemon. NULL: *why says why not.
struct heddle_mirror *heddle_mirror_make(struct heddle_session *s, const struct heddle_records *r, enum heddle_native_reason *why);
// Notes a launch of it. False: no host memory; nothing may be launched then.
bool heddle_mirror_launch_room(struct heddle_mirror *m);
void heddle_mirror_launched(struct heddle_mirror *m, uint32_t lane, uint32_t seq);
// It names memory that is gone, or the next executor did not take it: asks the daemon when there is another executor.
bool heddle_mirror_stale(struct heddle_mirror *m);
// Nobody will launch it any more: the daemon is told, and it is freed here when the last launch is done.
void heddle_mirror_drop(struct heddle_mirror *m);

// ---- plan.c: how a graph is launched ----

struct heddle_step {
  uint16_t kind;                // HEDDLE_STEP_*; 0: .mirror
  uint8_t left;                 // as heddle_node's
  const unsigned char *body;
  struct heddle_mirror *mirror;
  CUgraphExec native;           // of a COPY or MEMSET: a graph of that node alone
};
struct heddle_plan {
  uint64_t hash, bytes;
  const unsigned char *records; // what it was made of
  unsigned char *own;           // the same, where no mirror has it
  uint32_t n;
  struct heddle_step steps[];
};

// Gives the executor what a graph consists of. NULL: *why says why not. Nodes that stay native belong to `owner`.
struct heddle_plan *heddle_plan_make(struct heddle_session *s, CUcontext owner, const struct heddle_records *r, uint64_t hash, enum heddle_native_reason *why);
bool heddle_plan_is_of(const struct heddle_plan *p, const struct heddle_records *r, uint64_t hash);
// Some part is stale.
bool heddle_plan_stale(const struct heddle_plan *p);
// Nobody will launch it any more; launches under way go on.
void heddle_plan_drop(struct heddle_plan *p);
// The driver has destroyed its context, and with it what stays native.
void heddle_plan_context_gone(struct heddle_plan *p);
// Launches it on the lane of `stream`. HEDDLE_OP_OPEN: *seq is the lane's number that stands for its end; 0: the session ended
// meanwhile, and the end is native. HEDDLE_OP_NATIVE: nothing was launched, *why says why. Otherwise a CUresult to return. `globals`: it
// cannot go on natively in the middle.
int heddle_plan_launch(struct heddle_plan *p, struct heddle_lane *lane, CUstream stream, bool globals, uint32_t *seq, enum heddle_native_reason *why);

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
  struct heddle_plan *current;
  struct heddle_plan *kept[HEDDLE_KEPT]; // .current among them; the one used last comes first
  struct heddle_graph_events events; // what the driver records and waits for in a native launch
  uint32_t launches;             // since the last change
  uint32_t hasty;                // changes in a row to something new that was launched once
  bool globals, stateful;        // heddle_description_globals, heddle_description_stateful
  uint32_t lane, seq;            // the last forwarded launch; seq 0: none
  uint32_t native_lane;          // lane of the last native launch, plus 1; 0: none since the last forwarded one
};

// The entry of a handle, held until heddle_exec_release; NULL: not known.
struct heddle_exec *heddle_exec_hold(CUgraphExec handle);
void heddle_exec_release(struct heddle_exec *x);
// The description of x is d from now on (NULL: native for good, because of why). x is locked; d is x's. graph: what the executable graph
// is like now; NULL: as it was, but for what d says.
void heddle_exec_describe(struct heddle_exec *x, struct heddle_description *d, CUgraph graph, enum heddle_native_reason why);
// The description was changed in place. x is locked.
void heddle_exec_changed(struct heddle_exec *x);
// Before the driver lets go of what a graph keeps alive for its launches (user objects): launches of x under way are waited for.
void heddle_exec_before_release(struct heddle_exec *x);

#endif
