/* module.c: images, modules and functions. The server parses images and says
 * what is in them; everything that is asked about them is answered here. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim.h"

#define FATBIN_WRAPPER 0x466243b1u
#define FATBIN_MAGIC 0xba55ed50u

/* ---- images ---- */

static void image_free(struct sim_image *im)
{
    for (uint32_t i = 0; im->entries && i < im->nentries; i++) {
        free(im->entries[i].name);
        free(im->entries[i].offset);
        free(im->entries[i].size);
    }
    for (uint32_t i = 0; im->globals && i < im->nglobals; i++)
        free(im->globals[i].name);
    free(im->entries);
    free(im->globals);
    free(im);
}

void sim_image_release(struct sim_image *image)
{
    if (atomic_fetch_sub(&image->refs, 1) != 1)
        return;
    SIM_REQ(req, SIM_OP_IMAGE_FREE, image->id);
    sim_post(&req);
    image_free(image);
}

/* "E name params bytes shared local threads regs x y z broken off:size ..." */
static bool parse_entry(char *line, struct sim_entry *e)
{
    int used = 0;
    char name[4096];
    if (sscanf(line, "E %4095s %u %u %u %u %u %u %u %u %u %u%n", name, &e->nparams, &e->param_bytes, &e->shared, &e->local,
               &e->max_threads, &e->regs, &e->req_block[0], &e->req_block[1], &e->req_block[2], &e->broken, &used) != 11)
        return false;
    e->name = strdup(name);
    e->offset = calloc(e->nparams + 1, sizeof *e->offset);
    e->size = calloc(e->nparams + 1, sizeof *e->size);
    if (!e->name || !e->offset || !e->size)
        return false;
    char *p = line + used;
    for (uint32_t i = 0; i < e->nparams; i++) {
        int n = 0;
        if (sscanf(p, " %u:%u%n", &e->offset[i], &e->size[i], &n) != 2)
            return false;
        p += n;
    }
    return true;
}

static bool parse_global(const char *line, struct sim_global *g)
{
    char name[4096];
    unsigned constant;
    if (sscanf(line, "G %4095s %lu %u", name, &g->size, &constant) != 3)
        return false;
    g->name = strdup(name);
    g->constant = constant != 0;
    return g->name != NULL;
}

/* Parses the server's description of an image. */
static struct sim_image *parse_description(uint64_t id, char *text)
{
    struct sim_image *im = calloc(1, sizeof *im);
    size_t lines = 0;
    for (const char *p = text; *p; p++)
        lines += *p == '\n';
    if (im) {
        im->id = id;
        im->refs = 1;
        im->entries = calloc(lines + 1, sizeof *im->entries);
        im->globals = calloc(lines + 1, sizeof *im->globals);
    }
    if (!im || !im->entries || !im->globals)
        goto fail;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        if (line[0] == 'E' ? !parse_entry(line, &im->entries[im->nentries++])
                           : line[0] == 'G' && !parse_global(line, &im->globals[im->nglobals++]))
            goto fail;
    }
    return im;
fail:
    if (im)
        image_free(im);
    return NULL;
}

/* All of fd's content with a NUL after it; NULL on failure. Closes fd. */
static char *slurp(int fd, size_t *size)
{
    struct stat st;
    char *text = NULL;
    if (fstat(fd, &st) == 0 && (text = malloc((size_t)st.st_size + 1))) {
        size_t at = 0;
        ssize_t n;
        while (at < (size_t)st.st_size && (n = pread(fd, text + at, (size_t)st.st_size - at, (off_t)at)) > 0)
            at += (size_t)n;
        text[at] = 0;
        *size = at;
    }
    close(fd);
    return text;
}

