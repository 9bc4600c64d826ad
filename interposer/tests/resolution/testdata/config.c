// Units of config.c and log.c. argv[1]: units | log.
#include "check.h"
#include <errno.h>

#include "config.h"
#include "log.h"

static struct heddle_config c;
static char error[256];
#define GOOD(name, value) CHECK(heddle_config_set(&c, name, value, error, sizeof error) == 0)
#define BAD(name, value, part)                                                   \
  do {                                                                           \
    struct heddle_config before = c;                                             \
    CHECK(heddle_config_set(&c, name, value, error, sizeof error) == -1);        \
    if (!strstr(error, part)) printf("%s\n", error);                             \
    CHECK(strstr(error, part) && memcmp(&before, &c, sizeof c) == 0);            \
  } while (0)

static void units(void) {
  heddle_config_defaults(&c);
  CHECK(c.connect_ms == 2000 && c.reattach_ms == 2000 && c.spin_us == -1 && c.log_level == HEDDLE_LOG_WARN && !c.disable && !c.stats);
  GOOD("HEDDLE_DISABLE", "1");
  CHECK(c.disable);
  GOOD("HEDDLE_DISABLE", "");
  CHECK(!c.disable);
  BAD("HEDDLE_DISABLE", "yes", "0 or 1 expected");
  GOOD("HEDDLE_SPIN_US", "-1");
  GOOD("HEDDLE_SPIN_US", "1000000");
  CHECK(c.spin_us == 1000000);
  BAD("HEDDLE_SPIN_US", "1000001", "from -1 to 1000000");
  BAD("HEDDLE_SPIN_US", "99999999999999999999", "from -1 to 1000000");
  BAD("HEDDLE_SPIN_US", "", "a number");
  BAD("HEDDLE_SPIN_US", "5us", "a number");
  BAD("HEDDLE_CONNECT_MS", "0", "from 1");
  GOOD("HEDDLE_LABEL", "resnet-50");
  CHECK(strcmp(c.label, "resnet-50") == 0);
  char text[200];
  memset(text, 'x', sizeof text);
  text[63] = 0;
  GOOD("HEDDLE_LABEL", text);
  text[63] = 'x';
  text[64] = 0;
  BAD("HEDDLE_LABEL", text, "at most 63");
  text[64] = 'x';
  text[108] = 0;
  BAD("HEDDLE_SOCKET", text, "at most 107");
  GOOD("HEDDLE_LOG", "stderr:debug");
  CHECK(c.log_level == HEDDLE_LOG_DEBUG && !c.log_path[0]);
  GOOD("HEDDLE_LOG", "stats,/tmp/a:b:error");
  CHECK(c.stats && strcmp(c.log_path, "/tmp/a:b") == 0 && c.log_level == HEDDLE_LOG_ERROR);
  BAD("HEDDLE_LOG", "relative", "/a/path");
  BAD("HEDDLE_LOG", "stderr:loud", ":warning");
  BAD("HEDDLE_LOG", "stats,", "/a/path");
  BAD("HEDDLE_LOG", "", "/a/path");
  static char path[6000];
  memset(path, '/', sizeof path - 1);
  BAD("HEDDLE_LOG", path, "/a/path");
  BAD("HEDDLE_COLOUR", "1", "not a variable");
}

static void lines(void) {
  errno = 77;
  for (int i = 1; i <= 100; i++) heddle_log(HEDDLE_LOG_WARN, "again and again %d", i);
  heddle_log(HEDDLE_LOG_WARN, "another");
  static char text[5000];
  memset(text, 'x', sizeof text - 1);
  heddle_log(HEDDLE_LOG_WARN, "%s", text);
  heddle_log(HEDDLE_LOG_INFO, "information");
  heddle_log(HEDDLE_LOG_DEBUG, "detail");
  CHECK(errno == 77);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "log") == 0) lines();
  else units();
  puts("right");
  return 0;
}
