// Requests that the program marks itself. A mark is one record in the ring of each session: no system call, no allocation. The begin
// wakes nobody; it goes with the first op.
#include "marks.h"

#include <string.h>
#include <time.h>

#include "../lane.h"

#define EXPORT __attribute__((visibility("default")))

// The number of a mark's request lies above one bit for each device whose executor knows of it.
_Static_assert(HEDDLE_MAX_DEVICES <= 16, "a mark has 16 bits for devices");

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

// The session of a device that takes records now, or NULL.
static struct heddle_session *taking(int device) {
  struct heddle_session *s = heddle_session_peek(device);
  return s != NULL && heddle_session_live(s) && heddle_shared_of(s) != NULL ? s : NULL;
}

uint64_t heddle_mark_begin(const char *label) {
  static _Atomic uint64_t numbers;
  struct heddle_wire_request_begin body = {0};
  uint64_t devices = 0;
  for (int device = 0; device < HEDDLE_MAX_DEVICES; device++) {
    struct heddle_session *s = taking(device);
    if (s == NULL) continue;
    if (body.request == 0) {
      body.request = atomic_fetch_add_explicit(&numbers, 1, memory_order_relaxed) + 1;
      body.time = now_ns();
      size_t n = label == NULL ? 0 : strnlen(label, sizeof body.label);
      if (n == sizeof body.label)
        for (n--; n != 0 && ((unsigned char)label[n] & 0xc0) == 0x80;) n--; // not in the middle of a character
      if (n != 0) memcpy(body.label, label, n);
    }
    // A session that is lost is given up by the next op of it.
    if (heddle_record_later(s, HEDDLE_WIRE_KIND_REQUEST_BEGIN, &body, sizeof body)) devices |= UINT64_C(1) << device;
  }
  return devices == 0 ? 0 : body.request << 16 | devices;
}

void heddle_mark_end(uint64_t mark) {
  struct heddle_wire_request_end body = {.request = mark >> 16};
  for (int device = 0; device < HEDDLE_MAX_DEVICES && (mark & 0xffff) >> device != 0; device++) {
    struct heddle_session *s = (mark >> device & 1) != 0 ? taking(device) : NULL;
    if (s == NULL) continue;
    if (body.time == 0) body.time = now_ns();
    (void)heddle_record_write(s, HEDDLE_WIRE_KIND_REQUEST_END, 0, 0, &body, sizeof body);
  }
}

static _Thread_local struct {
  uint32_t depth;
  uint64_t mark;
} mine;

EXPORT void heddle_request_begin(const char *label) {
  if (mine.depth++ == 0) mine.mark = heddle_mark_begin(label);
}

EXPORT void heddle_request_end(void) {
  if (mine.depth == 0 || --mine.depth != 0) return;
  heddle_mark_end(mine.mark);
}
