// The PTX assembler as a program: Triton, JAX and nvcc run it as a child, which inherits LD_PRELOAD. Every other program pays one
// comparison of its name.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "harvest.h"

static char *input, *output; // copies: the program may rearrange its arguments
static struct heddle_harvest_made made = {"ptxas", true, false};
enum { MAX_CUBIN = 1 << 30 };

// When the assembler has ended, its output is complete and its input still there: whoever started it waits for it.
static void ended(int status, void *unused) {
  (void)unused;
  if (status) return;
  size_t text_bytes = 0, cubin_bytes = 0;
  void *text = heddle_harvest_read(input, HEDDLE_HARVEST_MAX_TEXT, &text_bytes);
  void *cubin = text ? heddle_harvest_read(output, MAX_CUBIN, &cubin_bytes) : NULL;
  if (cubin) heddle_harvest_put(cubin, cubin_bytes, text, text_bytes, &made);
  free(cubin);
  free(text);
}

static bool named(const char *option, const char *shortly, const char *longly, const char **value) {
  while (*option == '-') option++;
  size_t n = strcspn(option, "=");
  if (!(strlen(shortly) == n && strncmp(option, shortly, n) == 0) && !(strlen(longly) == n && strncmp(option, longly, n) == 0)) return false;
  *value = option[n] ? option + n + 1 : NULL;
  return true;
}

void heddle_harvest_started(int argc, char **argv) {
  if (strncmp(program_invocation_short_name, "ptxas", 5) != 0) return;
  if (argc < 2 || !heddle_harvest_on()) return;
  const char *in = NULL, *out = NULL;
  for (int i = 1; i < argc; i++) {
    const char *a = argv[i], *v;
    if (a[0] != '-' || !a[1]) {
      if (in) return; // several inputs are linked into one output
      in = a;
      continue;
    }
    bool next;
    heddle_harvest_option(&made, a, &next);
    if (named(a, "o", "output-file", &v)) out = v ? v : i + 1 < argc ? argv[i + 1] : NULL;
    if (next) {
      if (++i == argc) return;
      if (named(a, "fmad", "fmad", &v)) {
        char both[16] = "fmad=";
        if (strlen(argv[i]) > 8) return;
        memcpy(both + 5, argv[i], strlen(argv[i]) + 1);
        heddle_harvest_option(&made, both, &next);
      }
    }
  }
  if (made.odd || !in || !out || !(input = strdup(in)) || !(output = strdup(out))) return;
  on_exit(ended, NULL);
}