CUresult sim_image_load_sized(const void *data, size_t size, struct sim_image **image, char *log, size_t log_size)
{
    size_t n = 0;
    SIM_REQ(req, SIM_OP_IMAGE_LOAD, (uint64_t)(uintptr_t)data, size);
    CUresult res = sim_call(&req);
    char *text = req.out_fd >= 0 ? slurp(req.out_fd, &n) : NULL;
    if (res != CUDA_SUCCESS) {
        if (text) {
            sim_log("image refused: %s", text);
            if (log && log_size)
                snprintf(log, log_size, "%s", text);
        }
        free(text);
        return res;
    }
    *image = text ? parse_description(req.out[0], text) : NULL;
    free(text);
    if (*image)
        return CUDA_SUCCESS;
    SIM_REQ(drop, SIM_OP_IMAGE_FREE, req.out[0]);
    sim_post(&drop);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_image_load(const void *data, struct sim_image **image, char *log, size_t log_size)
{
    uint32_t magic;
    if (!data)
        return CUDA_ERROR_INVALID_VALUE;
    const char *bytes = data;
    if (bytes[0] == 0x7f && bytes[1] == 'E' && bytes[2] == 'L' && bytes[3] == 'F')
        return CUDA_ERROR_NO_BINARY_FOR_GPU; /* machine code: there is no machine */
    if (bytes[0] && bytes[1] && bytes[2] && bytes[3]) {
        memcpy(&magic, data, 4);
        if (magic == FATBIN_WRAPPER) {
            memcpy(&data, bytes + 8, sizeof data);
            bytes = data;
            if (!data)
                return CUDA_ERROR_INVALID_IMAGE;
            memcpy(&magic, data, 4);
        }
        if (magic == FATBIN_MAGIC) {
            uint16_t header;
            uint64_t files;
            memcpy(&header, bytes + 6, 2);
            memcpy(&files, bytes + 8, 8);
            if (files > (uint64_t)1 << 32)
                return CUDA_ERROR_INVALID_IMAGE;
            return sim_image_load_sized(data, header + files, image, log, log_size);
        }
    }
    return sim_image_load_sized(data, strlen(data), image, log, log_size);
}

/* ---- modules ---- */

CUresult sim_module_instantiate(struct sim_ctx *ctx, struct sim_image *image, struct sim_module **module)
{
    struct sim_module *m = sim_obj_new(SIM_MODULE);
    if (!m)
        return CUDA_ERROR_OUT_OF_MEMORY;
    m->ctx = ctx;
    m->image = image;
    m->library = NULL;
    m->next = NULL;
    m->addresses = calloc(image->nglobals + 1, sizeof *m->addresses);
    m->functions = calloc(image->nentries + 1, sizeof(struct sim_function *));
    SIM_REQ(req, SIM_OP_INSTANTIATE, ctx->obj.index, image->id);
    req.out_blob = m->addresses;
    req.out_blob_cap = image->nglobals * sizeof *m->addresses;
    CUresult res = m->addresses && m->functions ? sim_call(&req) : CUDA_ERROR_OUT_OF_MEMORY;
    if (res == CUDA_SUCCESS && req.out_blob_len < req.out_blob_cap)
        res = CUDA_ERROR_UNKNOWN;
    if (res != CUDA_SUCCESS) {
        free(m->addresses);
        free(m->functions);
        sim_obj_free(SIM_MODULE, m);
        return res;
    }
    m->instance = req.out[0];
    pthread_rwlock_wrlock(&sim_map_lock);
    for (uint32_t i = 0; i < image->nglobals; i++) {
        struct sim_range r = {.base = m->addresses[i], .size = image->globals[i].size, .kind = SIM_MAP_MODULE, .ctx = ctx, .dev = ctx->dev,
                              .id = sim_buffer_id()};
        if (r.size)
            sim_map_add(&r);
    }
    pthread_rwlock_unlock(&sim_map_lock);
    atomic_fetch_add(&image->refs, 1);
    *module = m;
    return CUDA_SUCCESS;
}

void sim_module_drop(struct sim_module *m, bool tell_server)
{
    pthread_rwlock_wrlock(&sim_map_lock);
    for (uint32_t i = 0; i < m->image->nglobals; i++)
        if (m->image->globals[i].size)
            sim_map_remove(m->addresses[i]);
    pthread_rwlock_unlock(&sim_map_lock);
    if (tell_server) {
        SIM_REQ(req, SIM_OP_INSTANCE_FREE, m->instance);
        sim_call(&req);
    }
    if (m->library)
        for (struct sim_module **p = &m->library->modules; *p; p = &(*p)->next)
            if (*p == m) {
                *p = m->next;
                break;
            }
    for (uint32_t i = 0; i < m->image->nentries; i++)
        if (m->functions[i])
            sim_obj_free(SIM_FUNCTION, m->functions[i]);
    free(m->functions);
    free(m->addresses);
    sim_image_release(m->image);
    sim_obj_free(SIM_MODULE, m);
}

static CUresult load_module(CUmodule *module, struct sim_ctx *ctx, struct sim_image *image)
{
    struct sim_module *m;
    CUresult res = sim_module_instantiate(ctx, image, &m);
    sim_image_release(image);
    if (res == CUDA_SUCCESS)
        *module = (CUmodule)m;
    return res;
}

/* Options of the JIT that have an answer here: the error log. */
struct jit_log {
    char *buffer;
    size_t size;
    void **size_value;
};

static void find_log(unsigned n, const CUjit_option *options, void **values, struct jit_log *log)
{
    *log = (struct jit_log){0};
    for (unsigned i = 0; options && values && i < n; i++) {
        if (options[i] == CU_JIT_ERROR_LOG_BUFFER)
            log->buffer = values[i];
        if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) {
            log->size = (size_t)(uintptr_t)values[i];
            log->size_value = &values[i];
        }
        if (options[i] == CU_JIT_INFO_LOG_BUFFER && values[i])
            *(char *)values[i] = 0;
        if (options[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES)
            values[i] = NULL;
    }
}

CUresult sim_cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions, CUjit_option *options, void **optionValues)
{
    struct sim_ctx *ctx;
    struct sim_image *im;
    struct jit_log log;
    if (!module || !image)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_current(&ctx);
    if (res == CUDA_SUCCESS)
        res = sim_capture_unsafe();
    if (res != CUDA_SUCCESS)
        return res;
    find_log(numOptions, options, optionValues, &log);
    if (log.buffer && log.size)
        log.buffer[0] = 0;
    res = sim_image_load(image, &im, log.buffer, log.size);
    if (log.size_value)
        *log.size_value = (void *)(uintptr_t)(log.buffer && log.size ? strlen(log.buffer) : 0);
    return res == CUDA_SUCCESS ? load_module(module, ctx, im) : res;
}

