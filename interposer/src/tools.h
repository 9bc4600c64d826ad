// Profilers and debuggers, which must see a program's own work. Source: design.md section 4 "Tools".
#ifndef HEDDLE_TOOLS_H
#define HEDDLE_TOOLS_H

#include <stdbool.h>

// True when this process must run natively because of a tool: a CUDA injection library, a CUPTI subscriber, a CUDA debugger.
// *which then names it (a constant string, or one that lives as long as the process). HEDDLE_FORCE=1: always false.
// Cold (reads /proc, walks the loaded libraries). Asked by cuInit and by session.c before it attaches.
bool heddle_tools_active(const char **which);

// Our stand-in for a function of CUPTI that starts a subscription (exact name); NULL: not one of them.
void *heddle_tools_cupti_ours(const char *name);
// CUPTI's own function of that name, where CUPTI is loaded; else NULL.
void *heddle_tools_cupti_real(const char *name);
// What a lookup in CUPTI that found `found` answers: our stand-in, which then goes on to `found`.
void *heddle_tools_cupti_substitute(const char *name, void *found);
#endif
