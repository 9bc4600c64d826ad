// Requests from NVTX ranges: this library is the one that NVTX calls (NVTX_INJECTION64_PATH) and asks only for the functions of
// ranges. Every copy of NVTX in the process (its code is in headers) calls InitializeInjectionNvtx2 once, when it is first used.
// Source: NVTX 3 headers, nvToolsExt.h (attributes, results) and nvtxDetail/nvtxTypes.h (function tables).
#include "marks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "../config.h"
#include "../log.h"

#define EXPORT __attribute__((visibility("default")))

// ---- what NVTX gives ----

enum { TABLE_CALLBACKS = 1, MODULE_CORE = 1, MODULE_CORE2 = 5 };
enum { START_EX = 4, START_A, START_W, END, PUSH_EX, PUSH_A, PUSH_W, POP };               // of MODULE_CORE
enum { DOMAIN_START_EX = 2, DOMAIN_END, DOMAIN_PUSH_EX, DOMAIN_POP, REGISTER_A = 10, REGISTER_W, CREATE_A, CREATE_W }; // of MODULE_CORE2
enum { NO_TRACKING = -2 };                                                                // NVTX_NO_PUSH_POP_TRACKING
enum { MESSAGE_ASCII = 1, MESSAGE_WIDE = 2, MESSAGE_REGISTERED = 3 };

typedef void (*function)(void);
struct callbacks {
  size_t struct_size;
  int (*module_functions)(int module, function ***table, unsigned int *size);
};

// nvtxEventAttributes_t, version 2 and later.
struct attributes {
  uint16_t version, size;
  uint32_t category;
  int32_t color_type;
  uint32_t color;
  int32_t payload_type, reserved;
  uint64_t payload;
  int32_t message_type;
  const void *message;
};

// ---- what is asked for: HEDDLE_NVTX=MESSAGE, MESSAGE@DOMAIN ----

#define NAME_BYTES 256 // of a message or a domain's name; what is longer is cut
struct name {
  struct name *next;
  char text[]; // ends with a 0
};
static struct {
  char message[128], domain[128];
} wanted;
static struct name *domains, *messages; // that match; never freed: programs keep their handles
static pthread_mutex_t names_lock = PTHREAD_MUTEX_INITIALIZER;
static struct name unwanted;            // what handles of everything else point to
static bool default_wanted;             // ranges without a domain
static pthread_key_t stacks_key;        // of each thread's stacks of ranges
static bool have_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

bool heddle_nvtx_match(const char *pattern, const char *text) {
  const char *star = NULL, *resume = NULL;
  while (*text != 0) {
    if (*pattern == '*') {
      star = pattern++;
      resume = text;
    } else if (*pattern == *text) {
      pattern++, text++;
    } else if (star != NULL) {
      pattern = star + 1;
      text = ++resume;
    } else {
      return false;
    }
  }
  while (*pattern == '*') pattern++;
  return *pattern == 0;
}

static void read_pattern(void) {
  const char *text = heddle_config()->nvtx, *at = strrchr(text, '@');
  size_t n = at == NULL ? strlen(text) : (size_t)(at - text);
  memcpy(wanted.message, text, n);
  if (at != NULL) memcpy(wanted.domain, at + 1, strlen(at + 1));
  default_wanted = heddle_nvtx_match(wanted.domain, "");
  have_key = pthread_key_create(&stacks_key, free) == 0;
}

// A copy of text that lives for ever, the same for the same text; &unwanted without memory.
static struct name *keep(struct name **list, const char *text) {
  pthread_mutex_lock(&names_lock);
  struct name *n = *list;
  while (n != NULL && strcmp(n->text, text) != 0) n = n->next;
  if (n == NULL && (n = malloc(sizeof *n + strlen(text) + 1)) != NULL) {
    strcpy(n->text, text);
    n->next = *list;
    *list = n;
  }
  pthread_mutex_unlock(&names_lock);
  return n != NULL ? n : &unwanted;
}

static void cut(char out[NAME_BYTES], const char *text) {
  size_t n = text == NULL ? 0 : strnlen(text, NAME_BYTES - 1);
  if (n != 0) memcpy(out, text, n);
  out[n] = 0;
}

