// The store: a folder of files HASH.ptx (docs/harvest.md). Written by every process of the user at any time, so each file is
// complete before it gets its name, and names say what is in them.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../code/fatbin.h"
#include "../config.h"
#include "../log.h"
#include "harvest.h"
#include "heddle_hash.h"

// Bounds of the folder. They are looked after by one write in PRUNE_EVERY, which keeps the others cheap.
enum { MAX_FILES = 4096, MAX_LISTED = 65536, PRUNE_EVERY = 16 };
static const int64_t max_bytes = (int64_t)512 << 20;

enum { ELF_TYPE = 16, ELF_MACHINE = 18, EXECUTABLE = 2, CUDA = 190 };

bool heddle_harvest_on(void) {
  const struct heddle_config *c = heddle_config();
  return !c->disable && c->harvest;
}

// Opens a folder that is ours alone, making it if need be. -1: there is none, or others could have prepared it.
static int own_folder(int at, const char *name) {
  if (mkdirat(at, name, 0700) && errno != EEXIST) return -1;
  int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct stat st;
  if (fd >= 0 && (fstat(fd, &st) || st.st_uid != geteuid() || (st.st_mode & 022))) {
    close(fd);
    fd = -1;
  }
  return fd;
}

// The store's folder, open; -1: none. secure_getenv: nobody tells a set-user-id program where to write.
static int folder(void) {
  char path[4096];
  const char *own = secure_getenv("HEDDLE_CACHE_DIR"), *xdg = secure_getenv("XDG_CACHE_HOME"), *home = secure_getenv("HOME");
  int n;
  if (own && *own == '/') {
    n = snprintf(path, sizeof path, "%s", own);
  } else if (own && *own) {
    return -1; // relative: to which folder?
  } else if (xdg && *xdg == '/') {
    n = snprintf(path, sizeof path, "%s/heddle", xdg);
  } else if (home && *home == '/') {
    n = snprintf(path, sizeof path, "%s/.cache", home);
    if (n > 0 && (size_t)n < sizeof path) mkdir(path, 0700);
    n = snprintf(path, sizeof path, "%s/.cache/heddle", home);
  } else {
    return -1;
  }
  if (n <= 0 || (size_t)n >= sizeof path) return -1;
  int base = own_folder(AT_FDCWD, path);
  if (base < 0) return -1;
  int store = own_folder(base, "ptx");
  close(base);
  return store;
}

struct listed {
  char name[40];
  int64_t bytes, time;
};

static int older(const void *a, const void *b) {
  const struct listed *x = a, *y = b;
  return x->time < y->time ? -1 : x->time > y->time;
}

// Removes the oldest files beyond the bounds, and what writers that died left behind.
static void prune(int store) {
  int copy = dup(store);
  DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
  struct listed *all = malloc(MAX_LISTED * sizeof *all);
  if (!d || !all) {
    if (d) closedir(d);
    else if (copy >= 0) close(copy);
    free(all);
    return;
  }
  rewinddir(d); // the position is shared with whoever else used this descriptor
  size_t n = 0;
  int64_t bytes = 0, now = time(NULL);
  for (struct dirent *e; n < MAX_LISTED && (e = readdir(d));) {
    struct stat st;
    size_t length = strlen(e->d_name);
    if (length >= sizeof all[n].name || fstatat(store, e->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode)) continue;
    if (e->d_name[0] == '.') {
      if (now - st.st_mtime > 3600) unlinkat(store, e->d_name, 0);
      continue;
    }
    memcpy(all[n].name, e->d_name, length + 1);
    all[n].bytes = st.st_size;
    all[n].time = st.st_mtime;
    bytes += st.st_size;
    n++;
  }
  if (n > MAX_FILES || bytes > max_bytes) {
    qsort(all, n, sizeof *all, older);
    for (size_t i = 0, left = n; i < n && (left > MAX_FILES || bytes > max_bytes); i++, left--) {
      unlinkat(store, all[i].name, 0);
      bytes -= all[i].bytes;
    }
  }
  closedir(d);
  free(all);
}

