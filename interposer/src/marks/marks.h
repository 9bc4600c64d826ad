// Where a program says that a request begins and ends: the functions of include/heddle.h (marks.c) and NVTX ranges (nvtx.c).
// Source: docs/requests.md, docs/protocol.md section 2 "Records".
#ifndef HEDDLE_MARKS_H
#define HEDDLE_MARKS_H

#include <stdbool.h>
#include <stdint.h>

// Tells the executor of every session of this process that a request begins; label may be NULL. The request's name for
// heddle_mark_end, in any thread; 0 when nobody was told.
uint64_t heddle_mark_begin(const char *label);
// Tells those executors that it ends. 0 does nothing.
void heddle_mark_end(uint64_t mark);

// What heddle.h calls, by name. Nested pairs of a thread are one; an end without a begin does nothing.
void heddle_request_begin(const char *label);
void heddle_request_end(void);

// What NVTX calls when NVTX_INJECTION64_PATH names this library: 1 to receive ranges, 0 for none of them.
int InitializeInjectionNvtx2(const void *(*get_export_table)(uint32_t id));

// HEDDLE_NVTX: the text matches the pattern, where * stands for any run of bytes.
bool heddle_nvtx_match(const char *pattern, const char *text);

#endif
