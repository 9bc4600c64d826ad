// coalesced: N launches of a kernel, one after the other, against one word of N instances (jit/coalesce): equal bit for bit? And a
// launch against launches of ranges of its blocks (slices)?
//
// usage: coalesced DIR [-cubin] [NAME…]
//   DIR     what `go run ./jit/conformance/export DIR` wrote
//   -cubin  load the cubins beside the PTX files (see jit/conformance/export) instead of having the driver compile
//   NAME    only words that hold a kernel with this name
//
// Both run on the same memory with the same contents. Afterwards all of it is compared: results, inputs, the gaps between
// buffers, every instance's own copy of its module's variables, the done words and the counters. One line a kernel:
//   ok NAME: WORDS   BAD NAME: what differs   refused NAME: CODE
// and a summary. Exit 1 when any is BAD, or 2 when there was nothing to compare. The work is done in a child process: a kernel that
// faults, or takes more than LIMIT_S seconds, is BAD, and another child goes on with the next.
#include "program.h"
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { LIMIT_S = 60, FAILED = 3 };

// What the children share with their parent.
static struct progress {
  int next; // number of the first word that is still to do
  int ok, bad, words;
  double compiling;
  char doing[512]; // name of the kernel under way
  char launch[160]; // which launch of it: a failure is often told only by the call after it
} *progress;

// ---- JSON: as much as the manifest needs

typedef struct json {
  char kind; // { [ s n (number, true, false, null)
  char *text, *key;
  double number;
  struct json *child, *next;
  int count;
} json;

static char *cursor;
static void skip(void) {
  while (*cursor == ' ' || *cursor == '\n' || *cursor == '\t' || *cursor == '\r' || *cursor == ',' || *cursor == ':') cursor++;
}
static char *string(void) {
  char *begin = ++cursor, *to = begin;
  for (; *cursor && *cursor != '"'; cursor++) {
    if (*cursor == '\\' && cursor[1]) {
      cursor++;
      if (*cursor == 'u') { // names in PTX are ASCII; Go writes < > & so
        unsigned v = 0;
        sscanf(cursor + 1, "%4x", &v);
        *to++ = (char)v;
        cursor += 4;
        continue;
      }
    }
    *to++ = *cursor;
  }
  if (*cursor) cursor++;
  *to = 0;
  return begin;
}
static json *value(int depth) {
  json *j = calloc(1, sizeof *j);
  skip();
  if (depth > 20 || !*cursor) {
    fprintf(stderr, "coalesced: the manifest is cut off or too deep\n");
    exit(2);
  }
  if (*cursor == '{' || *cursor == '[') {
    j->kind = *cursor;
    char close = *cursor++ == '{' ? '}' : ']';
    json **last = &j->child;
    for (skip(); *cursor && *cursor != close; skip()) {
      char *key = j->kind == '{' ? string() : NULL;
      *last = value(depth + 1);
      (*last)->key = key;
      last = &(*last)->next;
      j->count++;
    }
    if (*cursor) cursor++;
  } else if (*cursor == '"') {
    j->kind = 's';
    j->text = string();
  } else {
    j->kind = 'n';
    j->number = *cursor == 't';
    char *end;
    double v = strtod(cursor, &end);
    if (end > cursor) j->number = v;
    for (cursor = end > cursor ? end : cursor; *cursor >= 'a' && *cursor <= 'z'; cursor++) {}
  }
  return j;
}
static json *get(json *j, const char *key) {
  for (json *c = j->child; c; c = c->next)
    if (c->key && !strcmp(c->key, key)) return c;
  fprintf(stderr, "coalesced: the manifest lacks \"%s\": made by another version of export?\n", key);
  exit(2);
}
static json *at(json *j, int i) {
  json *c = j->child;
  while (c && i-- > 0) c = c->next;
  if (!c) {
    fprintf(stderr, "coalesced: the manifest's list is too short\n");
    exit(2);
  }
  return c;
}
static long num(json *j, const char *key) { return (long)get(j, key)->number; }
static char *str(json *j, const char *key) { return get(j, key)->text; }
static void dims(json *j, unsigned d[3]) {
  for (int i = 0; i < 3; i++) d[i] = (unsigned)at(j, i)->number;
}

