/* map.c: the ranges of the process's address space that the driver knows,
 * sorted by address, so that arguments are checked without asking the server. */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

pthread_rwlock_t sim_map_lock = PTHREAD_RWLOCK_INITIALIZER;

static struct sim_range **ranges;
static size_t count, cap;

/* Index of the first range that ends after addr. */
static size_t lower(uint64_t addr)
{
    size_t lo = 0, hi = count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (ranges[mid]->base + ranges[mid]->size <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct sim_range *sim_map_find(uint64_t addr)
{
    size_t i = lower(addr);
    return i < count && ranges[i]->base <= addr ? ranges[i] : NULL;
}

struct sim_range *sim_map_add(const struct sim_range *range)
{
    if (count == cap) {
        size_t n = cap ? cap * 2 : 64;
        struct sim_range **bigger = realloc(ranges, n * sizeof *bigger);
        if (!bigger)
            return NULL;
        ranges = bigger;
        cap = n;
    }
    struct sim_range *copy = malloc(sizeof *copy);
    if (!copy)
        return NULL;
    *copy = *range;
    size_t i = lower(range->base);
    memmove(ranges + i + 1, ranges + i, (count - i) * sizeof *ranges);
    ranges[i] = copy;
    count++;
    return copy;
}

void sim_map_remove(uint64_t base)
{
    size_t i = lower(base);
    if (i < count && ranges[i]->base == base) {
        free(ranges[i]);
        memmove(ranges + i, ranges + i + 1, (--count - i) * sizeof *ranges);
    }
}

bool sim_map_covered(uint64_t addr, uint64_t size, bool device_only)
{
    uint64_t end = addr + size;
    if (end < addr)
        return false;
    for (size_t i = lower(addr); addr < end || size == 0; i++) {
        if (i == count || ranges[i]->base > addr)
            return false;
        if (device_only && (ranges[i]->kind == SIM_MAP_HOST || ranges[i]->kind == SIM_MAP_REGISTERED))
            return false;
        if (size == 0)
            return true;
        addr = ranges[i]->base + ranges[i]->size;
    }
    return true;
}

void sim_map_drop_ctx(const struct sim_ctx *ctx)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (ranges[i]->ctx == ctx && ranges[i]->kind != SIM_MAP_REGISTERED && ranges[i]->kind != SIM_MAP_HOST)
            free(ranges[i]);
        else
            ranges[kept++] = ranges[i];
    }
    count = kept;
}

size_t sim_map_count(void)
{
    return count;
}

struct sim_range *sim_map_at(size_t i)
{
    return ranges[i];
}

bool sim_map_get(uint64_t addr, struct sim_range *out)
{
    pthread_rwlock_rdlock(&sim_map_lock);
    const struct sim_range *r = sim_map_find(addr);
    if (r)
        *out = *r;
    pthread_rwlock_unlock(&sim_map_lock);
    return r != NULL;
}

CUresult sim_map_check(uint64_t addr, uint64_t size)
{
    pthread_rwlock_rdlock(&sim_map_lock);
    bool ok = sim_map_covered(addr, size, false);
    pthread_rwlock_unlock(&sim_map_lock);
    return ok ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

uint64_t sim_buffer_id(void)
{
    static _Atomic uint64_t next = 1;
    return atomic_fetch_add(&next, 1);
}
