#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "config.h"

enum { LINE = 512, FORMATS = 128 };

// How often each format was used, by its address: one counter a place in the source.
static struct {
  _Atomic(const char *) format;
  _Atomic uint32_t count;
} seen[FORMATS];

// The number of this use of `format`, from 1. A full table counts everything as new: better too many lines than none.
static uint32_t log_number(const char *format) {
  uint32_t at = (uint32_t)((uintptr_t)format * 2654435761u) % FORMATS;
  for (int i = 0; i < FORMATS; i++, at = (at + 1) % FORMATS) {
    const char *have = atomic_load_explicit(&seen[at].format, memory_order_relaxed);
    if (!have && !atomic_compare_exchange_strong(&seen[at].format, &have, format) && have != format) continue;
    if (have && have != format) continue;
    return atomic_fetch_add_explicit(&seen[at].count, 1, memory_order_relaxed) + 1;
  }
  return 1;
}

// A log file is opened for each line: a program that closes every descriptor and reuses the numbers must not find our text in
// its own file. Lines are rare.
static int log_open(const struct heddle_config *c) {
  if (!c->log_path[0]) return STDERR_FILENO;
  return open(c->log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
}

void heddle_log(enum heddle_log_level level, const char *format, ...) {
  static const char *const names[] = {"error", "warning", "info", "debug"};
  const struct heddle_config *c = heddle_config();
  if ((int)level > c->log_level) return;
  int saved = errno;
  uint32_t n = level <= HEDDLE_LOG_WARN ? log_number(format) : 1;
  if (n > 4 && (n & (n - 1)) != 0) {
    errno = saved;
    return;
  }
  char line[LINE];
  int used = snprintf(line, sizeof line, "heddle[%d]: %s: ", (int)getpid(), names[level]);
  va_list args;
  va_start(args, format);
  int more = vsnprintf(line + used, sizeof line - (size_t)used, format, args);
  va_end(args);
  used += more > 0 ? more : 0;
  if (n > 4 && used < LINE) used += snprintf(line + used, sizeof line - (size_t)used, " (%u times)", n);
  if (used > LINE - 1) {
    used = LINE - 1;
    memcpy(line + used - 3, "...", 3);
  }
  line[used++] = '\n';
  int fd = log_open(c);
  if (fd >= 0) {
    // A full pipe or disk loses the line: a log must not stop the program.
    ssize_t written = write(fd, line, (size_t)used);
    (void)written;
    if (fd != STDERR_FILENO) close(fd);
  }
  errno = saved;
}
