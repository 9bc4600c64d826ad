// Profilers and debuggers, which must see a program's own work. Source: design.md section 4 "Tools".
#ifndef HEDDLE_TOOLS_H
#define HEDDLE_TOOLS_H

#include <stdbool.h>

// True when this process must run natively because of a tool: a CUDA injection library, a CUPTI subscriber, a CUDA debugger.
// *which then names it (a constant string, or one that lives as long as the process). HEDDLE_FORCE=1: always false.
// Cold (reads /proc, walks the loaded libraries). Asked by cuInit and by session.c before it attaches.
bool heddle_tools_active(const char **which);
#endif
