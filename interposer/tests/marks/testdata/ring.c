// A session without a daemon in the test's libheddle.so: the product's marks write into its ring, and when the process ends what
// they wrote is printed, one line a record.
#include "../../order/testdata/fake.h"

#include <stdio.h>

// Exported, for the programs.
void test_launch(void);
void test_lose(void);

__attribute__((constructor)) static void begin(void) { fake_start(1 << 22); }

// One op, as a program's launch gives one.
__attribute__((visibility("default"))) void test_launch(void) {
  uint64_t a = 0, b = 0;
  int n = 0;
  void *params[] = {&a, &b, &n};
  CUresult r = heddle_hook_cuLaunchKernel((CUfunction)0xf1, 1, 1, 1, 32, 1, 1, 0, CU_STREAM_LEGACY, params, NULL);
  CHECK(r == CUDA_SUCCESS, "%d", (int)r);
}

// The session is over: the program goes on natively.
__attribute__((visibility("default"))) void test_lose(void) { atomic_store(&fake_session->live, 0); }

__attribute__((destructor)) static void print(void) {
  const struct heddle_ring *r = &fake_session->ring;
  uint64_t last = 0;
  for (uint64_t at = 0; at != r->tail;) {
    const struct heddle_wire_record *h = (const struct heddle_wire_record *)(r->data + (at & r->mask));
    const char *published = at < r->published ? "" : " (later)";
    CHECK(h->size >= 16, "record of %u bytes", h->size);
    if (h->kind == HEDDLE_WIRE_KIND_LAUNCH) printf("launch%s\n", published);
    if (h->kind == HEDDLE_WIRE_KIND_REQUEST_BEGIN) {
      const struct heddle_wire_request_begin *b = (const void *)(h + 1);
      printf("begin %llu %s%s\n", (unsigned long long)b->request, (const char *)b->label, published);
      CHECK(b->time >= last && h->size == sizeof *h + sizeof *b && b->label[sizeof b->label - 1] == 0, "time %llu after %llu", (unsigned long long)b->time, (unsigned long long)last);
      last = b->time;
    }
    if (h->kind == HEDDLE_WIRE_KIND_REQUEST_END) {
      const struct heddle_wire_request_end *e = (const void *)(h + 1);
      printf("end %llu%s\n", (unsigned long long)e->request, published);
      CHECK(e->time >= last && h->size == sizeof *h + sizeof *e, "time %llu after %llu", (unsigned long long)e->time, (unsigned long long)last);
      last = e->time;
    }
    at += h->size;
  }
}
