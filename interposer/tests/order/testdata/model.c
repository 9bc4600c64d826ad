// Random programs of one process against the happens-before that CUDA promises.
//
// Every call of the product leaves records in the ring and operations on real streams. Both become nodes of one graph in the order
// in which they came into being; an edge leads from a node to one that exists already (anything else is a forward reference, so a
// possible cycle, and fails). A forwarded op follows its lane, its dependencies and its `ready` write; an operation on a real
// stream follows that stream (the driver's rules for the legacy stream included), and a wait follows the record whose number it waits
// for. What CUDA promises must be contained in the closure of these edges, or must have been complete before the op was submitted.
//
// usage: model SEED PROGRAMS STEPS STREAMS
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

#define NODES 2048
#define STREAMS 96
#define EVENTS 12
#define WORDS (NODES / 64)

typedef struct { uint64_t w[WORDS]; } set;
static void set_add(set *s, int n) { s->w[n / 64] |= UINT64_C(1) << (n % 64); }
static void set_join(set *s, const set *o) { for (int i = 0; i < WORDS; i++) s->w[i] |= o->w[i]; }
static int set_outside(const set *s, const set *o) { // an element of s that is not in o, or -1
  for (int i = 0; i < WORDS; i++)
    if ((s->w[i] & ~o->w[i]) != 0) return i * 64 + __builtin_ctzll(s->w[i] & ~o->w[i]);
  return -1;
}

static uint64_t rng;
static uint32_t pick(uint32_t n) {
  rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
  return (uint32_t)(rng >> 16) % n;
}

static char trace[1 << 16];
static size_t traced;
// ---- the implementation's graph ----

struct node {
  set before;       // closure
  bool done;
  bool forwarded;
  uint32_t lane, seq;   // forwarded; or of a write: lane and ready number
  int stream;           // index; native only
  int held;             // an operation before it in a shared hardware queue, or -1
};
static struct node node[NODES];
static int nodes;
static set done;                                   // complete nodes
static int record_of[HEDDLE_WIRE_LANES][NODES];    // node of (lane, number - first number of this program)
static uint32_t first_number[HEDDLE_WIRE_LANES];   // number before the first of this program
static uint32_t seen[HEDDLE_WIRE_LANES], asked[HEDDLE_WIRE_LANES];
static int write_of[HEDDLE_WIRE_LANES][NODES];     // node of the ready write (lane, number - first)
static uint32_t first_ready[HEDDLE_WIRE_LANES], last_ready[HEDDLE_WIRE_LANES];
static uint64_t scanned;

static struct { CUstream handle; bool alive, legacy, blocking; int last; } stream[STREAMS];
static int streams, last_of_any = -1;
static int connections; // 1: all real streams share one hardware queue
static struct { CUevent handle; int native; } event[EVENTS];

static int node_new(void) {
  CHECK(nodes < NODES, "program too long");
  struct node *n = &node[nodes];
  memset(n, 0, sizeof *n);
  n->before = done; // whatever is complete is before whatever comes
  n->stream = -1;
  n->held = -1;
  return nodes++;
}
static void follow(int n, int p) {
  CHECK(p >= 0 && p < n, "node %d follows %d, which does not exist yet", n, p);
  set_join(&node[n].before, &node[p].before);
  set_add(&node[n].before, p);
}
static void follow_number(int n, uint32_t lane, uint32_t seq, const char *what) {
  CHECK(lane < HEDDLE_WIRE_LANES && heddle_reached(seen[lane], seq), "%s names (%u, %u), which is not published; last is %u", what, lane, seq, seen[lane]);
  if (seq != first_number[lane] && heddle_reached(seq, first_number[lane])) follow(n, record_of[lane][seq - first_number[lane]]);
}

