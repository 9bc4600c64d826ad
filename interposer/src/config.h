// The environment variables that libheddle.so reads, once, when the process first uses the driver. One table: config.c.
#ifndef HEDDLE_CONFIG_H
#define HEDDLE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

struct heddle_config {
  bool disable;        // HEDDLE_DISABLE=1: every hook off
  bool require;        // HEDDLE_REQUIRE=1: end the process (exit code 3) rather than run it natively
  bool force;          // HEDDLE_FORCE=1: forward even under an injection library, CUPTI or a debugger
  bool stats;          // HEDDLE_LOG=stats: counters of native work by reason at exit
  int harvest;         // HEDDLE_HARVEST=0: write no PTX of compilations into the store (harvest/)
  int log_level;       // enum heddle_log_level
  char log_path[4096]; // empty: standard error
  char label[64];      // HEDDLE_LABEL: for policy and `heddle ps`
  char nvtx[128];      // HEDDLE_NVTX: which NVTX ranges mark requests (docs/requests.md); empty: none
  char socket[108];    // HEDDLE_SOCKET: path of the daemon's socket; empty: the default path of the session
  int connect_ms;      // HEDDLE_CONNECT_MS: at most this long for the hello
  int reattach_ms;     // HEDDLE_REATTACH_MS: how long to wait for the next executor
  int spin_us;         // HEDDLE_SPIN_US: spin before sleeping while waiting for the GPU; -1: as the context's flags and the last waits say
};

// The configuration, read at the first call. Never NULL. Lock-free; callable from any thread at any time.
const struct heddle_config *heddle_config(void);
// HEDDLE_DISABLE alone, at once: what the library's constructor needs.
bool heddle_config_disabled(void);
// In a forked child: forget a reading that another thread had begun.
void heddle_config_forked(void);
// Reads `value` of variable `name` into *c, as heddle_config does with the environment. Returns 0, or -1 with a sentence that
// says what was expected. For tests.
int heddle_config_set(struct heddle_config *c, const char *name, const char *value, char *error, size_t error_bytes);
// The defaults.
void heddle_config_defaults(struct heddle_config *c);
#endif
