// A description as the records of docs/protocol.md "Graphs": one behind another, each behind what it depends on. Graphs within
// graphs are flattened.
#include <stdlib.h>
#include <string.h>

#include "inner.h"

static void *room_for(struct heddle_records *r, size_t bytes) {
  if (r->bytes + bytes > r->room) {
    size_t room = 2 * r->room + bytes + 4096;
    unsigned char *grown = realloc(r->at, room);
    if (grown == NULL) return NULL;
    r->at = grown;
    r->room = room;
  }
  void *at = r->at + r->bytes;
  memset(at, 0, bytes);
  r->bytes += bytes;
  return at;
}

uint32_t heddle_records_put(struct heddle_records *r, uint16_t kind, uint8_t left, const void *body, uint32_t body_bytes, const uint32_t *deps, uint32_t ndeps) {
  uint32_t size = heddle_record_bytes(ndeps, body_bytes);
  if (size == 0 || r->nodes == HEDDLE_WIRE_MAX_GRAPH_NODES || size > HEDDLE_WIRE_MAX_GRAPH_BYTES - r->bytes) return 0;
  struct heddle_wire_record *h = room_for(r, size);
  if (h == NULL) return 0;
  h->size = size;
  h->kind = kind;
  h->flags = left;
  h->seq = ++r->nodes;
  h->ndeps = ndeps;
  struct heddle_wire_dep *dep = (struct heddle_wire_dep *)(h + 1);
  for (uint32_t i = 0; i < ndeps; i++) dep[i] = (struct heddle_wire_dep){0, deps[i]};
  memcpy((unsigned char *)(dep + (ndeps + 1) / 2 * 2), body, body_bytes);
  return h->seq;
}

uint32_t heddle_records_join(struct heddle_records *r, const uint32_t *deps, uint32_t ndeps) {
  struct heddle_wire_event_mark mark = {.slot = HEDDLE_SCRATCH_SLOT};
  return heddle_records_put(r, HEDDLE_WIRE_KIND_EVENT, 0, &mark, sizeof mark, deps, ndeps);
}

// Leaves at most `most` in deps, by putting records between. False: as heddle_records_put.
static bool narrow(struct heddle_records *r, uint32_t *deps, uint32_t *ndeps, uint32_t most) {
  while (*ndeps > most) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < *ndeps; i += HEDDLE_WIRE_MAX_DEPS) {
      uint32_t n = *ndeps - i < HEDDLE_WIRE_MAX_DEPS ? *ndeps - i : HEDDLE_WIRE_MAX_DEPS;
      if ((deps[kept++] = heddle_records_join(r, deps + i, n)) == 0) return false;
    }
    *ndeps = kept;
  }
  return true;
}

// The records of d, whose roots follow record `entry` (0: nothing). *last receives the record that all of it comes before. False:
// *why says why.
static bool write_graph(const struct heddle_description *d, struct heddle_records *r, uint32_t entry, uint32_t *last, enum heddle_native_reason *why) {
  uint32_t *number = calloc(d->n + 1, sizeof *number), *deps = calloc(d->n + 1, sizeof *deps), n;
  uint32_t *followed = calloc(d->n + 1, sizeof *followed); // by which node last, from 1
  bool ok = number != NULL && deps != NULL && followed != NULL;
  for (uint32_t i = 0; ok && i < d->n; i++) {
    const struct heddle_node *node = &d->nodes[i];
    n = 0;
    for (uint32_t k = 0; k < node->ndeps; k++) {
      uint32_t before = d->deps[node->first_dep + k];
      if (followed[before] == i + 1) continue; // edges of different kinds may join the same two (cuGraphAddDependencies_v2)
      followed[before] = i + 1;
      deps[n++] = number[before];
    }
    if (n == 0 && entry != 0) deps[n++] = entry;
    if (node->child != NULL && node->child->n != 0) {
      ok = narrow(r, deps, &n, 1) && write_graph(node->child, r, n == 0 ? 0 : deps[0], &number[i], why);
      continue;
    }
    if (node->why != HEDDLE_NATIVE_NONE && node->enabled) {
      *why = (enum heddle_native_reason)node->why;
      ok = false;
      break;
    }
    ok = narrow(r, deps, &n, HEDDLE_WIRE_MAX_DEPS);
    if (!ok) break;
    if (node->enabled && node->child == NULL && node->kind != HEDDLE_WIRE_KIND_EVENT) number[i] = heddle_records_put(r, node->kind, node->left, node->body, node->body_bytes, deps, n);
    else number[i] = heddle_records_join(r, deps, n);
    ok = number[i] != 0;
  }
  n = 0;
  for (uint32_t i = 0; ok && last != NULL && i < d->n; i++)
    if (followed[i] == 0) deps[n++] = number[i];
  if (ok && last != NULL) {
    ok = narrow(r, deps, &n, 1);
    *last = deps[0];
  }
  free(number);
  free(deps);
  free(followed);
  return ok;
}

bool heddle_records_write(const struct heddle_description *d, struct heddle_records *r, enum heddle_native_reason *why) {
  memset(r, 0, sizeof *r);
  *why = HEDDLE_NATIVE_GRAPH_REFUSED;
  bool ok = write_graph(d, r, 0, NULL, why);
  if (ok && r->nodes == 0) ok = heddle_records_join(r, NULL, 0) != 0; // an empty graph is launched too
  if (ok) return true;
  free(r->at);
  memset(r, 0, sizeof *r);
  return false;
}
