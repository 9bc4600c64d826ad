// Turns: several ops of one thread in a lane with nobody else's between them. A graph that goes in steps is one thing to everybody
// else on its stream, and the legacy default stream and the blocking streams order each other, so they take turns together.
#include "lane.h"

static _Thread_local char self; // its address tells threads apart

void heddle_turn_take(struct heddle_lane *lane) {
  heddle_mutex_lock(&lane->turn->line);
  heddle_mutex_lock(lane->lock); // whose op is under way here is through
  atomic_store_explicit(&lane->turn->holder, &self, memory_order_relaxed);
  heddle_mutex_unlock(lane->lock);
}

void heddle_turn_give(struct heddle_lane *lane) {
  struct heddle_turn *turn = lane->turn;
  heddle_mutex_lock(lane->lock);
  atomic_store_explicit(&turn->holder, NULL, memory_order_relaxed);
  heddle_mutex_unlock(lane->lock);
  heddle_mutex_unlock(&turn->line);
}

void heddle_turn_wait(struct heddle_lane *lane) {
  struct heddle_turn *turn = lane->turn;
  const void *holder;
  while ((holder = atomic_load_explicit(&turn->holder, memory_order_relaxed)) != NULL && holder != &self) {
    heddle_mutex_unlock(lane->lock);
    heddle_mutex_lock(&turn->line);
    heddle_mutex_unlock(&turn->line);
    heddle_mutex_lock(lane->lock);
  }
}
