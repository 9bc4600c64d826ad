// The exported dlsym (dlsym.c), and what it needs of resolve.c.
#ifndef HEDDLE_DLSYM_H
#define HEDDLE_DLSYM_H

#include "hooks.h"

typedef void *(*heddle_dlsym_function)(void *handle, const char *name);

// The dlsym behind ours in the search order: libc's, or another preload's. NULL only if there is none.
// A caller's own address matters to it (RTLD_NEXT, RTLD_DEFAULT): from here it sees libheddle.so.
heddle_dlsym_function heddle_dlsym_real(void);

// True while this thread is inside heddle_hooks_start: lookups then belong to the driver's own initialisation.
bool heddle_hooks_starting(void);
// True for an address inside libcuda.so.1. Works before heddle_hooks_start too: the driver's constructor looks itself up.
bool heddle_hooks_in_driver(const void *address);
// The driver's pointer of an entry; NULL when it lacks it. Only after heddle_hooks_start.
void *heddle_hooks_real(const struct heddle_entry *e);
#endif
