// A graph with nodes that the executor does not run is cut into parts that it does, with steps of the client's own stream between
// them. The launch does parts and steps one behind another, which is an order that the graph allows: records stand behind what they
// depend on, and a part or a step stands behind everything that its records depend on.
//
// Phases: a step goes as early as it can, before the part of its phase, and that part takes all nodes that need no later step; so
// there are as few parts as the longest chain of steps demands. Steps that wait (for an event, for a value in memory) go as late as
// they can, behind the part of their phase: what they wait for may be the work of another branch. Source: CUDA driver API, "Graph
// Management": branches may run side by side, and nothing promises that they do.
#include <stdlib.h>
#include <string.h>

#include "inner.h"

static bool is_step(const struct heddle_wire_record *r) { return r->kind >= HEDDLE_STEP_RECORD; }

static bool waits(const struct heddle_wire_record *r) {
  if (r->kind == HEDDLE_STEP_WAIT) return true;
  if (r->kind != HEDDLE_STEP_MEMOPS) return false;
  const struct heddle_step_memops *m = (const struct heddle_step_memops *)heddle_record_body(r);
  const CUstreamBatchMemOpParams *op = (const CUstreamBatchMemOpParams *)(m + 1);
  for (uint32_t i = 0; i < m->count; i++)
    if (op[i].operation == CU_STREAM_MEM_OP_WAIT_VALUE_32 || op[i].operation == CU_STREAM_MEM_OP_WAIT_VALUE_64) return true;
  return false;
}

static const struct heddle_wire_record *record_at(const struct heddle_records *all, size_t at) { return (const struct heddle_wire_record *)(all->at + at); }

// As what a graph with such a step runs natively.
static enum heddle_native_reason reason_of(uint16_t kind, uint8_t left) {
  switch (kind) {
  case HEDDLE_STEP_HOST: return HEDDLE_NATIVE_GRAPH_HOST;
  case HEDDLE_STEP_RECORD:
  case HEDDLE_STEP_WAIT: return HEDDLE_NATIVE_GRAPH_EVENT;
  case HEDDLE_STEP_COPY:
  case HEDDLE_STEP_MEMSET: return left != HEDDLE_NATIVE_NONE ? (enum heddle_native_reason)left : HEDDLE_NATIVE_FOREIGN_MEMORY;
  default: return HEDDLE_NATIVE_GRAPH;
  }
}

// An event that one graph both records and waits for: which record a wait means then is the driver's to say.
static bool same_event(const struct heddle_records *all) {
  CUevent wait[HEDDLE_STEPS];
  uint32_t n = 0;
  for (size_t at = 0; at < all->bytes; at += record_at(all, at)->size)
    if (record_at(all, at)->kind == HEDDLE_STEP_WAIT && n < HEDDLE_STEPS) wait[n++] = *(const CUevent *)heddle_record_body(record_at(all, at));
  for (size_t at = 0; n != 0 && at < all->bytes; at += record_at(all, at)->size)
    for (uint32_t i = 0; i < n && record_at(all, at)->kind == HEDDLE_STEP_RECORD; i++)
      if (wait[i] == *(const CUevent *)heddle_record_body(record_at(all, at))) return true;
  return false;
}

// Where in its phase something goes.
enum place { EARLY, PART, LATE };

struct places {
  uint32_t phases;
  uint32_t *phase;  // by record, from 1
  uint8_t *place;   // enum place
  uint32_t *number; // in its part, from 1; 0: in none
  uint32_t nsteps;
  struct { const struct heddle_wire_record *record; uint32_t index; } step[HEDDLE_STEPS];
};

// Finds the place of each record: the earliest that lies behind what it depends on.
static void place_all(const struct heddle_records *all, struct places *p) {
  uint32_t i = 1;
  for (size_t at = 0; at < all->bytes; at += record_at(all, at)->size, i++) {
    const struct heddle_wire_record *r = record_at(all, at);
    const struct heddle_wire_dep *dep = (const struct heddle_wire_dep *)(r + 1);
    enum place place = waits(r) ? LATE : is_step(r) ? EARLY : PART, last = EARLY;
    uint32_t phase = 0;
    for (uint32_t k = 0; k < r->ndeps; k++) {
      uint32_t before = p->phase[dep[k].value];
      enum place of = p->place[dep[k].value];
      if (before > phase || (before == phase && of > last)) {
        phase = before;
        last = of;
      }
    }
    if (r->kind == HEDDLE_WIRE_KIND_EVENT) place = last; // it only joins, and goes where the last of what it joins is
    p->phase[i] = phase + (last > place);
    p->place[i] = (uint8_t)place;
    if (is_step(r)) {
      p->step[p->nsteps].record = r;
      p->step[p->nsteps++].index = i;
    }
    if (p->phase[i] >= p->phases) p->phases = p->phase[i] + 1;
  }
}

