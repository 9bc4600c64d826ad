/* init.c: process state, the guard of every entry point, injected failures,
 * cuInit, errors' names, and how entry points are found. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

_Thread_local struct sim_thread sim_tls;
atomic_bool sim_forked;

static atomic_bool initialised;
static CUresult init_result;
static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- log ---- */

static int log_fd = -1;
static pthread_once_t log_once = PTHREAD_ONCE_INIT;

static void log_open(void)
{
    const char *where = getenv("SIMGPU_LOG");
    if (!where || !*where)
        return;
    if (strcmp(where, "stderr") == 0)
        log_fd = 2;
    else
        log_fd = open(where, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

void sim_log(const char *format, ...)
{
    int saved = errno;
    pthread_once(&log_once, log_open);
    if (log_fd >= 0) {
        char line[512];
        int n = snprintf(line, sizeof line, "simgpu[%d]: ", (int)getpid());
        va_list args;
        va_start(args, format);
        int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
        va_end(args);
        size_t len = (size_t)n + (m > 0 ? (size_t)m : 0);
        if (len > sizeof line - 2)
            len = sizeof line - 2;
        line[len++] = '\n';
        ssize_t ignored = write(log_fd, line, len);
        (void)ignored;
    }
    errno = saved;
}

/* ---- guard of every entry point ---- */

struct rule {
    char name[SIM_RULE_NAME_SIZE];
    uint32_t nth, code, delay_us, times;
};
_Static_assert(sizeof(struct rule) == SIM_RULE_SIZE, "wire.h");

static _Atomic uint32_t *word(size_t offset)
{
    return (_Atomic uint32_t *)(void *)(sim_status + offset);
}

/* Applies the server's rules (`simgpu inject`) to the n-th call of an entry point. */
static int apply_rules(unsigned entry, uint32_t n, CUresult *result)
{
    const char *name = sim_entry_names[entry];
    for (size_t i = 0; i < SIM_MAX_RULES; i++) {
        struct rule r;
        memcpy(&r, sim_status + SIM_STATUS_RULES + i * sizeof r, sizeof r);
        r.name[sizeof r.name - 1] = 0;
        if (!r.name[0] || strcmp(r.name, name) != 0)
            continue;
        if (n < r.nth || (r.times && n >= r.nth + r.times))
            continue;
        if (r.delay_us) {
            struct timespec t = {r.delay_us / 1000000, (long)(r.delay_us % 1000000) * 1000};
            while (nanosleep(&t, &t) < 0 && errno == EINTR)
                ;
        }
        if (r.code) {
            *result = (CUresult)r.code;
            return 1;
        }
    }
    return 0;
}

static int count_and_inject(unsigned entry, CUresult *result)
{
    if (!sim_status || entry >= SIM_MAX_ENTRIES)
        return 0;
    uint32_t n = atomic_fetch_add_explicit(word(SIM_STATUS_CALLS + entry * 4), 1, memory_order_relaxed) + 1;
    if (atomic_load_explicit(word(SIM_STATUS_RULES_GEN), memory_order_acquire) == 0)
        return 0;
    return apply_rules(entry, n, result);
}

int sim_enter_early(unsigned entry, CUresult *result)
{
    return count_and_inject(entry, result);
}

int sim_enter(unsigned entry, CUresult *result)
{
    if (!atomic_load_explicit(&initialised, memory_order_acquire) || atomic_load_explicit(&sim_forked, memory_order_relaxed)) {
        *result = CUDA_ERROR_NOT_INITIALIZED;
        return 1;
    }
    return count_and_inject(entry, result);
}

CUresult sim_not_supported(unsigned entry)
{
    static _Atomic uint8_t logged[SIM_MAX_ENTRIES];
    if (entry < SIM_MAX_ENTRIES && !atomic_exchange(&logged[entry], 1))
        sim_log("%s is not supported by the simulated GPU", sim_entry_names[entry]);
    return CUDA_ERROR_NOT_SUPPORTED;
}

/* Writes what kernels printed to the process's standard output, as the driver does when it synchronises. */
void sim_printf_drain(const struct sim_ctx *ctx)
{
    if (atomic_load(word(SIM_STATUS_PRINTF)) == 0)
        return;
    char *buf = malloc(48 << 10);
    for (bool more = buf != NULL; more;) {
        SIM_REQ(req, SIM_OP_FETCH_PRINTF, ctx->obj.index);
        req.out_blob = buf;
        req.out_blob_cap = 48 << 10;
        if (sim_call(&req) != CUDA_SUCCESS)
            break;
        fwrite(buf, 1, req.out_blob_len, req.nout > 1 && req.out[1] == 2 ? stderr : stdout);
        more = req.nout > 0 && req.out[0];
    }
    fflush(stdout);
    free(buf);
}

/* ---- initialisation and versions ---- */

CUresult sim_cuInit(unsigned int Flags)
{
    if (atomic_load(&sim_forked))
        return CUDA_ERROR_NOT_INITIALIZED;
    if (Flags)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&init_lock);
    if (!atomic_load(&initialised)) {
        init_result = sim_connect();
        if (init_result == CUDA_SUCCESS)
            atomic_store_explicit(&initialised, true, memory_order_release);
    }
    CUresult res = init_result;
    pthread_mutex_unlock(&init_lock);
    return res;
}

CUresult sim_cuDriverGetVersion(int *driverVersion)
{
    if (!driverVersion)
        return CUDA_ERROR_INVALID_VALUE;
    *driverVersion = SIM_DRIVER_VERSION;
    return CUDA_SUCCESS;
}

/* ---- errors ---- */

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
#include "errors.inc"
};

