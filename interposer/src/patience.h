// How long a thread that waits spins before it lets others have its core between two looks, and before it sleeps.
//
// With more clients than cores somebody else wants the core: the executor, or a client whose answer has come. While one client spins
// for the rest of its time slice (2 to 4 ms), that one waits. Clients that all give their core away after a moment get it back after a
// moment; but who gives it to one that does not, loses it for a whole slice. So patience follows what the core's others do.
//
// Who sleeps must be woken, by the executor's poller, which takes 0.05 to 0.15 ms where cores are halted. Natively CU_CTX_SCHED_AUTO
// never sleeps while there are no more contexts than cores. So while nobody else wants its core a thread spins for twice what its
// longer waits took of late, as long as they took a few ms.
// Source: sched_yield(2); CUDA driver API, cuCtxCreate (CU_CTX_SCHED_AUTO); Linux gives a slice of 2.8 ms on 8 cores and more
// (base_slice_ns), and since 6.18 a yield forfeits it.
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

enum {
  STAY_LEAST = 1000000, // ns a thread spins before it sleeps; within shorter waits nobody does
  STAY_MOST = 10000000  // and at most
};

// Of one thread; begins with {PATIENCE_MOST, 0, 0}.
struct heddle_patience {
  uint32_t ns;   // how long it spins, 0 to PATIENCE_MOST
  uint32_t vain; // yields in a row that whoever had the core then did not return, at most PATIENCE_VAIN
  uint32_t wait; // mean of the last waits longer than STAY_LEAST, ns, each counted as 2 * STAY_MOST at most; 0: there was none
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

// heddle_patience_stay is how long the thread spins before it sleeps, ns, STAY_LEAST to STAY_MOST.
static inline uint64_t heddle_patience_stay(const struct heddle_patience *p) {
  bool alone = p->ns == PATIENCE_MOST && p->vain < PATIENCE_VAIN; // nobody else wants the core
  if (!alone || p->wait == 0 || p->wait > STAY_MOST / 2) return STAY_LEAST;
  return 2 * (uint64_t)p->wait;
}

// heddle_patience_waited takes how long a wait took, ns.
static inline void heddle_patience_waited(struct heddle_patience *p, uint64_t took) {
  if (took < STAY_LEAST) return;
  uint32_t t = took > 2 * STAY_MOST ? 2 * STAY_MOST : (uint32_t)took;
  p->wait = p->wait == 0 ? t : p->wait - p->wait / 8 + t / 8;
}

#endif