// Writes a node into the part of its phase. False: no memory.
static bool add(struct heddle_records *part, const struct heddle_wire_record *r, uint32_t i, struct places *p) {
  const struct heddle_wire_dep *dep = (const struct heddle_wire_dep *)(r + 1);
  const unsigned char *body = heddle_record_body(r);
  uint32_t deps[HEDDLE_WIRE_MAX_DEPS], n = 0;
  for (uint32_t k = 0; k < r->ndeps; k++)
    if (p->phase[dep[k].value] == p->phase[i] && p->number[dep[k].value] != 0) deps[n++] = p->number[dep[k].value];
  p->number[i] = heddle_records_put(part, r->kind, 0, body, r->size - (uint32_t)(body - (const unsigned char *)r), deps, n);
  return p->number[i] != 0;
}

static bool does_something(const struct heddle_records *part) {
  for (size_t at = 0; at < part->bytes; at += record_at(part, at)->size)
    if (record_at(part, at)->kind != HEDDLE_WIRE_KIND_EVENT) return true;
  return false;
}

static void put_steps(const struct places *p, uint32_t phase, enum place place, struct heddle_cut *c) {
  for (uint32_t k = 0; k < p->nsteps; k++) {
    const struct heddle_wire_record *r = p->step[k].record;
    if (p->phase[p->step[k].index] != phase || p->place[p->step[k].index] != place) continue;
    const unsigned char *body = heddle_record_body(r);
    c->steps[c->n++] = (struct heddle_cut_step){.kind = r->kind, .left = (uint8_t)r->flags, .body = body,
                                                .bytes = r->size - (uint32_t)(body - (const unsigned char *)r)};
  }
}

// c->steps has room for all steps and phases.
static bool assemble(const struct heddle_records *all, struct places *p, struct heddle_cut *c) {
  struct heddle_records *part = calloc(p->phases, sizeof *part);
  bool ok = part != NULL;
  uint32_t i = 1;
  for (size_t at = 0; ok && at < all->bytes; at += record_at(all, at)->size, i++)
    if (p->place[i] == PART) ok = add(&part[p->phase[i]], record_at(all, at), i, p);
  for (uint32_t phase = 0; ok && phase < p->phases; phase++) {
    put_steps(p, phase, EARLY, c);
    if (does_something(&part[phase])) {
      c->steps[c->n++] = (struct heddle_cut_step){.part = part[phase]};
      memset(&part[phase], 0, sizeof part[phase]);
    }
    put_steps(p, phase, LATE, c);
  }
  for (uint32_t phase = 0; part != NULL && phase < p->phases; phase++) free(part[phase].at);
  free(part);
  return ok;
}

// All of it as one part, which stays the caller's.
static bool whole(const struct heddle_records *all, struct heddle_cut *c) {
  if ((c->steps = calloc(1, sizeof *c->steps)) == NULL) return false;
  c->steps[c->n++].part = (struct heddle_records){.at = all->at, .bytes = all->bytes, .nodes = all->nodes};
  return true;
}

bool heddle_cut(const struct heddle_records *all, struct heddle_cut *c, enum heddle_native_reason *why) {
  uint32_t steps = 0;
  memset(c, 0, sizeof *c);
  enum heddle_native_reason because = HEDDLE_NATIVE_NONE; // what a native launch is counted as
  for (size_t at = 0; at < all->bytes; at += record_at(all, at)->size)
    if (is_step(record_at(all, at)) && steps++ == 0) because = reason_of(record_at(all, at)->kind, (uint8_t)record_at(all, at)->flags);
  *why = HEDDLE_NATIVE_GRAPH_REFUSED;
  if (steps == 0) return whole(all, c);
  struct places *p = calloc(1, sizeof *p);
  bool ok = p != NULL;
  if (ok) {
    p->phase = calloc(all->nodes + 1, sizeof *p->phase);
    p->place = calloc(all->nodes + 1, sizeof *p->place);
    p->number = calloc(all->nodes + 1, sizeof *p->number);
    c->steps = calloc(HEDDLE_STEPS, sizeof *c->steps);
    ok = p->phase != NULL && p->place != NULL && p->number != NULL && c->steps != NULL;
  }
  if (ok) {
    if (steps > HEDDLE_STEPS - HEDDLE_PARTS) ok = false;
    else place_all(all, p);
    if (p->phases > HEDDLE_PARTS) ok = false;
    if (!ok) *why = because; // it would be launched in more pieces than pays
  }
  if (ok && same_event(all)) {
    *why = HEDDLE_NATIVE_GRAPH_EVENT;
    ok = false;
  }
  ok = ok && assemble(all, p, c);
  if (p != NULL) {
    free(p->phase);
    free(p->place);
    free(p->number);
    free(p);
  }
  if (!ok) heddle_cut_free(c);
  return ok;
}

void heddle_cut_free(struct heddle_cut *c) {
  for (uint32_t i = 0; i < c->n; i++)
    if (c->steps[i].part.room != 0) free(c->steps[i].part.at);
  free(c->steps);
  memset(c, 0, sizeof *c);
}