// UTF-8 of a wide string: what no character has becomes '?'.
static void narrow(char out[NAME_BYTES], const wchar_t *text) {
  size_t n = 0;
  for (; text != NULL && *text != 0 && n + 4 < NAME_BYTES; text++) {
    uint32_t c = (uint32_t)*text;
    if (c < 0x80) {
      out[n++] = (char)c;
    } else if (c < 0x800) {
      out[n++] = (char)(0xc0 | c >> 6);
      out[n++] = (char)(0x80 | (c & 0x3f));
    } else if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
      out[n++] = '?';
    } else {
      if (c < 0x10000) {
        out[n++] = (char)(0xe0 | c >> 12);
      } else {
        out[n++] = (char)(0xf0 | c >> 18);
        out[n++] = (char)(0x80 | (c >> 12 & 0x3f));
      }
      out[n++] = (char)(0x80 | (c >> 6 & 0x3f));
      out[n++] = (char)(0x80 | (c & 0x3f));
    }
  }
  out[n] = 0;
}

// The label of a range that is wanted, in label[NAME_BYTES] when it has to be made; NULL for another range.
static const char *label_of(const struct attributes *a, char *label) {
  if (a == NULL || a->size < sizeof *a || a->message == NULL) return NULL;
  switch (a->message_type) {
  case MESSAGE_ASCII: return heddle_nvtx_match(wanted.message, a->message) ? a->message : NULL;
  case MESSAGE_REGISTERED: return a->message == &unwanted ? NULL : ((const struct name *)a->message)->text;
  case MESSAGE_WIDE: narrow(label, a->message); return heddle_nvtx_match(wanted.message, label) ? label : NULL;
  default: return NULL;
  }
}
static const char *label_of_text(const char *text) { return text != NULL && heddle_nvtx_match(wanted.message, text) ? text : NULL; }
static const char *label_of_wide(const wchar_t *text, char *label) {
  narrow(label, text);
  return heddle_nvtx_match(wanted.message, label) ? label : NULL;
}

static bool domain_wanted(const struct name *domain) { return domain == NULL ? default_wanted : domain != &unwanted; }

// ---- push and pop: each thread has a stack of ranges in each domain ----

#define STACKS 8u // domains that one thread pushes ranges of; those of further ones are not seen
struct stack {
  const struct name *domain;
  bool used;
  uint32_t depth;   // ranges pushed and not popped
  uint32_t request; // the depth of the one that is the request; 0: none
};

// The calling thread's stack in a domain; NULL: it has too many, or there is no memory. Not thread-local storage: a preloaded
// library must not use up what little the loader keeps of that.
static struct stack *stack_of(const struct name *domain) {
  if (!have_key) return NULL;
  struct stack *stacks = pthread_getspecific(stacks_key);
  if (stacks == NULL) {
    stacks = calloc(STACKS, sizeof *stacks);
    if (stacks == NULL || pthread_setspecific(stacks_key, stacks) != 0) {
      free(stacks);
      return NULL;
    }
  }
  for (uint32_t i = 0; i < STACKS; i++) {
    if (!stacks[i].used) {
      stacks[i].used = true;
      stacks[i].domain = domain;
    }
    if (stacks[i].domain == domain) return &stacks[i];
  }
  return NULL;
}

static int push(const struct name *domain, const char *label) {
  struct stack *s = stack_of(domain);
  if (s == NULL) return NO_TRACKING;
  s->depth++;
  if (s->request == 0 && label != NULL) {
    s->request = s->depth;
    heddle_request_begin(label);
  }
  return (int)(s->depth - 1);
}

static int pop(const struct name *domain) {
  struct stack *s = domain_wanted(domain) ? stack_of(domain) : NULL;
  if (s == NULL || s->depth == 0) return NO_TRACKING;
  if (s->request == s->depth) {
    s->request = 0;
    heddle_request_end();
  }
  return (int)--s->depth;
}

static int push_ex(const struct attributes *a) {
  char label[NAME_BYTES];
  return default_wanted ? push(NULL, label_of(a, label)) : NO_TRACKING;
}
static int push_a(const char *text) { return default_wanted ? push(NULL, label_of_text(text)) : NO_TRACKING; }
static int push_w(const wchar_t *text) {
  char label[NAME_BYTES];
  return default_wanted ? push(NULL, label_of_wide(text, label)) : NO_TRACKING;
}
static int pop_default(void) { return pop(NULL); }
static int domain_push_ex(const struct name *domain, const struct attributes *a) {
  char label[NAME_BYTES];
  return domain_wanted(domain) ? push(domain, label_of(a, label)) : NO_TRACKING;
}

