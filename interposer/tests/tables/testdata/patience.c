// How long a waiting thread spins before it yields, by what became of its core.
#include "patience.h"

#include "check.h"

// What a client does on a core with another that yields back, after so many yields.
static uint32_t after(uint32_t patience, int yields, uint64_t away) {
  while (yields-- > 0) patience = heddle_patience(patience, away, true);
  return patience;
}

int main(int argc, char **argv) {
  const uint64_t moment = 20000, slice = 2800000;
  CHECK(after(PATIENCE_MOST, 1, moment) == 0);             // who shares its core with one that gives it back gives it away at once
  CHECK(after(0, 10, PATIENCE_NOBODY - 1) == PATIENCE_MOST); // who is alone there soon spins as long as ever
  CHECK(after(0, 10, slice) == PATIENCE_MOST);             // and who loses it for a slice each time
  CHECK(heddle_patience(PATIENCE_MOST, moment, false) == PATIENCE_MOST); // an interrupt
  uint32_t patience = PATIENCE_MOST;
  for (int slices = 0; patience != 0; slices++) { // nobody yields: whoever is interrupted at the end of its slice begins to
    CHECK(slices < 8);
    uint32_t less = heddle_patience(patience, slice, false);
    CHECK(less < patience);
    patience = less;
  }
  // Two on a core, of which neither gave it back so far, find each other within some slices: each yields within a wait of 12 us as soon as
  // its patience is less, and is then met by the other that does the same.
  uint32_t both[2] = {PATIENCE_MOST, PATIENCE_MOST};
  int met = 0;
  for (int turn = 0; turn < 20 && met < 4; turn++) {
    uint32_t *runs = &both[turn % 2], *other = &both[1 - turn % 2];
    bool yields = *runs < 12000, back = *other < 12000;
    *runs = heddle_patience(*runs, yields && back ? 15000 : slice, yields);
    met = *runs == 0 && *other == 0 ? met + 1 : 0;
  }
  CHECK(met == 4);
  // Anything: it stays within its bounds.
  random_seed(argc, argv);
  for (int i = 0; i < 1000000; i++) {
    uint64_t r = random_u64();
    patience = heddle_patience(patience, random_u64() >> (r & 63), (r & 64) != 0);
    CHECK(patience <= PATIENCE_MOST && (patience == 0 || patience >= PATIENCE_STEP));
  }
  return 0;
}
