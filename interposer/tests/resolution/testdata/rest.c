// What session.c and order.c are to the hook table, reduced to answers (the hooks themselves are generated).
#include "hooks/hooks.h"
#include "lane.h"

// Read by the test programs through dlsym; exported by the test's own version script.
#pragma GCC visibility push(default)
int rest_forked, rest_closed;
int rest_captures(void);
int rest_captures(void) { return atomic_load(&heddle_hooks_captures); }
int rest_state(void);
int rest_state(void) { return atomic_load(&heddle_hooks_state); }
#pragma GCC visibility pop

static struct heddle_session session;

struct heddle_session *heddle_session_current(void) { return NULL; }
struct heddle_session *heddle_session_peek(CUdevice device) { return device == 0 ? &session : NULL; }
void heddle_session_close(struct heddle_session *s, enum heddle_native_reason why) {
  if (s == &session && why == HEDDLE_NATIVE_TOOL) rest_closed++;
}
void heddle_session_forked(void) { rest_forked++; }

// No lane was ever made: marks have nobody to tell.
struct heddle_shared *heddle_shared_of(struct heddle_session *s) { return (void)s, NULL; }
bool heddle_record_write(struct heddle_session *s, uint16_t kind, uint32_t lane, uint32_t seq, const void *body, uint32_t bytes) {
  return (void)s, (void)kind, (void)lane, (void)seq, (void)body, (void)bytes, false;
}
bool heddle_record_later(struct heddle_session *s, uint16_t kind, const void *body, uint32_t bytes) {
  return (void)s, (void)kind, (void)body, (void)bytes, false;
}

struct heddle_lane *heddle_capture_enter(CUstream stream) { return (void)stream, NULL; }
void heddle_capture_entered(struct heddle_lane *lane) { (void)lane; }

CUresult heddle_order_begin(struct heddle_order *o, CUstream stream, enum heddle_native_kind kind, enum heddle_native_reason why) {
  (void)kind, (void)why;
  o->session = NULL;
  o->lane = NULL;
  o->stream = stream;
  return stream ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE; // a wrapper never hands on a stream of 0
}
CUresult heddle_order_end(struct heddle_order *o, CUresult r) { return (void)o, (CUresult)(r + 300000); }