// ---- files and modules

static const char *dir;
static int use_cubin;
static void *file(const char *name, size_t *size) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *f = fopen(path, "rb");
  if (!f || fseek(f, 0, SEEK_END)) {
    perror(path);
    exit(2);
  }
  *size = (size_t)ftell(f);
  rewind(f);
  char *b = malloc(*size + 1);
  if (fread(b, 1, *size, f) != *size) {
    perror(path);
    exit(2);
  }
  b[*size] = 0;
  fclose(f);
  return b;
}

#define CALL(x)                                                                        \
  do {                                                                                 \
    CUresult r_ = (x);                                                                 \
    if (r_) {                                                                          \
      printf("BAD %s: %s: %s: %d %s\n", progress->doing, progress->launch, #x, r_, error_name(r_)); \
      fflush(stdout);                                                                  \
      _exit(FAILED);                                                                   \
    }                                                                                  \
  } while (0)

static CUmodule load(const char *name) {
  char path[4096], log[4096] = "";
  snprintf(path, sizeof path, "%s", name);
  if (use_cubin) strcpy(strrchr(path, '.'), ".cubin");
  size_t n;
  void *image = file(path, &n);
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void *values[] = {log, (void *)(uintptr_t)sizeof log};
  CUmodule m;
  double t = now_us();
  CUresult r = cuModuleLoadDataEx(&m, image, 2, options, values);
  progress->compiling += now_us() - t;
  if (r) {
    printf("BAD %s: loading %s: %d %s %.500s\n", progress->doing, path, r, error_name(r), log);
    fflush(stdout);
    _exit(FAILED);
  }
  free(image);
  return m;
}

// ---- kernels

typedef struct {
  long buffer, bytes, data, offset, into, off;
  long map[6]; // of a tensor map: bytes of an element, rows, columns, rows and columns of a box, span of the swizzle
} param;

typedef struct {
  json *j;
  const char *name;
  unsigned block[3], cluster[3], shared;
  size_t param_bytes, data_bytes, image_bytes;
  int nparams, ngrids, seeds;
  param *params;
  unsigned (*grids)[3];
  char *data; // read when first needed
  CUfunction fn;
  CUmodule module;
} kernel;

static struct { const char *file; CUmodule m; } originals[512];
static int noriginals;

enum { GAP = 256, MAX_INSTANCES = 256 };
static size_t up(size_t n) { return (n + GAP - 1) / GAP * GAP; }

static void prepare(kernel *k) {
  json *j = k->j;
  k->name = str(j, "name");
  dims(get(j, "block"), k->block);
  dims(get(j, "cluster"), k->cluster);
  k->shared = (unsigned)num(j, "shared");
  k->param_bytes = (size_t)num(j, "param_bytes");
  k->data_bytes = (size_t)num(j, "data_bytes");
  k->seeds = (int)num(j, "seeds");
  json *p = get(j, "params"), *g = get(j, "grids");
  k->nparams = p->count;
  k->params = calloc((size_t)p->count + 1, sizeof *k->params);
  k->image_bytes = GAP;
  int i = 0;
  for (json *c = p->child; c; c = c->next, i++) {
    k->params[i] = (param){num(c, "buffer"), num(c, "bytes"), num(c, "data"), num(c, "offset"), num(c, "into"), num(c, "off"), {0}};
    json *map = get(c, "map");
    for (int d = 0; d < 6 && map->count == 6; d++) k->params[i].map[d] = (long)at(map, d)->number;
    if (k->params[i].buffer) k->image_bytes += up((size_t)k->params[i].bytes) + GAP;
  }
  k->ngrids = g->count;
  k->grids = calloc((size_t)g->count, sizeof *k->grids);
  i = 0;
  for (json *c = g->child; c; c = c->next) dims(c, k->grids[i++]);
}

static void allow_shared(CUfunction f, unsigned shared) {
  if (shared > 48 << 10) CALL(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)shared));
}

