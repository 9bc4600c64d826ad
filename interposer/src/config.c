#include "config.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

enum kind { FLAG, NUMBER, TEXT, LOG };

// Every variable. Numbers have bounds; a value outside them is an error and the default stays.
static const struct variable {
  const char *name;
  enum kind kind;
  size_t offset, bytes; // of the member
  int least, most, preset;
} variables[] = {
#define MEMBER(m) offsetof(struct heddle_config, m), sizeof(((struct heddle_config *)0)->m)
    {"HEDDLE_DISABLE", FLAG, MEMBER(disable), 0, 1, 0},
    {"HEDDLE_REQUIRE", FLAG, MEMBER(require), 0, 1, 0},
    {"HEDDLE_FORCE", FLAG, MEMBER(force), 0, 1, 0},
    {"HEDDLE_LOG", LOG, MEMBER(log_path), 0, 0, 0},
    {"HEDDLE_LABEL", TEXT, MEMBER(label), 0, 0, 0},
    {"HEDDLE_NVTX", TEXT, MEMBER(nvtx), 0, 0, 0},
    {"HEDDLE_SOCKET", TEXT, MEMBER(socket), 0, 0, 0},
    {"HEDDLE_CONNECT_MS", NUMBER, MEMBER(connect_ms), 1, 600000, 2000},
    {"HEDDLE_REATTACH_MS", NUMBER, MEMBER(reattach_ms), 0, 600000, 2000},
    {"HEDDLE_HARVEST", NUMBER, MEMBER(harvest), 0, 1, 1},
    {"HEDDLE_SPIN_US", NUMBER, MEMBER(spin_us), -1, 1000000, -1},
#undef MEMBER
};
enum { VARIABLES = sizeof variables / sizeof variables[0] };

void heddle_config_defaults(struct heddle_config *c) {
  memset(c, 0, sizeof *c);
  c->log_level = HEDDLE_LOG_WARN;
  for (int i = 0; i < VARIABLES; i++)
    if (variables[i].kind == NUMBER) memcpy((char *)c + variables[i].offset, &variables[i].preset, sizeof(int));
}

static int config_number(const char *value, const struct variable *v, int *out) {
  char *end;
  errno = 0;
  long n = strtol(value, &end, 10);
  if (errno || end == value || *end || n < v->least || n > v->most) return -1;
  *out = (int)n;
  return 0;
}

static int config_flag(const char *value, bool *out) {
  if (strcmp(value, "1") == 0) *out = true;
  else if (strcmp(value, "0") == 0 || !*value) *out = false;
  else return -1;
  return 0;
}

// HEDDLE_LOG = where[:level], or stats, or both with a comma between: "stderr:debug", "/tmp/heddle.log", "stats,stderr:info".
static int config_log_one(struct heddle_config *c, const char *text, size_t n) {
  static const char *const levels[] = {"error", "warning", "info", "debug"};
  if (n == 5 && memcmp(text, "stats", 5) == 0) {
    c->stats = true;
    return 0;
  }
  const char *colon = memrchr(text, ':', n);
  size_t where = colon ? (size_t)(colon - text) : n;
  if (colon) {
    size_t rest = n - where - 1;
    int level = -1;
    for (int i = 0; i < 4; i++)
      if (strlen(levels[i]) == rest && memcmp(levels[i], colon + 1, rest) == 0) level = i;
    if (level < 0) return -1;
    c->log_level = level;
  }
  if (where == 6 && memcmp(text, "stderr", 6) == 0) {
    c->log_path[0] = 0;
    return 0;
  }
  if (where == 0 || text[0] != '/' || where >= sizeof c->log_path) return -1;
  memcpy(c->log_path, text, where);
  c->log_path[where] = 0;
  return 0;
}

static int config_log(struct heddle_config *c, const char *value) {
  for (;;) {
    const char *comma = strchr(value, ',');
    size_t n = comma ? (size_t)(comma - value) : strlen(value);
    if (config_log_one(c, value, n)) return -1;
    if (!comma) return 0;
    value = comma + 1;
  }
}

int heddle_config_set(struct heddle_config *c, const char *name, const char *value, char *error, size_t error_bytes) {
  for (int i = 0; i < VARIABLES; i++) {
    const struct variable *v = &variables[i];
    if (strcmp(v->name, name) != 0) continue;
    char *member = (char *)c + v->offset;
    struct heddle_config before;
    switch (v->kind) {
    case FLAG:
      if (config_flag(value, (bool *)member) == 0) return 0;
      snprintf(error, error_bytes, "%s is \"%.40s\": 0 or 1 expected", name, value);
      return -1;
    case NUMBER:
      if (config_number(value, v, (int *)member) == 0) return 0;
      snprintf(error, error_bytes, "%s is \"%.40s\": a number from %d to %d expected; %d is used", name, value, v->least, v->most,
               *(int *)member);
      return -1;
    case TEXT:
      if (strlen(value) < v->bytes) {
        memcpy(member, value, strlen(value) + 1);
        return 0;
      }
      snprintf(error, error_bytes, "%s has %zu bytes: at most %zu expected; it is ignored", name, strlen(value), v->bytes - 1);
      return -1;
    case LOG:
      before = *c;
      if (config_log(c, value) == 0) return 0;
      *c = before;
      snprintf(error, error_bytes,
               "HEDDLE_LOG is \"%.80s\": stderr, /a/path, either with :error, :warning, :info or :debug behind it, or stats expected",
               value);
      return -1;
    }
  }
  snprintf(error, error_bytes, "%s is not a variable of Heddle", name);
  return -1;
}

// secure_getenv: in a set-user-id program nobody may point our log or our socket somewhere.
bool heddle_config_disabled(void) {
  const char *v = secure_getenv("HEDDLE_DISABLE");
  return v && strcmp(v, "1") == 0;
}

static struct heddle_config published;
static _Atomic int state; // 0 unread, 1 somebody reads, 2 ready

void heddle_config_forked(void) {
  int reading = 1;
  atomic_compare_exchange_strong(&state, &reading, 0);
}

const struct heddle_config *heddle_config(void) {
  static const struct heddle_config quiet = {.harvest = 0, .log_level = -1, .connect_ms = 2000, .reattach_ms = 2000, .spin_us = -1};
  if (atomic_load_explicit(&state, memory_order_acquire) == 2) return &published;
  int unread = 0;
  if (!atomic_compare_exchange_strong(&state, &unread, 1)) {
    // Another thread reads; that takes microseconds and waits for nobody.
    for (int i = 0; i < 1000000; i++)
      if (atomic_load_explicit(&state, memory_order_acquire) == 2) return &published;
    return &quiet;
  }
  int saved = errno; // a program may look at errno after a driver call
  heddle_config_defaults(&published);
  char errors[VARIABLES][160];
  int bad = 0;
  for (int i = 0; i < VARIABLES; i++) {
    const char *value = secure_getenv(variables[i].name);
    if (value && heddle_config_set(&published, variables[i].name, value, errors[bad], sizeof errors[bad])) bad++;
  }
  atomic_store_explicit(&state, 2, memory_order_release);
  errno = saved;
  for (int i = 0; i < bad; i++) heddle_log(HEDDLE_LOG_WARN, "%s", errors[i]);
  return &published;
}
