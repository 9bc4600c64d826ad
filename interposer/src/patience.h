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
  PATIENCE_MOST = 30000,   // ns; where nobody else wants the core a yield is a system call for nothing, some 0.4 us
  PATIENCE_STEP = 3000,    // the least patience above none
  PATIENCE_NOBODY = 2000,  // a yield that took less, ns, gave the core to nobody
  PATIENCE_SLICE = 100000, // whoever had the core for so long, ns, did not give it back
  PATIENCE_VAIN = 8,       // so many yields in a row to such: they are no clients that wait
  PATIENCE_AGAIN = 16      // then it is tried after one of so many interruptions, by chance: two that try in turn would never meet
};

// Of one thread; begins with {PATIENCE_MOST}.
struct heddle_patience {
  uint32_t ns;   // how long it spins, 0 to PATIENCE_MOST
  uint32_t vain; // yields in a row that whoever had the core then did not return, at most PATIENCE_VAIN
};

// heddle_patience_learn takes how long the thread did not run, ns, because it had yielded, or else because its core was taken from it.
static inline void heddle_patience_learn(struct heddle_patience *p, uint64_t away, bool yielded) {
  if (!yielded) { // others wait for the core: they may not take it from us first
    if (away < PATIENCE_SLICE) return;
    if (p->vain < PATIENCE_VAIN) p->ns = p->ns / 2 < PATIENCE_STEP ? 0 : p->ns / 2;
    else if (away % PATIENCE_AGAIN == 0) p->ns = 0;
    return;
  }
  if (away >= PATIENCE_NOBODY && away < PATIENCE_SLICE) {
    p->ns = p->vain = 0;
    return;
  }
  if (away >= PATIENCE_SLICE && p->vain < PATIENCE_VAIN) p->vain++;
  if (p->vain == PATIENCE_VAIN) p->ns = PATIENCE_MOST;
  else p->ns = p->ns < PATIENCE_STEP ? PATIENCE_STEP : p->ns > PATIENCE_MOST / 2 ? PATIENCE_MOST : 2 * p->ns;
}

#endif
