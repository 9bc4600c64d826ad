// Forks: children that use CUDA after their own init, children that never do,
// and a child of a process that already uses it.
#include "client.h"

#include <sys/wait.h>
#include <unistd.h>

static int child(unsigned id) {
  open_device();
  CUdeviceptr p;
  unsigned n = 5000, x = id;
  CK(cuMemAlloc(&p, n * 4));
  CUfunction fill = function("fill"), step = function("step");
  LAUNCH(fill, 20, 256, 0, 0, &p, &n, &x);
  for (unsigned k = 0; k < 20; k++) LAUNCH(step, 20, 256, 0, 0, &p, &n, &k);
  digest_device(p, n * 4);
  return (int)(digest_state & 63);
}

static int reap(pid_t pid) {
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
  return WEXITSTATUS(status);
}

int main(void) {
  for (unsigned i = 0; i < 3; i++) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) _exit(child(i));
    int code = reap(pid);
    digest(&code, sizeof code);
  }
  open_device();
  CUdeviceptr p;
  unsigned n = 100, x = 9;
  CK(cuMemAlloc(&p, n * 4));
  CUfunction fill = function("fill");
  LAUNCH(fill, 1, 256, 0, 0, &p, &n, &x);
  pid_t pid = fork(); // CUDA cannot be used in this child, and it does not
  if (pid == 0) _exit(5);
  CHECK(reap(pid) == 5);
  LAUNCH(fill, 1, 256, 0, 0, &p, &n, &x);
  digest_device(p, n * 4);
  pid = fork();
  if (pid == 0) { execl("/bin/sh", "sh", "-c", "exit 6", (char *)NULL); _exit(1); }
  CHECK(reap(pid) == 6);
  return finish("forks");
}