// Takes up the records that the product has published since.
static void scan(void) {
  struct heddle_ring *r = &fake_session->ring;
  uint64_t tail = heddle_load_acquire64(&r->producer->tail);
  while (scanned != tail) {
    struct heddle_wire_record *h = (struct heddle_wire_record *)(r->data + (scanned & r->mask));
    CHECK(h->size >= 16 && h->size % 16 == 0 && h->size <= tail - scanned, "record of %u bytes", h->size);
    scanned += h->size;
    switch (h->kind) {
    case HEDDLE_WIRE_KIND_PAD:
    case HEDDLE_WIRE_KIND_LANE_OPEN:
    case HEDDLE_WIRE_KIND_LANE_RETIRE: continue;
    case HEDDLE_WIRE_KIND_SIGNAL:
      CHECK(heddle_reached(seen[h->lane], h->seq), "signal for a number that is not published");
      if (heddle_reached(h->seq, asked[h->lane])) asked[h->lane] = h->seq;
      continue;
    default: break;
    }
    CHECK(h->seq == heddle_next_number(seen[h->lane]), "lane %u: number %u after %u", h->lane, h->seq, seen[h->lane]);
    CHECK(h->ndeps <= HEDDLE_WIRE_MAX_DEPS, "%u dependencies", h->ndeps);
    int n = node_new();
    node[n].forwarded = true;
    node[n].lane = h->lane;
    node[n].seq = h->seq;
    follow_number(n, h->lane, seen[h->lane], "its lane");
    const struct heddle_wire_dep *d = (const struct heddle_wire_dep *)(h + 1);
    for (uint32_t i = 0; i < h->ndeps; i++) follow_number(n, d[i].lane, d[i].value, "a dependency");
    if (h->ready != 0) {
      CHECK(heddle_reached(last_ready[h->lane], h->ready), "ready %u was not written before the record that waits for it", h->ready);
      follow(n, write_of[h->lane][h->ready - first_ready[h->lane]]);
    }
    seen[h->lane] = h->seq;
    record_of[h->lane][h->seq - first_number[h->lane]] = n;
    if ((h->flags & HEDDLE_WIRE_RECORD_FLAG_WANT_SIGNAL) != 0) asked[h->lane] = h->seq;
  }
}

static int index_of(CUstream s) {
  for (int i = 0; i < streams; i++)
    if (stream[i].handle == s) return i;
  CHECK(false, "the product used stream %p", (void *)s);
  return -1;
}

static int native_node(int s) {
  int n = node_new();
  node[n].stream = s;
  if (stream[s].last >= 0) follow(n, stream[s].last);
  for (int i = 0; i < streams; i++)
    if (stream[i].last >= 0 && ((stream[s].legacy && stream[i].blocking) || (stream[s].blocking && stream[i].legacy))) follow(n, stream[i].last);
  // One hardware queue for all streams: every operation waits for whatever was enqueued before it, whosesoever it is. The order is
  // not promised, so it must not help a promise (`before`), but it may not keep anything from ending (`held`).
  node[n].held = connections == 1 ? last_of_any : -1;
  stream[s].last = n;
  last_of_any = n;
  return n;
}

static void on_native(const char *what, CUstream handle, CUdeviceptr address, uint32_t value, CUevent e) {
  scan();
  int n = native_node(index_of(handle));
  if (what[0] == 'w' && address != 0) {
    uint64_t at = address - (uintptr_t)fake_session->lanes, lane = at / sizeof(struct heddle_wire_lane), field = at % sizeof(struct heddle_wire_lane);
    if (strcmp(what, "write") == 0) {
      CHECK(field == offsetof(struct heddle_wire_lane, ready), "write to field %llu", (unsigned long long)field);
      CHECK(value == heddle_next_number(last_ready[lane]), "ready %u after %u", value, last_ready[lane]);
      last_ready[lane] = value;
      write_of[lane][value - first_ready[lane]] = n;
      node[n].lane = (uint32_t)lane;
      node[n].seq = value;
    } else {
      CHECK(field == offsetof(struct heddle_wire_lane, done), "wait for field %llu", (unsigned long long)field);
      CHECK(heddle_reached(asked[lane], value), "the real stream waits for (%llu, %u), and nobody asked the executor to write it", (unsigned long long)lane, value);
      follow_number(n, (uint32_t)lane, value, "a wait");
    }
  } else if (strcmp(what, "record") == 0) {
    for (int i = 0; i < EVENTS; i++)
      if (event[i].handle == e) event[i].native = n;
  } else if (strcmp(what, "wait-event") == 0) {
    for (int i = 0; i < EVENTS; i++)
      if (event[i].handle == e && event[i].native >= 0) follow(n, event[i].native);
  }
}