static size_t find_error(CUresult error)
{
    size_t i = 0;
    while (i < sizeof errors / sizeof errors[0] && errors[i].code != (int)error)
        i++;
    return i;
}

CUresult sim_cuGetErrorName(CUresult error, const char **pStr)
{
    size_t i = find_error(error);
    if (!pStr)
        return CUDA_ERROR_INVALID_VALUE;
    *pStr = i < sizeof errors / sizeof errors[0] ? errors[i].name : NULL;
    return *pStr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuGetErrorString(CUresult error, const char **pStr)
{
    size_t i = find_error(error);
    if (!pStr)
        return CUDA_ERROR_INVALID_VALUE;
    *pStr = i < sizeof errors / sizeof errors[0] ? errors[i].text : NULL;
    return *pStr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- entry points by name ---- */

/*
 * The newest variant of symbol that version `version` of the API had. flags
 * (CU_GET_PROC_ADDRESS_*): per-thread streams ask for the _ptsz/_ptds variant
 * where there is one.
 */
static CUresult find_entry(const char *symbol, void **pfn, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
    bool per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0, known = false;
    const struct sim_resolve *best = NULL;
    for (unsigned i = 0; i < sim_resolve_count; i++) {
        const struct sim_resolve *r = &sim_resolves[i];
        if (strcmp(r->name, symbol) != 0)
            continue;
        known = true;
        if (r->version > version || (r->per_thread && !per_thread))
            continue;
        if (!best || r->per_thread > best->per_thread || (r->per_thread == best->per_thread && r->version > best->version))
            best = r;
    }
    *pfn = best ? best->symbol : NULL;
    *status = best ? CU_GET_PROC_ADDRESS_SUCCESS
                   : known ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return CUDA_SUCCESS;
}

static CUresult check_query(const char *symbol, void **pfn, int version, cuuint64_t flags)
{
    const cuuint64_t all = CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
    if (!symbol || !pfn || (flags & ~all) || flags == all || version > SIM_DRIVER_VERSION)
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

CUresult sim_cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                                 CUdriverProcAddressQueryResult *symbolStatus)
{
    CUdriverProcAddressQueryResult status;
    CUresult res = check_query(symbol, pfn, cudaVersion, flags);
    if (res == CUDA_SUCCESS) {
        res = find_entry(symbol, pfn, cudaVersion, flags, &status);
        if (symbolStatus)
            *symbolStatus = status;
    }
    return res;
}

CUresult sim_cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
{
    CUdriverProcAddressQueryResult status;
    CUresult res = check_query(symbol, pfn, cudaVersion, flags);
    if (res == CUDA_SUCCESS)
        res = find_entry(symbol, pfn, cudaVersion, flags, &status);
    if (res == CUDA_SUCCESS && !*pfn)
        res = CUDA_ERROR_NOT_FOUND;
    return res;
}

CUresult sim_cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId)
{
    if (!ppExportTable || !pExportTableId)
        return CUDA_ERROR_INVALID_VALUE;
    /* The runtime's private tables are a real driver's; programs that need them belong on a real GPU. */
    *ppExportTable = NULL;
    return CUDA_ERROR_NOT_FOUND;
}

CUresult sim_cuProfilerStart(void)
{
    return CUDA_SUCCESS;
}

CUresult sim_cuProfilerStop(void)
{
    return CUDA_SUCCESS;
}