static void make_ready(kernel *k) {
  if (k->fn) return;
  size_t n;
  k->data = file(str(k->j, "data"), &n);
  if (n != k->data_bytes * (size_t)k->seeds) {
    fprintf(stderr, "coalesced: %s has %zu bytes, expected %zu\n", str(k->j, "data"), n, k->data_bytes * (size_t)k->seeds);
    exit(2);
  }
  const char *f = str(k->j, "file");
  int i = 0;
  while (i < noriginals && strcmp(originals[i].file, f)) i++;
  if (i == noriginals) {
    if (noriginals == (int)(sizeof originals / sizeof *originals)) {
      fprintf(stderr, "coalesced: more than %d modules\n", noriginals);
      exit(2);
    }
    originals[noriginals].file = f;
    originals[noriginals++].m = load(f);
  }
  k->module = originals[i].m;
  CALL(cuModuleGetFunction(&k->fn, k->module, k->name));
  allow_shared(k->fn, k->shared);
}

// Makes the tensor map of a buffer, in tiled mode (driver API, tensor map object management).
static void encode(const long map[6], CUdeviceptr buffer, unsigned char *to) {
  CUtensorMap m;
  cuuint64_t size[2] = {(cuuint64_t)map[2], (cuuint64_t)map[1]}, stride[1] = {(cuuint64_t)(map[2] * map[0])};
  cuuint32_t box[2] = {(cuuint32_t)map[4], (cuuint32_t)map[3]}, step[2] = {1, 1};
  CUtensorMapDataType type = map[0] == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : map[0] == 2 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  CUtensorMapSwizzle swizzle = map[5] == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : map[5] == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : map[5] == 32 ? CU_TENSOR_MAP_SWIZZLE_32B : CU_TENSOR_MAP_SWIZZLE_NONE;
  CALL(cuTensorMapEncodeTiled(&m, type, 2, (void *)(uintptr_t)buffer, size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  memcpy(to, &m, sizeof m);
}

// Fills an instance's image (the memory at base) and parameter block.
static void fill(kernel *k, int seed, CUdeviceptr base, unsigned char *image, unsigned char *block) {
  const char *data = k->data + (size_t)seed * k->data_bytes;
  memset(image, 0xc3, k->image_bytes);
  memset(block, 0, k->param_bytes);
  size_t *place = calloc((size_t)k->nparams + 1, sizeof *place), next = GAP;
  for (int i = 0; i < k->nparams; i++) {
    param *p = &k->params[i];
    if (p->buffer) {
      place[i] = next;
      next += up((size_t)p->bytes) + GAP;
      if (p->data >= 0)
        memcpy(image + place[i], data + p->data, (size_t)p->bytes);
      else
        memset(image + place[i], 0, (size_t)p->bytes);
    } else if (p->offset >= 0)
      memcpy(block + p->offset, data + p->data, (size_t)p->bytes);
  }
  for (int i = 0; i < k->nparams; i++) {
    param *p = &k->params[i];
    if (!p->buffer) continue;
    CUdeviceptr a = base + place[i];
    if (p->offset < 0 && k->params[p->into].map[0]) {
      encode(k->params[p->into].map, a, block + k->params[p->into].offset);
      continue;
    }
    unsigned char *to = block + p->offset;
    if (p->offset < 0) to = k->params[p->into].buffer ? image + place[p->into] + p->off : block + k->params[p->into].offset + p->off;
    memcpy(to, &a, sizeof a);
  }
  free(place);
}

static void launch(CUfunction f, const unsigned grid[3], const unsigned block[3], const unsigned cluster[3], unsigned shared, void *params, size_t bytes) {
  CUlaunchAttribute attr[1];
  memset(attr, 0, sizeof attr);
  CUlaunchConfig c = {.gridDimX = grid[0], .gridDimY = grid[1], .gridDimZ = grid[2], .blockDimX = block[0], .blockDimY = block[1], .blockDimZ = block[2],
      .sharedMemBytes = shared, .attrs = attr};
  if (cluster[0]) {
    attr[0].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attr[0].value.clusterDim.x = cluster[0];
    attr[0].value.clusterDim.y = cluster[1];
    attr[0].value.clusterDim.z = cluster[2];
    c.numAttrs = 1;
  }
  void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, params, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
  CALL(cuLaunchKernelEx(&c, f, NULL, bytes ? extra : NULL));
}

// ---- words

typedef struct {
  kernel *k;
  unsigned grid[3];
  size_t at; // of its image in the arena
  unsigned char *params;
  int nglobals;
  CUdeviceptr *globals;       // its own copies
  size_t *global_bytes;
  unsigned char **initial, **wanted; // what they hold before, and after a launch alone
} instance;

// Offsets behind the parameters (jit/coalesce/coalesce.go, Layout).
enum { DONE = 0, COUNTER = 8, VALUE = 16, THREADS = 20, GRID = 24, BODY = 36, FIRST = 40 };

static void put32(unsigned char *p, uint32_t v) { memcpy(p, &v, 4); }
static void put64(unsigned char *p, uint64_t v) { memcpy(p, &v, 8); }

static char problem[512];

// Launches the one instance of a block by table as slices, one behind the other: one block, then ranges of sizes of all kinds. None of
// them stores a done word (jit/coalesce, Layout.PutSlice).
static void slices(CUfunction f, const unsigned threads[3], unsigned shared, unsigned char *block, size_t bytes, size_t stride, size_t tail, uint32_t blocks) {
  unsigned none[3] = {0, 0, 0};
  uint32_t random = blocks;
  put64(block + tail + DONE, 0);
  for (uint32_t from = 0, n = 1; from < blocks; from += n) {
    random = random * 1664525u + 1013904223u;
    if (from > 0) n = 1 + (random >> 8) % (blocks / 2 + 1);
    if (n > blocks - from) n = blocks - from;
    put32(block + tail + FIRST, 0u - from);
    for (size_t at_ = stride; at_ + stride <= bytes; at_ += stride) put32(block + at_ + tail + FIRST, n);
    unsigned grid[3] = {n, 1, 1};
    launch(f, grid, threads, none, shared, block, bytes);
  }
}

// Runs one word against its launches; false and problem when they differ.
static int compare(json *w, kernel *all, int nall) {
  json *bodies = get(w, "bodies"), *names = get(w, "global_names");
  int n = (int)num(w, "capacity"), sliced = !strcmp(str(w, "mapping"), "slices"), by_table = sliced || !strcmp(str(w, "mapping"), "by-table");
  size_t stride = (size_t)num(w, "stride"), tail = (size_t)num(w, "tail"), globals_at = (size_t)num(w, "globals"), param_bytes = (size_t)num(w, "param_bytes");
  if (n < 1 || n > MAX_INSTANCES || bodies->count < 1 || stride * (size_t)n > param_bytes) {
    fprintf(stderr, "coalesced: %s: impossible layout\n", str(w, "file"));
    exit(2);
  }
  if (sliced) n = 1;
  instance *ins = calloc((size_t)n, sizeof *ins);
  size_t arena_bytes = 0;
  unsigned shared = 0;
  for (int i = 0; i < n; i++) {
    int b = (int)at(bodies, i % bodies->count)->number;
    if (b < 0 || b >= nall) exit(2);
    kernel *k = ins[i].k = &all[b];
    make_ready(k);
    if (by_table && !sliced)
      memcpy(ins[i].grid, k->grids[i % k->ngrids], sizeof ins[i].grid);
    else
      dims(get(w, "grid"), ins[i].grid);
    ins[i].at = arena_bytes;
    arena_bytes += up(k->image_bytes);
    ins[i].params = calloc(1, k->param_bytes + 1);
    if (k->shared > shared) shared = k->shared;
  }
  CUdeviceptr arena, counters;
  CALL(cuMemAlloc(&arena, arena_bytes));
  CALL(cuMemAlloc(&counters, 64 * (size_t)n));
  unsigned char *before = malloc(arena_bytes), *alone = malloc(arena_bytes), *word = malloc(arena_bytes);
  for (int i = 0; i < n; i++) fill(ins[i].k, i % ins[i].k->seeds, arena + ins[i].at, before + ins[i].at, ins[i].params);

  // the module's variables: what they hold now is what every launch alone finds
  for (int i = 0; i < n; i++) {
    json *g = at(names, i % bodies->count);
    instance *in = &ins[i];
    in->nglobals = g->count;
    in->globals = calloc((size_t)g->count + 1, sizeof *in->globals);
    in->global_bytes = calloc((size_t)g->count + 1, sizeof *in->global_bytes);
    in->initial = calloc((size_t)g->count + 1, sizeof *in->initial);
    in->wanted = calloc((size_t)g->count + 1, sizeof *in->wanted);
    for (int v = 0; v < g->count; v++) {
      CUdeviceptr p;
      CALL(cuModuleGetGlobal(&p, &in->global_bytes[v], in->k->module, at(g, v)->text));
      in->initial[v] = malloc(in->global_bytes[v]);
      in->wanted[v] = malloc(in->global_bytes[v]);
      CALL(cuMemcpyDtoH(in->initial[v], p, in->global_bytes[v]));
      CALL(cuMemAlloc(&in->globals[v], in->global_bytes[v]));
      CALL(cuMemcpyHtoD(in->globals[v], in->initial[v], in->global_bytes[v]));
    }
  }

  // N launches, each waited for: a fault is of the one that is named
  CALL(cuMemcpyHtoD(arena, before, arena_bytes));
  for (int i = 0; i < n; i++) {
    instance *in = &ins[i];
    snprintf(progress->launch, sizeof progress->launch, "the original alone, grid %ux%ux%u", in->grid[0], in->grid[1], in->grid[2]);
    launch(in->k->fn, in->grid, in->k->block, in->k->cluster, in->k->shared, in->params, in->k->param_bytes);
    CALL(cuCtxSynchronize());
    for (int v = 0; v < in->nglobals; v++) {
      CUdeviceptr p;
      size_t bytes;
      CALL(cuModuleGetGlobal(&p, &bytes, in->k->module, at(at(names, i % bodies->count), v)->text));
      CALL(cuMemcpyDtoH(in->wanted[v], p, bytes));
      CALL(cuMemcpyHtoD(p, in->initial[v], bytes));
    }
  }
  CALL(cuMemcpyDtoH(alone, arena, arena_bytes));

  // one word
  snprintf(progress->launch, sizeof progress->launch, "the word %.120s", str(w, "file"));
  CUmodule m = load(str(w, "file"));
  CUfunction f;
  CALL(cuModuleGetFunction(&f, m, "heddle_word"));
  allow_shared(f, shared);
  uint32_t *done; // in host memory, as the executor has it; every fourth word, the others must stay
  CALL(cuMemHostAlloc((void **)&done, 16 * (size_t)n, CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_PORTABLE));
  memset(done, 0x5a, 16 * (size_t)n);
  CUdeviceptr done_at;
  CALL(cuMemHostGetDevicePointer(&done_at, done, 0));
  CALL(cuMemsetD8(counters, 0, 64 * (size_t)n));
  CALL(cuMemcpyHtoD(arena, before, arena_bytes));
  unsigned char *block = malloc(param_bytes);
  memset(block, 0xa5, param_bytes);
  uint32_t total = 0;
  for (int i = 0; i < n; i++) {
    instance *in = &ins[i];
    unsigned char *at_ = block + stride * (size_t)i, *t = at_ + tail;
    uint32_t blocks = in->grid[0] * in->grid[1] * in->grid[2];
    memcpy(at_, in->params, in->k->param_bytes);
    put64(t + DONE, done_at + 16 * (uint64_t)i);
    put64(t + COUNTER, counters + 64 * (uint64_t)i);
    put32(t + VALUE, 0x1000u + (uint32_t)i);
    put32(t + THREADS, blocks * in->k->block[0] * in->k->block[1] * in->k->block[2]);
    if (by_table) {
      for (int d = 0; d < 3; d++) put32(t + GRID + 4 * d, in->grid[d]);
      put32(t + BODY, (uint32_t)(i % bodies->count));
      put32(t + FIRST, total);
    }
    for (int v = 0; v < in->nglobals; v++) put64(at_ + globals_at + 8 * (size_t)v, in->globals[v]);
    total += blocks;
  }
  unsigned grid[3] = {ins[0].grid[0], ins[0].grid[1], (unsigned)n}, none[3] = {0, 0, 0};
  if (by_table) grid[0] = total, grid[1] = grid[2] = 1;
  if (sliced)
    slices(f, ins[0].k->block, shared, block, param_bytes, stride, tail, total);
  else
    launch(f, grid, ins[0].k->block, by_table ? none : ins[0].k->cluster, shared, block, param_bytes);
  CALL(cuCtxSynchronize());
  CALL(cuMemcpyDtoH(word, arena, arena_bytes));

  int ok = 1;
  for (int i = 0; i < n && ok; i++) {
    instance *in = &ins[i];
    for (size_t b = in->at; b < in->at + in->k->image_bytes && ok; b++)
      if (alone[b] != word[b]) {
        snprintf(problem, sizeof problem, "instance %d (%s), byte %zu of its memory: %02x, alone %02x, before %02x", i, in->k->name, b - in->at, word[b], alone[b], before[b]);
        ok = 0;
      }
    for (int v = 0; v < in->nglobals && ok; v++) {
      unsigned char *got = malloc(in->global_bytes[v]);
      CALL(cuMemcpyDtoH(got, in->globals[v], in->global_bytes[v]));
      if (memcmp(got, in->wanted[v], in->global_bytes[v])) {
        snprintf(problem, sizeof problem, "instance %d (%s), its variable %d differs", i, in->k->name, v);
        ok = 0;
      }
      free(got);
    }
    uint32_t counter[16];
    CALL(cuMemcpyDtoH(counter, counters + 64 * (uint64_t)i, sizeof counter));
    for (int c = 0; c < 16 && ok; c++)
      if (counter[c]) {
        snprintf(problem, sizeof problem, "instance %d (%s): counter %u after the launch (word %d)", i, in->k->name, counter[c], c);
        ok = 0;
      }
    if (ok && (done[4 * i] != (sliced ? 0x5a5a5a5au : 0x1000u + (uint32_t)i) || done[4 * i + 1] != 0x5a5a5a5a || done[4 * i + 3] != 0x5a5a5a5a)) {
      snprintf(problem, sizeof problem, "instance %d (%s): done word %08x, expected %08x", i, in->k->name, done[4 * i], 0x1000u + (uint32_t)i);
      ok = 0;
    }
  }
  CALL(cuModuleUnload(m));
  CALL(cuMemFreeHost(done));
  CALL(cuMemFree(arena));
  CALL(cuMemFree(counters));
  for (int i = 0; i < n; i++) {
    for (int v = 0; v < ins[i].nglobals; v++) {
      CALL(cuMemFree(ins[i].globals[v]));
      free(ins[i].initial[v]);
      free(ins[i].wanted[v]);
    }
    free(ins[i].globals), free(ins[i].global_bytes), free(ins[i].initial), free(ins[i].wanted), free(ins[i].params);
  }
  free(ins), free(before), free(alone), free(word), free(block);
  return ok;
}

// Compares the words from progress->next on; those of one kernel give one line.
static void work(json *words, kernel *all, int nall, char **wanted, int nwanted) {
  context_open();
  cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 8 << 10); // recursive kernels
  int number = 0;
  json *w = words->child;
  while (w && number < progress->next) w = w->next, number++;
  while (w) {
    char line[1024] = "", *name = progress->doing;
    json *bodies = get(w, "bodies"), *first = w;
    int take = nwanted == 0, good = 1;
    *name = 0;
    for (json *b = bodies->child; b; b = b->next) {
      const char *k = all[(int)b->number].name;
      snprintf(name + strlen(name), sizeof progress->doing - strlen(name), "%s%s", *name ? "+" : "", k);
      for (int a = 0; a < nwanted; a++) take |= !strcmp(wanted[a], k);
    }
    do w = w->next, number++;
    while (w && bodies->count == 1 && get(w, "bodies")->count == 1 && bodies->child->number == get(w, "bodies")->child->number);
    progress->next = number;
    if (!take) continue;
    alarm(LIMIT_S);
    snprintf(progress->launch, sizeof progress->launch, "preparing");
    for (json *x = first; x != w && good; x = x->next, progress->words++) {
      good = compare(x, all, nall);
      if (!good) *line = 0;
      snprintf(line + strlen(line), sizeof line - strlen(line), " %s/%ld %s", str(x, "mapping"), num(x, "capacity"), good ? "" : problem);
    }
    printf("%s %s:%s\n", good ? "ok" : "BAD", name, line);
    progress->ok += good;
    progress->bad += !good;
  }
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: coalesced DIR [-cubin] [NAME...]\n");
    return 2;
  }
  dir = argv[1];
  int nwanted = 0;
  for (int i = 2; i < argc; i++)
    if (!strcmp(argv[i], "-cubin"))
      use_cubin = 1;
    else
      argv[2 + nwanted++] = argv[i];
  size_t size;
  cursor = file("manifest.json", &size);
  json *m = value(0), *ks = get(m, "kernels"), *words = get(m, "words");
  kernel *all = calloc((size_t)ks->count + 1, sizeof *all);
  int n = 0;
  for (json *c = ks->child; c; c = c->next) {
    all[n].j = c;
    prepare(&all[n++]);
  }
  setvbuf(stdout, 0, _IOLBF, 0);
  progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (progress == MAP_FAILED) {
    perror("coalesced: mmap");
    return 2;
  }
  double begin = now_us();
  while (progress->next < words->count) {
    int from = progress->next, status = 0;
    pid_t child = fork();
    if (child < 0) {
      perror("coalesced: fork");
      return 2;
    }
    if (child == 0) {
      work(words, all, n, argv + 2, nwanted);
      fflush(stdout);
      _exit(0);
    }
    if (waitpid(child, &status, 0) != child) {
      perror("coalesced: waitpid");
      return 2;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    if (WIFSIGNALED(status)) printf("BAD %s: %s: %s\n", progress->doing, progress->launch, WTERMSIG(status) == SIGALRM ? "no end" : strsignal(WTERMSIG(status)));
    progress->bad++;
    if (progress->next == from) { // it failed before any kernel
      fprintf(stderr, "coalesced: no GPU to work with\n");
      return 2;
    }
  }
  int refused = 0;
  for (json *r = get(m, "refused")->child; r && nwanted == 0; r = r->next, refused++) printf("refused %s: %s %s\n", str(r, "name"), str(r, "mapping"), str(r, "code"));
  printf("coalesced: %d kernels and packs in %d words: %d equal, %d not; %d refused; %.1f s, of which loading %.1f s\n", progress->ok + progress->bad, progress->words,
         progress->ok, progress->bad, refused, (now_us() - begin) * 1e-6, progress->compiling * 1e-6);
  return progress->bad ? 1 : progress->ok ? 0 : 2;
}
