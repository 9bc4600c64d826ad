// A program that marks its requests with heddle.h; it must run without Heddle too.
#include "heddle.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void call(const char *name) {
  union { void *found; void (*call)(void); } f = {dlsym((void *)0, name)};
  if (f.found != NULL) f.call();
}
static void launch(void) { call("test_launch"); }

static void *in_thread(void *arg) {
  (void)arg;
  heddle_request_end(); // the begin was another thread's
  heddle_request_begin("thread");
  heddle_request_end();
  return NULL;
}

static long best_ns(void (*f)(void)) {
  long best = 1000000000;
  for (int batch = 0; batch < 50; batch++) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < 100; i++) f();
    clock_gettime(CLOCK_MONOTONIC, &b);
    long ns = ((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec) / 100;
    if (ns < best) best = ns;
  }
  return best;
}
static __attribute__((noinline)) void pair(void) {
  heddle_request_begin("pair");
  heddle_request_end();
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  if (strcmp(what, "nesting") == 0) {
    heddle_request_end(); // without a begin
    launch();
    heddle_request_begin("chat");
    launch();
    heddle_request_begin("inner");
    launch();
    heddle_request_end();
    heddle_request_end();
    heddle_request_end();
    heddle_request_begin(NULL);
    heddle_request_end();
    heddle_request_begin("last");
  } else if (strcmp(what, "labels") == 0) {
    launch();
    const char *labels[] = {"", "abcdefghijabcdefghijabcdefghij1", "abcdefghijabcdefghijabcdefghij12", "abcdefghijabcdefghijabcdefghij\xc3\xa9zzz",
                            "abcdefghijabcdefghijabcdefgh\xe2\x82\xac\xe2\x82\xac"};
    for (size_t i = 0; i < sizeof labels / sizeof labels[0]; i++) {
      heddle_request_begin(labels[i]);
      heddle_request_end();
    }
  } else if (strcmp(what, "threads") == 0) {
    pthread_t t;
    launch();
    heddle_request_begin("main");
    pthread_create(&t, NULL, in_thread, NULL);
    pthread_join(t, NULL);
    heddle_request_end();
  } else if (strcmp(what, "early") == 0) { // nothing was submitted yet: there is no session to tell
    heddle_request_begin("early");
    launch();
    heddle_request_end();
    heddle_request_begin("next");
    launch();
    heddle_request_end();
  } else if (strcmp(what, "lost") == 0) {
    launch();
    heddle_request_begin("lost");
    call("test_lose");
    heddle_request_end();
    pair();
  } else if (strcmp(what, "time") == 0) {
    launch();
    printf("%ld\n", best_ns(pair));
  } else if (strcmp(what, "cost") == 0) {
    launch();
    for (int i = 0; i < 10000; i++) pair();
  } else {
    fprintf(stderr, "marks: no case %s\n", what);
    return 2;
  }
  return 0;
}