static bool write_all(int fd, const void *bytes, size_t n) {
  for (const char *p = bytes; n;) {
    ssize_t w = write(fd, p, n);
    if (w < 0 && errno == EINTR) continue;
    if (w <= 0) return false;
    p += w;
    n -= (size_t)w;
  }
  return true;
}

static void put(const void *cubin, size_t size, const void *text, size_t bytes, const struct heddle_harvest_made *made) {
  static _Atomic unsigned count;
  uint64_t hash[2] = {heddle_hash64(cubin, size, 0), heddle_hash64(cubin, size, 1)};
  char name[40], temporary[40], line[128];
  int store = folder();
  if (store < 0) {
    heddle_log(HEDDLE_LOG_DEBUG, "harvest: no folder of our own for the store; set HEDDLE_CACHE_DIR to an absolute path");
    return;
  }
  snprintf(name, sizeof name, "%016" PRIx64 "%016" PRIx64 ".ptx", hash[0], hash[1]);
  // Known already: used now. It is written again all the same if it was torn by a crash of the machine.
  struct stat st;
  int n = snprintf(line, sizeof line, "// heddle-ptx 1 from=%s fmad=%d\n", made->from, made->fmad ? 1 : 0);
  if (fstatat(store, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_size == (off_t)((size_t)n + bytes)) {
    utimensat(store, name, NULL, AT_SYMLINK_NOFOLLOW);
    close(store);
    return;
  }
  unsigned number = atomic_fetch_add(&count, 1);
  snprintf(temporary, sizeof temporary, ".%d-%u-%" PRIx32, (int)getpid(), number, (uint32_t)hash[0]);
  int fd = openat(store, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd >= 0) {
    bool whole = write_all(fd, line, (size_t)n) && write_all(fd, text, bytes);
    whole = close(fd) == 0 && whole;
    if (!whole || renameat(store, temporary, store, name)) unlinkat(store, temporary, 0);
    else heddle_log(HEDDLE_LOG_DEBUG, "harvest: %zu bytes of PTX from %s as %s", bytes, made->from, name);
  }
  if (hash[1] % PRUNE_EVERY == 0) prune(store);
  close(store);
}

void heddle_harvest_put(const void *cubin, size_t cubin_bytes, const void *text, size_t text_bytes, const struct heddle_harvest_made *made) {
  if (made->odd || !heddle_harvest_on() || !cubin || cubin_bytes < 64 || !text) return;
  int saved = errno;
  const unsigned char *elf = cubin;
  size_t size = heddle_container_of(cubin) == HEDDLE_CONTAINER_CUBIN ? heddle_container_bytes(HEDDLE_CONTAINER_CUBIN, cubin, cubin_bytes) : 0;
  const void *end = memchr(text, 0, text_bytes);
  if (end) text_bytes = (size_t)((const char *)end - (const char *)text);
  // Relocatable machine code is not what a device runs; what a linker makes of it has another hash.
  if (size && elf[ELF_TYPE] == EXECUTABLE && !elf[ELF_TYPE + 1] && elf[ELF_MACHINE] == CUDA && !elf[ELF_MACHINE + 1] &&
      text_bytes <= HEDDLE_HARVEST_MAX_TEXT && memmem(text, text_bytes, ".version", 8) && memmem(text, text_bytes, ".entry", 6))
    put(cubin, size, text, text_bytes, made);
  errno = saved;
}

void *heddle_harvest_read(const char *path, size_t most, size_t *bytes) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat st;
  char *out = NULL;
  if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 && (uint64_t)st.st_size <= most &&
      (out = malloc((size_t)st.st_size))) {
    size_t at = 0;
    while (at < (size_t)st.st_size) {
      ssize_t n = read(fd, out + at, (size_t)st.st_size - at);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      at += (size_t)n;
    }
    *bytes = at;
    if (at != (size_t)st.st_size) {
      free(out);
      out = NULL;
    }
  }
  if (fd >= 0) close(fd);
  return out;
}
