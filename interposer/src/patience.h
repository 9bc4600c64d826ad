// How long a thread that waits spins before it lets others have its core between two looks.
//
// With more clients than cores somebody else wants the core: the executor, or a client whose answer has come. While one client spins
// for the rest of its time slice (2 to 4 ms), that one waits. Clients that all give their core away after a moment get it back after a
// moment; but who gives it to one that does not, loses it for a whole slice. So patience follows what the core's others do.
// Source: sched_yield(2); Linux gives a slice of 2.8 ms on 8 cores and more (base_slice_ns), and since 6.18 a yield forfeits it.
#ifndef HEDDLE_PATIENCE_H
#define HEDDLE_PATIENCE_H

#include <stdbool.h>
#include <stdint.h>

enum {
  PATIENCE_MOST = 30000, // ns; where nobody else wants the core a yield is a system call for nothing, some 0.4 us
  PATIENCE_STEP = 3000,  // the least patience above none
  PATIENCE_NOBODY = 2000, // a yield that took less, ns, gave the core to nobody
  PATIENCE_SLICE = 100000 // whoever had the core for so long, ns, did not give it back
};

// heddle_patience is what a thread's patience becomes, ns, 0 to PATIENCE_MOST: away is how long it did not run, ns, because it had yielded,
// or else because its core was taken from it.
static inline uint32_t heddle_patience(uint32_t patience, uint64_t away, bool yielded) {
  if (!yielded) { // others wait for the core: they may not take it from us first
    if (away < PATIENCE_SLICE) return patience;
    patience /= 2;
    return patience < PATIENCE_STEP ? 0 : patience;
  }
  if (away >= PATIENCE_NOBODY && away < PATIENCE_SLICE) return 0;
  if (patience < PATIENCE_STEP) return PATIENCE_STEP;
  return patience > PATIENCE_MOST / 2 ? PATIENCE_MOST : 2 * patience;
}

#endif