// ---- running it: an executor and a GPU that do anything that the graph allows ----

static void complete(int n) {
  node[n].done = true;
  set_add(&done, n);
  if (node[n].forwarded) {
    struct heddle_wire_lane *w = &fake_session->lanes[node[n].lane];
    heddle_store_relaxed32(&w->issued, node[n].seq);
    // Written when asked for; sometimes without.
    if (heddle_reached(asked[node[n].lane], node[n].seq) || pick(3) == 0) heddle_store_release32(&w->done, node[n].seq);
  } else if (node[n].seq != 0) {
    uint32_t *ready = &fake_session->lanes[node[n].lane].ready;
    CHECK(heddle_reached(node[n].seq, *ready), "lane %u: ready goes back from %u to %u\n%s", node[n].lane, *ready, node[n].seq, trace);
    heddle_store_release32(ready, node[n].seq);
  }
}
// A signal that comes after its op is complete is honoured at once.
static void honour(void) {
  for (int n = 0; n < nodes; n++)
    if (node[n].done && node[n].forwarded && heddle_reached(asked[node[n].lane], node[n].seq) &&
        !heddle_reached(heddle_load_relaxed32(&fake_session->lanes[node[n].lane].done), node[n].seq))
      heddle_store_release32(&fake_session->lanes[node[n].lane].done, node[n].seq);
}
static bool step(void) { // one random node that nothing incomplete is before
  int start = nodes == 0 ? 0 : (int)pick((uint32_t)nodes);
  for (int i = 0; i < nodes; i++) {
    int n = (start + i) % nodes;
    if (node[n].done || set_outside(&node[n].before, &done) >= 0 || (node[n].held >= 0 && !node[node[n].held].done)) continue;
    complete(n);
    return true;
  }
  return false;
}
static int on_sleep(uint32_t *word, uint32_t expected) {
  scan();
  uint32_t before = heddle_load_relaxed32(word);
  CHECK(before == expected || before == 0, "sleeps on a word that says %u, expected %u", before, expected);
  honour();
  for (uint32_t i = 0; i < 1 + pick(8); i++) (void)step();
  honour();
  for (uint32_t l = 0; l < HEDDLE_WIRE_LANES; l++) { // the executor wakes whoever waits for what has passed
    struct heddle_wire_lane *w = &fake_session->lanes[l];
    if (w->waiting != 0 && heddle_reached(w->done, w->waiting)) w->waiting = 0;
  }
  return 0;
}
static void finish_stream(int s) {
  for (int n; stream[s].last >= 0 && !node[stream[s].last].done;) {
    n = stream[s].last;
    scan();
    CHECK(step(), "stream %d cannot end: node %d waits for something that never comes", s, n);
  }
}
static void on_synchronize(CUstream s) {
  if (s != NULL) finish_stream(index_of(s));
  else for (int i = 0; i < streams; i++) finish_stream(i);
}
static CUresult on_query(CUstream s) {
  int i = index_of(s);
  return stream[i].last < 0 || node[stream[i].last].done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

// ---- what CUDA promises ----

static set tail[STREAMS], gone, captured[EVENTS]; // sets of implementation nodes that stand for the program's own operations
static bool recorded[EVENTS];

static set promised(int s) {
  set p = tail[s];
  if (stream[s].legacy) {
    for (int i = 0; i < streams; i++) if (stream[i].blocking) set_join(&p, &tail[i]);
    set_join(&p, &gone);
  } else if (stream[s].blocking) {
    for (int i = 0; i < streams; i++) if (stream[i].legacy) set_join(&p, &tail[i]);
  }
  return p;
}

static void say(const char *f, int a, int b) {
  if (traced < sizeof trace - 128) traced += (size_t)snprintf(trace + traced, 128, f, a, b);
}

static void one_step(void) {
  int s = (int)pick((uint32_t)streams), e = (int)pick(EVENTS);
  while (!stream[s].alive) s = (int)pick((uint32_t)streams);
  CUresult r = CUDA_SUCCESS;
  bool native = false;
  set must;
  switch (pick(16)) {
  case 0: case 1: case 2: case 3: case 4: case 5:
    say("forward %d\n", s, 0);
    must = promised(s);
    r = heddle_hook_cuMemsetD8Async(DEVICE_BASE + 64 * (uint64_t)s, 1, 4, stream[s].handle);
    scan();
    CHECK(node[nodes - 1].forwarded, "a memset was not forwarded");
    goto op;
  case 6: case 7: case 8: case 9:
    say("native %d\n", s, 0);
    must = promised(s);
    native = true;
    r = heddle_hook_cuMemsetD8Async(0x1000, 1, 4, stream[s].handle); // memory that is not ours
    scan();
    CHECK(node[nodes - 1].stream == s, "the native operation is not the last on its stream");
    goto op;
  case 10: case 11:
    say("record e%d on %d\n", e, s);
    captured[e] = promised(s);
    event[e].native = -1;
    recorded[e] = true;
    tail[s] = captured[e]; // an action of the stream: what follows it follows all this
    r = heddle_hook_cuEventRecord(event[e].handle, stream[s].handle);
    break;
  case 12: case 13:
    say("wait e%d on %d\n", e, s);
    if (recorded[e]) { // an event that was never recorded is complete, and waiting for it is nothing
      must = promised(s);
      set_join(&must, &captured[e]);
      tail[s] = must;
    }
    r = heddle_hook_cuStreamWaitEvent(stream[s].handle, event[e].handle, 0);
    break;
  case 14: {
    uint32_t what = pick(10);
    if (what == 0) {
      say("synchronise %d\n", s, 0);
      must = tail[s];
      r = heddle_hook_cuStreamSynchronize(stream[s].handle);
      scan();
      int missing = set_outside(&must, &done);
      CHECK(missing < 0, "synchronised stream %d, and node %d is not complete\n%s", s, missing, trace);
    } else if (what == 1) {
      say("synchronise e%d\n", e, 0);
      r = heddle_hook_cuEventSynchronize(event[e].handle);
      scan();
      int missing = recorded[e] ? set_outside(&captured[e], &done) : -1;
      CHECK(missing < 0 || event[e].native >= 0, "synchronised event %d, and node %d is not complete\n%s", e, missing, trace);
    } else if (what < 6 && s >= 2) { // neither the legacy nor the per-thread stream
      say("destroy %d, make %d\n", s, streams);
      if (stream[s].blocking) set_join(&gone, &tail[s]);
      r = heddle_hook_cuStreamDestroy_v2(stream[s].handle);
      stream[s].alive = false;
      if (streams < STREAMS) {
        bool blocking = pick(3) != 0;
        memset(&tail[streams], 0, sizeof tail[streams]);
        stream[streams].handle = fake_stream(blocking ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING);
        stream[streams].blocking = blocking;
        stream[streams].legacy = false;
        stream[streams].alive = true;
        stream[streams++].last = -1;
      }
    } else {
      say("query %d\n", s, 0);
      r = heddle_hook_cuStreamQuery(stream[s].handle);
      scan();
      int missing = set_outside(&tail[s], &done);
      CHECK(r != CUDA_SUCCESS || missing < 0, "stream %d is said to be idle, and node %d is not complete\n%s", s, missing, trace);
      if (r == CUDA_ERROR_NOT_READY) r = CUDA_SUCCESS;
    }
    break;
  }
  default:
    say("progress %d %d\n", 0, 0);
    scan();
    for (uint32_t i = 0; i < pick(6); i++) (void)step();
    honour();
    break;
  }
  CHECK(r == CUDA_SUCCESS, "result %d\n%s", (int)r, trace);
  scan();
  return;
op:
  CHECK(r == CUDA_SUCCESS, "result %d\n%s", (int)r, trace);
  int missing = set_outside(&must, &node[nodes - 1].before);
  CHECK(missing < 0, "%s node %d on stream %d may run before node %d (%s), which it must follow\n%s", native ? "native" : "forwarded",
        nodes - 1, s, missing, node[missing].forwarded ? "forwarded" : "native", trace);
  set_add(&must, nodes - 1);
  tail[s] = must;
}

static void program(uint64_t seed, int steps, int many) {
  rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
  nodes = 0;
  traced = 0;
  last_of_any = -1;
  memset(&done, 0, sizeof done);
  memset(tail, 0, sizeof tail);
  memset(&gone, 0, sizeof gone);
  memset(recorded, 0, sizeof recorded);
  for (uint32_t l = 0; l < HEDDLE_WIRE_LANES; l++) {
    first_number[l] = seen[l];
    first_ready[l] = last_ready[l];
  }
  connections = seed % 2 == 0 ? 1 : 8;
  streams = many;
  for (int i = 0; i < streams; i++) {
    stream[i].legacy = i == 0;
    stream[i].blocking = i == 0 || i % 3 != 0;
    stream[i].alive = true;
    stream[i].last = -1;
    stream[i].handle = i == 0 ? CU_STREAM_LEGACY : i == 1 ? CU_STREAM_PER_THREAD : fake_stream(stream[i].blocking ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING);
  }
  for (int i = 0; i < EVENTS; i++) {
    CHECK(heddle_hook_cuEventCreate(&event[i].handle, i % 3 == 0 ? CU_EVENT_DEFAULT : i % 5 == 1 ? CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS : CU_EVENT_DISABLE_TIMING) == CUDA_SUCCESS, "event");
    event[i].native = -1;
  }
  for (int i = 0; i < steps; i++) one_step();
  scan();
  // Everything ends, whatever the GPU chose to do first.
  while (step()) {}
  honour();
  for (int n = 0; n < nodes; n++) CHECK(node[n].done, "node %d never ends\n%s", n, trace);
  for (uint32_t l = 0; l < HEDDLE_WIRE_LANES; l++) heddle_store_release32(&fake_session->lanes[l].done, seen[l]);
  heddle_store_release64(&fake_session->ring.consumer->head, scanned);
  for (int i = 2; i < streams; i++)
    if (stream[i].alive) CHECK(heddle_hook_cuStreamDestroy_v2(stream[i].handle) == CUDA_SUCCESS, "destroy");
  for (int i = 0; i < EVENTS; i++) CHECK(heddle_hook_cuEventDestroy_v2(event[i].handle) == CUDA_SUCCESS, "destroy");
  scan();
  heddle_store_release64(&fake_session->ring.consumer->head, scanned);
}

int main(int argc, char **argv) {
  CHECK(argc == 5, "usage: model SEED PROGRAMS STEPS STREAMS");
  uint64_t seed = strtoull(argv[1], NULL, 10);
  int programs = atoi(argv[2]), steps = atoi(argv[3]), many = atoi(argv[4]);
  CHECK(many <= STREAMS, "at most %d streams", STREAMS);
  fake_start(1 << 22);
  fake_native = on_native;
  fake_sleep = on_sleep;
  fake_stream_query = on_query;
  fake_stream_synchronize = on_synchronize;
  CHECK(heddle_lane_of(CU_STREAM_LEGACY) != NULL, "no lane for the legacy stream");
  for (int i = 0; i < programs; i++) {
    if (getenv("MODEL_VERBOSE") != NULL) fprintf(stderr, "seed %llu\n", (unsigned long long)(seed + (uint64_t)i));
    program(seed + (uint64_t)i, steps, many);
  }
  printf("%d programs\n", programs);
}
