// Harvest: when a compiler makes machine code in this process (or this process is a compiler), its PTX is written into the store,
// where jit/harvest finds it by the hash of the machine code. Contract and file format: docs/harvest.md.
//
// Nothing here changes what the program gets: every call goes to the real function with the caller's arguments, its result is
// returned, and errors of ours stay ours. Everything is on cold paths, beside a compilation.
#ifndef HEDDLE_HARVEST_H
#define HEDDLE_HARVEST_H

#include <stdbool.h>
#include <stddef.h>

// The longest text that is kept, in bytes (jit/ptx takes no more).
#define HEDDLE_HARVEST_MAX_TEXT ((size_t)32 << 20)

// False with HEDDLE_DISABLE=1 or HEDDLE_HARVEST=0.
bool heddle_harvest_on(void);

// How machine code was made.
struct heddle_harvest_made {
  const char *from; // "ptxas", "nvrtc", ...
  bool fmad;        // multiplications and additions may be contracted
  bool odd;         // by options that we do not understand, or that change what is computed: not stored
};

// One option of ptxas, such as "--fmad=false" or "-c": takes up what it says. *value is set when the option's value is the next
// argument; the caller then gives both as NAME=VALUE.
void heddle_harvest_option(struct heddle_harvest_made *made, const char *option, bool *value);

// ---- ptxas.c ----
// When the library is loaded: if this program is an assembler of PTX, arranges to store its text when it ends.
void heddle_harvest_started(int argc, char **argv);

// ---- store.c ----
// Writes text (up to its first zero) under the hash of the cubin that begins at `cubin`, of which at most `cubin_bytes` may be
// read. Does nothing when that is no whole cubin, or `made` is odd. Keeps errno.
void heddle_harvest_put(const void *cubin, size_t cubin_bytes, const void *text, size_t text_bytes, const struct heddle_harvest_made *made);
// The content of a regular file of at most `most` bytes; the caller frees it. NULL: there is none.
void *heddle_harvest_read(const char *path, size_t most, size_t *bytes);

// ---- link.c: what goes into one piece of machine code ----
// A linker's state or a compiler's program, by its handle: begins anew. What was known of a handle of the same value is forgotten.
void heddle_harvest_begin(const void *handle, const struct heddle_harvest_made *made);
// An input. text is NULL for whatever is not PTX.
void heddle_harvest_input(const void *handle, const void *text, size_t bytes);
void heddle_harvest_input_file(const void *handle, bool ptx, const char *path);
// Further options made it odd.
void heddle_harvest_odd(const void *handle);
// The result: stored when one text was all that went in. The handle is forgotten.
void heddle_harvest_end(const void *handle, const void *cubin, size_t bytes);

// In a forked child: forgets what was going on in the parent.
void heddle_harvest_forked(void);

// ---- compilers.c: NVRTC and nvJitLink, found through dlsym ----
// True for the name of a function that is watched.
bool heddle_harvest_watches(const char *name);
// The function to give out for `name` instead of `found`; `found` itself when it is not one of ours to watch.
void *heddle_harvest_substitute(const char *name, void *found);
// Our exported function of that name (nvrtcCompileProgram, nvrtcGetCUBIN); NULL: we export none.
void *heddle_harvest_exported(const char *name);
// The one that a caller linked to NVRTC means: of its own file (NVRTC is also a static library) or of a library that this needs,
// else of the libnvrtc that is loaded. NULL: none is loaded.
void *heddle_harvest_linked(const char *name, const void *caller);
#endif
