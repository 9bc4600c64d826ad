// What goes into machine code that is being made: by cuLink*, nvJitLink, or NVRTC. And what ptxas' options mean.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "harvest.h"

// A program that never fetches its result leaves its record behind; the oldest give way.
enum { MAX_RECORDS = 64 };

struct record {
  struct record *next;
  const void *handle;
  struct heddle_harvest_made made;
  unsigned inputs;
  size_t bytes;
  char *text;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct record *records; // newest first

// Another thread of the parent may hold the lock, and be anywhere in the list.
void heddle_harvest_forked(void) {
  static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  lock = fresh;
  records = NULL;
}

static struct record *take(const void *handle) { // with the lock held
  for (struct record **at = &records; *at; at = &(*at)->next) {
    struct record *r = *at;
    if (r->handle != handle) continue;
    *at = r->next;
    return r;
  }
  return NULL;
}

static void drop(struct record *r) {
  if (r) free(r->text);
  free(r);
}

void heddle_harvest_begin(const void *handle, const struct heddle_harvest_made *made) {
  if (!heddle_harvest_on()) return;
  struct record *r = calloc(1, sizeof *r), *last = NULL;
  pthread_mutex_lock(&lock);
  struct record *old = take(handle);
  if (r) {
    r->handle = handle;
    r->made = *made;
    r->next = records;
    records = r;
    unsigned n = 0;
    for (struct record **at = &records; *at; at = &(*at)->next)
      if (++n > MAX_RECORDS) {
        last = *at;
        *at = NULL;
        break;
      }
  }
  pthread_mutex_unlock(&lock);
  drop(old);
  drop(last);
}

static struct record *find(const void *handle) { // with the lock held
  struct record *r = records;
  while (r && r->handle != handle) r = r->next;
  return r;
}

void heddle_harvest_input(const void *handle, const void *text, size_t bytes) {
  // PTX is a text: where it ends early, the rest is padding.
  const void *end = text ? memchr(text, 0, bytes) : NULL;
  if (end) bytes = (size_t)((const char *)end - (const char *)text);
  pthread_mutex_lock(&lock);
  struct record *r = find(handle);
  if (r) {
    r->inputs++;
    if (r->inputs == 1 && text && bytes && bytes <= HEDDLE_HARVEST_MAX_TEXT && (r->text = malloc(bytes))) {
      memcpy(r->text, text, bytes);
      r->bytes = bytes;
    } else {
      r->made.odd = true;
    }
  }
  pthread_mutex_unlock(&lock);
}

void heddle_harvest_input_file(const void *handle, bool ptx, const char *path) {
  size_t bytes = 0;
  void *text = ptx && path && heddle_harvest_on() ? heddle_harvest_read(path, HEDDLE_HARVEST_MAX_TEXT, &bytes) : NULL;
  heddle_harvest_input(handle, text, bytes);
  free(text);
}

void heddle_harvest_odd(const void *handle) {
  pthread_mutex_lock(&lock);
  struct record *r = find(handle);
  if (r) r->made.odd = true;
  pthread_mutex_unlock(&lock);
}

void heddle_harvest_end(const void *handle, const void *cubin, size_t bytes) {
  pthread_mutex_lock(&lock);
  struct record *r = take(handle);
  pthread_mutex_unlock(&lock);
  if (r && r->inputs == 1 && r->text) heddle_harvest_put(cubin, bytes, r->text, r->bytes, &r->made);
  drop(r);
}

// Options of ptxas by their long and short names. Everything that is not here neither changes what is computed nor takes the next
// argument as its value (an option that does would make its value look like a second input, and nothing is stored).
enum { PLAIN, FMAD, ODD };
static const struct option { const char *name; unsigned char value, means; } options[] = {
    {"fmad", 1, FMAD},
    {"compile-only", 0, ODD}, {"c", 0, ODD}, {"options-file", 1, ODD}, {"optf", 1, ODD},
    {"input-as-string", 1, ODD}, {"ias", 1, ODD}, {"entry", 1, ODD}, {"e", 1, ODD},
    {"compile-as-tools-patch", 0, ODD}, {"astoolspatch", 0, ODD}, {"extensible-whole-program", 0, ODD}, {"ewp", 0, ODD},
    {"legacy-bar-warp-wide-behavior", 0, ODD}, {"optimize-float-atomics", 0, ODD}, {"opt-fp-atomics", 0, ODD}, {"sanitize", 1, ODD},
    {"position-independent-code", 1, ODD}, {"pic", 1, ODD}, {"preserve-relocs", 0, ODD},
    {"gpu-name", 1, PLAIN}, {"arch", 1, PLAIN}, {"output-file", 1, PLAIN}, {"o", 1, PLAIN}, {"opt-level", 1, PLAIN}, {"O", 1, PLAIN},
    {"Ofast-compile", 1, PLAIN}, {"Ofc", 1, PLAIN}, {"machine", 1, PLAIN}, {"m", 1, PLAIN}, {"maxrregcount", 1, PLAIN},
    {"device-function-maxrregcount", 1, PLAIN}, {"func-maxrregcount", 1, PLAIN}, {"allow-expensive-optimizations", 1, PLAIN},
    {"register-usage-level", 1, PLAIN}, {"regUsageLevel", 1, PLAIN}, {"split-compile", 1, PLAIN}, {"maxntid", 1, PLAIN},
    {"minnctapersm", 1, PLAIN}, {"def-load-cache", 1, PLAIN}, {"dlcm", 1, PLAIN}, {"def-store-cache", 1, PLAIN}, {"dscm", 1, PLAIN},
    {"force-load-cache", 1, PLAIN}, {"flcm", 1, PLAIN}, {"force-store-cache", 1, PLAIN}, {"fscm", 1, PLAIN},
    {"device-stack-protector", 1, PLAIN},
};

void heddle_harvest_option(struct heddle_harvest_made *made, const char *option, bool *value) {
  *value = false;
  while (*option == '-') option++;
  size_t n = strcspn(option, "=");
  for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
    const struct option *o = &options[i];
    if (strlen(o->name) != n || strncmp(o->name, option, n) != 0) continue;
    if (o->means == ODD) made->odd = true;
    if (o->value && !option[n]) {
      *value = true;
    } else if (o->means == FMAD) {
      if (strcmp(option + n, "=true") == 0) made->fmad = true;
      else if (strcmp(option + n, "=false") == 0) made->fmad = false;
      else made->odd = true;
    }
    return;
  }
}
