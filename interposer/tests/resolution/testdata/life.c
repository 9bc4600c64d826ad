// fork before and after cuInit, exec, captures, tools. Linked with the driver. argv[1] names the part.
#define _GNU_SOURCE
#include "check.h"
#include <cuda.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static int (*state)(void), (*captures)(void);
static int *forks, *closed;

enum { UNUSED, OFF, ON };

static int in_child(int want_state, int want_forks) {
  pid_t child = fork();
  if (child == 0) {
    CUdeviceptr p;
    int answer = (int)cuMemAlloc(&p, 1); // hook's or driver's
    int right = state() == want_state && *forks == want_forks && (answer >= 200000) == (want_state == ON);
    if (!right) printf("child: state %d forks %d answer %d\n", state(), *forks, answer), fflush(stdout);
    _exit(right ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void forks_part(void) {
  CHECK(state() == UNUSED);
  CHECK(in_child(ON, 0)); // nobody used CUDA: the child may
  CHECK(state() == UNUSED);
  int version;
  CHECK(cuDriverGetVersion(&version) >= 100000);
  CUdeviceptr p;
  CHECK(cuMemAlloc(&p, 1) >= 200000 && state() == ON);
  CHECK(in_child(ON, 0)); // loaded, not initialised
  CHECK(cuInit(0) == CUDA_SUCCESS);
  CHECK(in_child(OFF, 1));
  CHECK(state() == ON && *forks == 0 && cuMemAlloc(&p, 1) >= 200000);
}

static void captures_part(void) {
  CUstream s = (CUstream)0x1000;
  CUgraph g;
  CHECK(captures() == 0 && cuInit(0) == CUDA_SUCCESS);
  CHECK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED) == CUDA_SUCCESS && captures() == 1);
  CHECK(cuStreamBeginCapture((CUstream)0x2000, CU_STREAM_CAPTURE_MODE_RELAXED) == CUDA_ERROR_ILLEGAL_STATE && captures() == 1);
  CHECK(cuStreamEndCapture((CUstream)0x2000, &g) == CUDA_ERROR_ILLEGAL_STATE && captures() == 1);
  CHECK(cuStreamEndCapture(s, &g) == CUDA_SUCCESS && captures() == 0);
  CHECK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED) == CUDA_SUCCESS && captures() == 1);
  CHECK(cuStreamEndCapture(s, NULL) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED && captures() == 0); // ended, by error
  CHECK(cuStreamEndCapture(s, &g) == CUDA_ERROR_ILLEGAL_STATE && captures() == 0);
}

// A way to begin a capture that is newer than Heddle: from then on the driver is asked, whoever found it and how often.
static void newer_capture_part(int by_name) {
  CHECK(captures() == 0 && cuInit(0) == CUDA_SUCCESS);
  void *p = NULL, *driver = dlopen("libcuda.so.1", RTLD_NOW);
  for (int i = 0; i < 2; i++) {
    if (by_name) p = dlsym(driver, "cuStreamBeginRecapture");
    else CHECK(cuGetProcAddress("cuStreamBeginRecapture", &p, 99000, 0, NULL) == CUDA_SUCCESS);
    IN(p, "libcuda.so.1");
    CHECK(captures() == 1);
  }
}

// Many threads use CUDA first at once, by every route.
static pthread_barrier_t start;
static void *first_use(void *arg) {
  long n = (long)arg;
  pthread_barrier_wait(&start);
  CUdeviceptr p;
  void *driver = n % 2 ? dlopen("libcuda.so.1", RTLD_NOW) : NULL;
  CUresult (*alloc)(CUdeviceptr *, size_t) = n % 2 ? (CUresult(*)(CUdeviceptr *, size_t))dlsym(driver, "cuMemAlloc_v2") : cuMemAlloc;
  void *late = n % 4 == 3 ? dlopen("liblate.so", RTLD_NOW) : arg; // its constructor uses CUDA, inside the dynamic linker
  return (void *)(long)(late && alloc(&p, 1) >= 200000);
}
static void threads_part(void) {
  enum { N = 16 };
  pthread_t t[N];
  pthread_barrier_init(&start, NULL, N);
  for (long i = 0; i < N; i++) CHECK(pthread_create(&t[i], NULL, first_use, (void *)(i + 1)) == 0);
  for (int i = 0; i < N; i++) {
    void *right;
    pthread_join(t[i], &right);
    CHECK(right);
  }
  CHECK(state() == ON);
}

static void cupti_part(void) {
  void *cupti = dlopen("libcupti.so.13", RTLD_NOW | RTLD_LOCAL);
  void *user = dlopen("libcuptiuser.so", RTLD_NOW | RTLD_LOCAL);
  CHECK(cupti && user);
  int (*subscribe)(void) = (int (*)(void))dlsym(user, "use_cupti");
  CHECK(cuInit(0) == CUDA_SUCCESS && state() == ON && *closed == 0);
  int arguments = subscribe();
  CHECK(arguments == 123); // reached the real one, arguments in order
  CHECK(*closed == (getenv("HEDDLE_FORCE") ? 0 : 1));
  CHECK(subscribe() == 123 && *closed == (getenv("HEDDLE_FORCE") ? 0 : 1)); // told once
}

// The same by name, as XLA does.
static void cupti_by_name_part(void) {
  CHECK(!dlsym(RTLD_DEFAULT, "cuptiSubscribe") && dlerror());
  CHECK(!dlsym(RTLD_NEXT, "cuptiSubscribe") && dlerror());
  void *cupti = dlopen("libcupti.so.13", RTLD_NOW | RTLD_LOCAL);
  CHECK(cupti && cuInit(0) == CUDA_SUCCESS);
  CHECK(!dlsym(cupti, "cuptiActivityEnable") && dlerror()); // this CUPTI lacks it
  int (*subscribe)(long, long, long) = (int (*)(long, long, long))dlsym(cupti, "cuptiSubscribe");
  IN((void *)subscribe, "libheddle.so");
  IN(dlsym(cupti, "cuptiSubscribeNot"), "libcupti.so.13"); // exact names
  CHECK(*closed == 0); // looking it up is no subscription
  CHECK(subscribe(4, 5, 6) == 456 && *closed == 1);
}

int main(int argc, char **argv) {
  void *heddle = dlopen("libheddle.so", RTLD_NOLOAD | RTLD_LAZY);
  CHECK(heddle);
  state = (int (*)(void))dlsym(heddle, "rest_state");
  captures = (int (*)(void))dlsym(heddle, "rest_captures");
  forks = dlsym(heddle, "rest_forked");
  closed = dlsym(heddle, "rest_closed");
  CHECK(argc > 1 && state && captures && forks && closed);
  if (strcmp(argv[1], "fork") == 0) forks_part();
  else if (strcmp(argv[1], "captures") == 0) captures_part();
  else if (strcmp(argv[1], "newer-capture") == 0) newer_capture_part(0);
  else if (strcmp(argv[1], "newer-capture-by-name") == 0) newer_capture_part(1);
  else if (strcmp(argv[1], "threads") == 0) threads_part();
  else if (strcmp(argv[1], "cupti") == 0) cupti_part();
  else if (strcmp(argv[1], "cupti-by-name") == 0) cupti_by_name_part();
  else if (strcmp(argv[1], "init") == 0) printf("state %d\n", cuInit(0) == CUDA_SUCCESS ? state() : -1);
  else if (strcmp(argv[1], "exec") == 0) return execl(argv[0], argv[0], "init", (char *)NULL);
  else CHECK(0);
  puts("right");
  return 0;
}
