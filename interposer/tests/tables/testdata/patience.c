// How long a waiting thread spins before it yields, by what became of its core.
#include "patience.h"

#include "check.h"

enum { MOMENT = 20000 };
static uint64_t slice(void) { return 2800000 + random_u64() % 100000; }

// A thread that spins for so long, after so many yields.
static struct heddle_patience after(uint32_t ns, int yields, uint64_t away) {
  struct heddle_patience p = {ns, 0, 0};
  while (yields-- > 0) heddle_patience_learn(&p, away, true);
  return p;
}

// Two clients on a core, each interrupted at the end of its slice unless it yields within a wait of 12 us; a yield comes back soon if the
// other does the same. They meet.
static void two(struct heddle_patience a, struct heddle_patience b, int turns) {
  struct heddle_patience both[2] = {a, b};
  int met = 0;
  for (int turn = 0; met < 4; turn++) {
    CHECK(turn < turns);
    struct heddle_patience *runs = &both[turn % 2], *other = &both[1 - turn % 2];
    bool yields = runs->ns < 12000, back = other->ns < 12000;
    heddle_patience_learn(runs, yields && back ? MOMENT : slice(), yields);
    met = runs->ns == 0 && other->ns == 0 ? met + 1 : 0;
  }
}

// A thread that is alone on its core, after so many waits.
static struct heddle_patience waited(int waits, uint64_t took) {
  struct heddle_patience p = {PATIENCE_MOST, 0, 0};
  while (waits-- > 0) heddle_patience_waited(&p, took);
  return p;
}

// How long a thread spins before it sleeps.
static void stays(void) {
  enum { MS = 1000000 };
  struct heddle_patience p = waited(0, 0);
  CHECK(heddle_patience_stay(&p) == STAY_LEAST);
  p = waited(100, MS / 2); // nobody sleeps within these
  CHECK(heddle_patience_stay(&p) == STAY_LEAST);
  for (uint64_t ms = 1; ms <= 5; ms++) {
    p = waited(1 + (int)(random_u64() % 100), ms * MS);
    CHECK(heddle_patience_stay(&p) > 2 * ms * MS - 100 && heddle_patience_stay(&p) <= 2 * ms * MS);
  }
  p = waited(100, 6 * MS);
  CHECK(heddle_patience_stay(&p) == STAY_LEAST); // long waits sleep, and a wake-up is little beside them
  for (int i = 0; i < 40; i++) heddle_patience_waited(&p, 2 * MS);
  CHECK(heddle_patience_stay(&p) > 3 * MS && heddle_patience_stay(&p) < 5 * MS); // until they are shorter again
  struct heddle_patience shared = p, crowded = p;
  heddle_patience_learn(&shared, MOMENT, true); // others want the core
  CHECK(heddle_patience_stay(&shared) == STAY_LEAST);
  for (int i = 0; i < 10; i++) heddle_patience_learn(&crowded, slice(), true);
  CHECK(heddle_patience_stay(&crowded) == STAY_LEAST);
  for (int i = 0; i < 10; i++) heddle_patience_learn(&shared, PATIENCE_NOBODY - 1, true);
  CHECK(heddle_patience_stay(&shared) == heddle_patience_stay(&p));
}

int main(int argc, char **argv) {
  random_seed(argc, argv);
  stays();
  CHECK(after(PATIENCE_MOST, 1, MOMENT).ns == 0);                      // who shares its core with one that gives it back gives it away at once
  CHECK(after(0, 10, PATIENCE_NOBODY - 1).ns == PATIENCE_MOST);        // who is alone there soon spins as long as ever
  struct heddle_patience p = after(0, 10, slice()), fresh = after(PATIENCE_MOST, 0, 0);
  CHECK(p.ns == PATIENCE_MOST);                                        // and who loses it for a slice each time
  two(fresh, fresh, 20);
  two(p, p, 20000);
  two(p, fresh, 20000);
  heddle_patience_learn(&fresh, MOMENT, false);
  CHECK(fresh.ns == PATIENCE_MOST); // an interrupt
  // Beside a process that only computes, few slices are given away: of a thousand that it loses at their end, with waits of 12 us.
  int given = 0, lost = 0;
  for (p = fresh; lost < 1000;) {
    bool yields = p.ns < 12000;
    heddle_patience_learn(&p, slice(), yields);
    given += yields;
    lost += !yields;
  }
  CHECK(given < 120);
  // Anything: it stays within its bounds.
  for (int i = 0; i < 1000000; i++) {
    uint64_t r = random_u64();
    heddle_patience_learn(&p, random_u64() >> (r & 63), (r & 64) != 0);
    CHECK(p.ns <= PATIENCE_MOST && (p.ns == 0 || p.ns >= PATIENCE_STEP) && p.vain <= PATIENCE_VAIN);
    heddle_patience_waited(&p, random_u64() >> (r >> 7 & 63));
    CHECK(heddle_patience_stay(&p) >= STAY_LEAST && heddle_patience_stay(&p) <= STAY_MOST);
  }
  return 0;
}