CUresult sim_cuModuleLoadData(CUmodule *module, const void *image)
{
    return sim_cuModuleLoadDataEx(module, image, 0, NULL, NULL);
}

CUresult sim_cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
    return sim_cuModuleLoadDataEx(module, fatCubin, 0, NULL, NULL);
}

CUresult sim_read_file(const char *name, void **data, size_t *size)
{
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return CUDA_ERROR_FILE_NOT_FOUND;
    *data = slurp(fd, size);
    return *data ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_cuModuleLoad(CUmodule *module, const char *fname)
{
    void *data;
    size_t size;
    if (!module || !fname)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_read_file(fname, &data, &size);
    if (res != CUDA_SUCCESS)
        return res;
    res = size < 4 ? CUDA_ERROR_INVALID_IMAGE : sim_cuModuleLoadData(module, data);
    free(data);
    return res;
}

CUresult sim_cuModuleUnload(CUmodule hmod)
{
    struct sim_module *m = SIM_OBJ(SIM_MODULE, hmod);
    if (!m || m->library)
        return CUDA_ERROR_INVALID_HANDLE;
    CUresult res = sim_ctx_error(m->ctx);
    if (res == CUDA_SUCCESS)
        res = sim_capture_unsafe();
    if (res != CUDA_SUCCESS)
        return res;
    sim_module_drop(m, true);
    return CUDA_SUCCESS;
}

CUresult sim_cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
    if (!mode)
        return CUDA_ERROR_INVALID_VALUE;
    *mode = CU_MODULE_LAZY_LOADING;
    return CUDA_SUCCESS;
}