// ---- start and end: of the process, a range may end in another thread ----

static uint64_t start(const char *label) { return label == NULL ? 0 : heddle_mark_begin(label); }
static uint64_t start_ex(const struct attributes *a) {
  char label[NAME_BYTES];
  return default_wanted ? start(label_of(a, label)) : 0;
}
static uint64_t start_a(const char *text) { return default_wanted ? start(label_of_text(text)) : 0; }
static uint64_t start_w(const wchar_t *text) {
  char label[NAME_BYTES];
  return default_wanted ? start(label_of_wide(text, label)) : 0;
}
static void end(uint64_t range) { heddle_mark_end(range); }
static uint64_t domain_start_ex(const struct name *domain, const struct attributes *a) {
  char label[NAME_BYTES];
  return domain_wanted(domain) ? start(label_of(a, label)) : 0;
}
static void domain_end(const struct name *domain, uint64_t range) {
  (void)domain;
  heddle_mark_end(range);
}

// ---- domains and registered strings: matched once ----

static const struct name *create(const char *text) { return heddle_nvtx_match(wanted.domain, text) ? keep(&domains, text) : &unwanted; }
static const struct name *create_a(const char *text) {
  char name[NAME_BYTES];
  cut(name, text);
  return create(name);
}
static const struct name *create_w(const wchar_t *text) {
  char name[NAME_BYTES];
  narrow(name, text);
  return create(name);
}
static const struct name *add(const struct name *domain, const char *text) {
  return domain_wanted(domain) && heddle_nvtx_match(wanted.message, text) ? keep(&messages, text) : &unwanted;
}
static const struct name *register_a(const struct name *domain, const char *text) {
  char name[NAME_BYTES];
  cut(name, text);
  return add(domain, name);
}
static const struct name *register_w(const struct name *domain, const wchar_t *text) {
  char name[NAME_BYTES];
  narrow(name, text);
  return add(domain, name);
}

// ---- the injection ----

struct row { unsigned int id; function f; };

static bool subscribe(const struct callbacks *c, int module, const struct row *rows, size_t n) {
  function **table = NULL;
  unsigned int size = 0;
  if (!c->module_functions(module, &table, &size) || table == NULL) return false;
  for (size_t i = 0; i < n; i++)
    if (rows[i].id < size && table[rows[i].id] != NULL) *table[rows[i].id] = rows[i].f;
  return true;
}

EXPORT int InitializeInjectionNvtx2(const void *(*get_export_table)(uint32_t id)) {
  static const struct row core[] = {{START_EX, (function)start_ex}, {START_A, (function)start_a}, {START_W, (function)start_w},
                                    {END, (function)end},           {PUSH_EX, (function)push_ex}, {PUSH_A, (function)push_a},
                                    {PUSH_W, (function)push_w},     {POP, (function)pop_default}};
  static const struct row core2[] = {{DOMAIN_START_EX, (function)domain_start_ex}, {DOMAIN_END, (function)domain_end},
                                     {DOMAIN_PUSH_EX, (function)domain_push_ex},   {DOMAIN_POP, (function)pop},
                                     {REGISTER_A, (function)register_a},           {REGISTER_W, (function)register_w},
                                     {CREATE_A, (function)create_a},               {CREATE_W, (function)create_w}};
  if (heddle_config_disabled() || heddle_config()->nvtx[0] == 0) return 0; // NVTX then does nothing at all
  pthread_once(&once, read_pattern);
  const struct callbacks *c = get_export_table == NULL ? NULL : get_export_table(TABLE_CALLBACKS);
  bool ok = c != NULL && c->struct_size >= sizeof *c && c->module_functions != NULL &&
            subscribe(c, MODULE_CORE, core, sizeof core / sizeof core[0]) && subscribe(c, MODULE_CORE2, core2, sizeof core2 / sizeof core2[0]);
  if (!ok) heddle_log(HEDDLE_LOG_WARN, "HEDDLE_NVTX: this program's NVTX is not of version 3: its ranges mark no requests");
  return ok;
}
