/* objects.c: arenas of handles. Memory of an object is never given back, only
 * reused for an object of the same type, so checking a stale handle is safe. */
#include <sys/mman.h>

#include "sim.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#define SIM_CAP(n) ((n) < 8192 ? (n) : 8192) /* the leak checker reads whole arenas */
#else
#define SIM_CAP(n) (n)
#endif

struct arena {
    size_t size;  /* of one object */
    uint32_t cap; /* objects */
    char *base;
    _Atomic uint32_t used; /* objects ever handed out */
    struct sim_obj *free;
};

static struct arena arenas[SIM_TYPES] = {
    [SIM_CTX] = {sizeof(struct sim_ctx), SIM_MAX_CONTEXTS, NULL, 0, NULL},
    [SIM_STREAM] = {sizeof(struct sim_stream), SIM_MAX_STREAMS, NULL, 0, NULL},
    [SIM_EVENT] = {sizeof(struct sim_event), SIM_MAX_EVENTS, NULL, 0, NULL},
    [SIM_MODULE] = {sizeof(struct sim_module), 1 << 18, NULL, 0, NULL},
    [SIM_LIBRARY] = {sizeof(struct sim_library), 1 << 18, NULL, 0, NULL},
    [SIM_KERNEL] = {sizeof(struct sim_kernel), 1 << 20, NULL, 0, NULL},
    [SIM_FUNCTION] = {sizeof(struct sim_function), 1 << 20, NULL, 0, NULL},
    [SIM_POOL] = {sizeof(struct sim_pool), 1 << 12, NULL, 0, NULL},
    [SIM_GRAPH] = {512, 1 << 18, NULL, 0, NULL},
    [SIM_NODE] = {512, 1 << 20, NULL, 0, NULL},
    [SIM_EXEC] = {640, 1 << 18, NULL, 0, NULL},
    [SIM_GREEN] = {sizeof(struct sim_green), 1 << 12, NULL, 0, NULL},
    [SIM_LINK] = {512, 1 << 14, NULL, 0, NULL},
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void *sim_obj_new(enum sim_type type)
{
    struct arena *a = &arenas[type];
    struct sim_obj *o = NULL;
    pthread_mutex_lock(&lock);
    if (!a->base) {
        a->cap = SIM_CAP(a->cap);
        void *p = mmap(NULL, a->size * a->cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED)
            a->base = p;
#if defined(__SANITIZE_ADDRESS__)
        if (a->base)
            __lsan_register_root_region(a->base, a->size * a->cap);
#endif
    }
    if (a->free) {
        o = a->free;
        a->free = o->next;
    } else if (a->base && a->used < a->cap) {
        uint32_t i = atomic_load(&a->used);
        o = (struct sim_obj *)(void *)(a->base + a->size * i);
        o->index = i;
        atomic_store(&a->used, i + 1);
    }
    if (o) {
        o->next = NULL;
        atomic_store(&o->live, 1);
    }
    pthread_mutex_unlock(&lock);
    return o;
}

void sim_obj_free(enum sim_type type, void *obj)
{
    struct sim_obj *o = obj;
    pthread_mutex_lock(&lock);
    if (atomic_exchange(&o->live, 0)) {
        o->next = arenas[type].free;
        arenas[type].free = o;
    }
    pthread_mutex_unlock(&lock);
}

void *sim_obj_check(enum sim_type type, const void *handle)
{
    const struct arena *a = &arenas[type];
    uintptr_t p = (uintptr_t)handle, base = (uintptr_t)a->base;
    if (!base || p < base || p - base >= (uintptr_t)a->size * atomic_load(&a->used) || (p - base) % a->size)
        return NULL;
    struct sim_obj *o = (struct sim_obj *)(void *)(a->base + (p - base));
    return atomic_load(&o->live) ? o : NULL;
}

void sim_obj_each(enum sim_type type, bool (*visit)(void *obj, void *arg), void *arg)
{
    const struct arena *a = &arenas[type];
    uint32_t n = atomic_load(&a->used);
    for (uint32_t i = 0; i < n; i++) {
        struct sim_obj *o = (struct sim_obj *)(void *)(a->base + a->size * i);
        if (atomic_load(&o->live) && !visit(o, arg))
            return;
    }
}