static CUresult module_resolve(CUmodule handle, struct sim_module **module)
{
    *module = SIM_OBJ(SIM_MODULE, handle);
    return *module ? sim_ctx_error((*module)->ctx) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult sim_cuModuleGetFunctionCount(unsigned int *count, CUmodule mod)
{
    struct sim_module *m;
    CUresult res = module_resolve(mod, &m);
    if (res == CUDA_SUCCESS && !count)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        *count = m->image->nentries;
    return res;
}

CUresult sim_cuModuleEnumerateFunctions(CUfunction *functions, unsigned int numFunctions, CUmodule mod)
{
    struct sim_module *m;
    CUresult res = module_resolve(mod, &m);
    if (res == CUDA_SUCCESS && (!functions || !numFunctions))
        res = CUDA_ERROR_INVALID_VALUE;
    for (uint32_t i = 0; res == CUDA_SUCCESS && i < m->image->nentries && i < numFunctions; i++) {
        struct sim_function *f;
        res = sim_module_function(m, i, &f);
        functions[i] = (CUfunction)f;
    }
    return res;
}

CUresult sim_cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name)
{
    struct sim_module *m;
    CUresult res = module_resolve(hmod, &m);
    if (res != CUDA_SUCCESS)
        return res;
    if (!name || (!dptr && !bytes))
        return CUDA_ERROR_INVALID_VALUE;
    for (uint32_t i = 0; i < m->image->nglobals; i++)
        if (strcmp(m->image->globals[i].name, name) == 0) {
            if (dptr)
                *dptr = m->addresses[i];
            if (bytes)
                *bytes = m->image->globals[i].size;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_NOT_FOUND;
}

/* ---- functions ---- */

static pthread_mutex_t function_lock = PTHREAD_MUTEX_INITIALIZER;

void sim_attributes_init(struct sim_attributes *attr)
{
    *attr = (struct sim_attributes){.max_dynamic = -1, .carveout = -1, .cache = CU_FUNC_CACHE_PREFER_NONE};
}

CUresult sim_module_function(struct sim_module *module, uint32_t entry, struct sim_function **function)
{
    pthread_mutex_lock(&function_lock);
    struct sim_function *f = module->functions[entry];
    if (!f && (f = sim_obj_new(SIM_FUNCTION))) {
        f->module = module;
        f->entry = entry;
        sim_attributes_init(&f->attr);
        if (module->library) /* attributes set on the kernel hold for its functions */
            f->attr = module->library->kernels[entry] ? module->library->kernels[entry]->attr : f->attr;
        module->functions[entry] = f;
    }
    pthread_mutex_unlock(&function_lock);
    *function = f;
    return f ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

struct sim_entry *sim_function_entry(const struct sim_function *f)
{
    return &f->module->image->entries[f->entry];
}

CUresult sim_cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
    struct sim_module *m;
    struct sim_function *f;
    CUresult res = module_resolve(hmod, &m);
    if (res != CUDA_SUCCESS)
        return res;
    if (!hfunc || !name)
        return CUDA_ERROR_INVALID_VALUE;
    for (uint32_t i = 0; i < m->image->nentries; i++)
        if (strcmp(m->image->entries[i].name, name) == 0) {
            res = sim_module_function(m, i, &f);
            *hfunc = (CUfunction)f;
            return res;
        }
    return CUDA_ERROR_NOT_FOUND;
}

CUresult sim_function_resolve(CUfunction handle, struct sim_ctx *ctx, struct sim_function **function)
{
    struct sim_function *f = SIM_OBJ(SIM_FUNCTION, handle);
    if (f) {
        *function = f;
        return ctx && f->module->ctx != ctx ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
    }
    struct sim_kernel *k = SIM_OBJ(SIM_KERNEL, handle);
    struct sim_module *m;
    if (!k)
        return CUDA_ERROR_INVALID_HANDLE;
    CUresult res = CUDA_SUCCESS;
    if (!ctx)
        res = sim_ctx_current(&ctx);
    if (res == CUDA_SUCCESS)
        res = sim_library_module(k->library, ctx, &m);
    return res == CUDA_SUCCESS ? sim_module_function(m, k->entry, function) : res;
}

CUresult sim_attribute_get(const struct sim_entry *e, const struct sim_attributes *a, int *value, CUfunction_attribute attribute)
{
    int dynamic = 49152 - (int)e->shared;
    switch ((int)attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = (int)e->max_threads;
        break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        *value = (int)e->shared;
        break;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
        *value = 0;
        break;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
        *value = (int)e->local;
        break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *value = (int)e->regs;
        break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *value = 90;
        break;
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
        *value = 0;
        break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *value = a->max_dynamic >= 0 ? a->max_dynamic : dynamic > 0 ? dynamic : 0;
        break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        *value = a->carveout;
        break;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET:
        *value = 0;
        break;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
        *value = a->cluster_w;
        break;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
        *value = a->cluster_h;
        break;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
        *value = a->cluster_d;
        break;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        *value = a->non_portable;
        break;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        *value = a->policy;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult sim_attribute_set(const struct sim_entry *e, struct sim_attributes *a, CUfunction_attribute attribute, int value)
{
    switch ((int)attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        if (value < 0 || value > 232448 - (int)e->shared)
            return CUDA_ERROR_INVALID_VALUE;
        a->max_dynamic = value;
        break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        if (value < -1 || value > 100)
            return CUDA_ERROR_INVALID_VALUE;
        a->carveout = value;
        break;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
        a->cluster_w = value;
        break;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
        a->cluster_h = value;
        break;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
        a->cluster_d = value;
        break;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        a->non_portable = value != 0;
        break;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        a->policy = value;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

/* A function handle of any context, or a kernel. */
static CUresult any_function(CUfunction handle, struct sim_entry **e, struct sim_attributes **a)
{
    struct sim_function *f;
    CUresult res = sim_function_resolve(handle, NULL, &f);
    if (res != CUDA_SUCCESS)
        return res;
    *e = sim_function_entry(f);
    *a = &f->attr;
    return sim_ctx_error(f->module->ctx);
}

CUresult sim_cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc)
{
    struct sim_entry *e;
    struct sim_attributes *a;
    CUresult res = any_function(hfunc, &e, &a);
    if (res == CUDA_SUCCESS && !pi)
        res = CUDA_ERROR_INVALID_VALUE;
    return res == CUDA_SUCCESS ? sim_attribute_get(e, a, pi, attrib) : res;
}

CUresult sim_cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
{
    struct sim_entry *e;
    struct sim_attributes *a;
    CUresult res = any_function(hfunc, &e, &a);
    return res == CUDA_SUCCESS ? sim_attribute_set(e, a, attrib, value) : res;
}

CUresult sim_cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config)
{
    struct sim_entry *e;
    struct sim_attributes *a;
    CUresult res = any_function(hfunc, &e, &a);
    if (res == CUDA_SUCCESS)
        a->cache = config;
    return res;
}

CUresult sim_cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig config)
{
    struct sim_entry *e;
    struct sim_attributes *a;
    (void)config;
    return any_function(hfunc, &e, &a);
}

CUresult sim_cuFuncGetModule(CUmodule *hmod, CUfunction hfunc)
{
    struct sim_function *f;
    CUresult res = sim_function_resolve(hfunc, NULL, &f);
    if (res == CUDA_SUCCESS && !hmod)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        *hmod = (CUmodule)f->module;
    return res;
}

CUresult sim_cuFuncGetName(const char **name, CUfunction hfunc)
{
    struct sim_entry *e;
    struct sim_attributes *a;
    CUresult res = any_function(hfunc, &e, &a);
    if (res == CUDA_SUCCESS && !name)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        *name = e->name;
    return res;
}

CUresult sim_cuFuncGetParamInfo(CUfunction func, size_t paramIndex, size_t *paramOffset, size_t *paramSize)
{
    struct sim_entry *e;
    struct sim_attributes *a;
    CUresult res = any_function(func, &e, &a);
    if (res == CUDA_SUCCESS && (!paramOffset || paramIndex >= e->nparams))
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS) {
        *paramOffset = e->offset[paramIndex];
        if (paramSize)
            *paramSize = e->size[paramIndex];
    }
    return res;
}

CUresult sim_cuFuncLoad(CUfunction function)
{
    struct sim_entry *e;
    struct sim_attributes *a;
    return any_function(function, &e, &a);
}

CUresult sim_cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function)
{
    struct sim_entry *e;
    struct sim_attributes *a;
    CUresult res = any_function(function, &e, &a);
    if (res == CUDA_SUCCESS && !state)
        res = CUDA_ERROR_INVALID_VALUE;
    if (res == CUDA_SUCCESS)
        *state = CU_FUNCTION_LOADING_STATE_LOADED;
    return res;
}
