/* library.c: libraries and kernels, which belong to no context; a module of
 * the library is made in each context on first use. Also the linker, for PTX. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

static pthread_mutex_t library_lock = PTHREAD_MUTEX_INITIALIZER;

static CUresult library_new(CUlibrary *library, struct sim_image *image)
{
    struct sim_library *l = sim_obj_new(SIM_LIBRARY);
    struct sim_kernel **kernels = calloc(image->nentries + 1, sizeof(struct sim_kernel *));
    if (!l || !kernels) {
        free(kernels);
        if (l)
            sim_obj_free(SIM_LIBRARY, l);
        sim_image_release(image);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    l->image = image;
    l->modules = NULL;
    l->kernels = kernels;
    *library = (CUlibrary)l;
    return CUDA_SUCCESS;
}

CUresult sim_cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions, void **jitOptionsValues, unsigned int numJitOptions,
                               CUlibraryOption *libraryOptions, void **libraryOptionValues, unsigned int numLibraryOptions)
{
    struct sim_image *image;
    char *log = NULL;
    size_t log_size = 0;
    (void)libraryOptions;
    (void)libraryOptionValues;
    (void)numLibraryOptions;
    if (!library || !code)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; jitOptions && jitOptionsValues && i < numJitOptions; i++) {
        if (jitOptions[i] == CU_JIT_ERROR_LOG_BUFFER)
            log = jitOptionsValues[i];
        if (jitOptions[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
            log_size = (size_t)(uintptr_t)jitOptionsValues[i];
    }
    CUresult res = sim_image_load(code, &image, log, log_size);
    return res == CUDA_SUCCESS ? library_new(library, image) : res;
}

CUresult sim_cuLibraryLoadFromFile(CUlibrary *library, const char *fileName, CUjit_option *jitOptions, void **jitOptionsValues,
                                   unsigned int numJitOptions, CUlibraryOption *libraryOptions, void **libraryOptionValues,
                                   unsigned int numLibraryOptions)
{
    void *data;
    size_t size;
    if (!library || !fileName)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_read_file(fileName, &data, &size);
    if (res != CUDA_SUCCESS)
        return res;
    res = size < 4 ? CUDA_ERROR_INVALID_IMAGE
                   : sim_cuLibraryLoadData(library, data, jitOptions, jitOptionsValues, numJitOptions, libraryOptions, libraryOptionValues,
                                           numLibraryOptions);
    free(data);
    return res;
}

CUresult sim_cuLibraryUnload(CUlibrary library)
{
    struct sim_library *l = SIM_OBJ(SIM_LIBRARY, library);
    if (!l)
        return CUDA_ERROR_INVALID_HANDLE;
    while (l->modules)
        sim_module_drop(l->modules, true);
    for (uint32_t i = 0; i < l->image->nentries; i++)
        if (l->kernels[i])
            sim_obj_free(SIM_KERNEL, l->kernels[i]);
    free(l->kernels);
    sim_image_release(l->image);
    sim_obj_free(SIM_LIBRARY, l);
    return CUDA_SUCCESS;
}

CUresult sim_library_module(struct sim_library *library, struct sim_ctx *ctx, struct sim_module **module)
{
    CUresult res = CUDA_SUCCESS;
    pthread_mutex_lock(&library_lock);
    struct sim_module *m = library->modules;
    while (m && m->ctx != ctx)
        m = m->next;
    if (!m && (res = sim_module_instantiate(ctx, library->image, &m)) == CUDA_SUCCESS) {
        m->library = library;
        m->next = library->modules;
        library->modules = m;
    }
    pthread_mutex_unlock(&library_lock);
    *module = m;
    return res;
}

static CUresult kernel_new(struct sim_library *l, uint32_t entry, CUkernel *out)
{
    pthread_mutex_lock(&library_lock);
    struct sim_kernel *k = l->kernels[entry];
    if (!k && (k = sim_obj_new(SIM_KERNEL))) {
        k->library = l;
        k->entry = entry;
        sim_attributes_init(&k->attr);
        l->kernels[entry] = k;
    }
    pthread_mutex_unlock(&library_lock);
    *out = (CUkernel)k;
    return k ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name)
{
    struct sim_library *l = SIM_OBJ(SIM_LIBRARY, library);
    if (!l)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!pKernel || !name)
        return CUDA_ERROR_INVALID_VALUE;
    for (uint32_t i = 0; i < l->image->nentries; i++)
        if (strcmp(l->image->entries[i].name, name) == 0)
            return kernel_new(l, i, pKernel);
    return CUDA_ERROR_NOT_FOUND;
}

CUresult sim_cuLibraryGetKernelCount(unsigned int *count, CUlibrary lib)
{
    struct sim_library *l = SIM_OBJ(SIM_LIBRARY, lib);
    if (!l)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!count)
        return CUDA_ERROR_INVALID_VALUE;
    *count = l->image->nentries;
    return CUDA_SUCCESS;
}

CUresult sim_cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int numKernels, CUlibrary lib)
{
    struct sim_library *l = SIM_OBJ(SIM_LIBRARY, lib);
    CUresult res = CUDA_SUCCESS;
    if (!l)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!kernels || !numKernels)
        return CUDA_ERROR_INVALID_VALUE;
    for (uint32_t i = 0; res == CUDA_SUCCESS && i < l->image->nentries && i < numKernels; i++)
        res = kernel_new(l, i, &kernels[i]);
    return res;
}

CUresult sim_cuLibraryGetModule(CUmodule *pMod, CUlibrary library)
{
    struct sim_library *l = SIM_OBJ(SIM_LIBRARY, library);
    struct sim_ctx *ctx;
    struct sim_module *m;
    if (!l)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!pMod)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_ctx_current(&ctx);
    if (res == CUDA_SUCCESS)
        res = sim_library_module(l, ctx, &m);
    if (res == CUDA_SUCCESS)
        *pMod = (CUmodule)m;
    return res;
}

CUresult sim_cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name)
{
    CUmodule m;
    CUresult res = sim_cuLibraryGetModule(&m, library);
    return res == CUDA_SUCCESS ? sim_cuModuleGetGlobal_v2(dptr, bytes, m, name) : res;
}

CUresult sim_cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name)
{
    if (!SIM_OBJ(SIM_LIBRARY, library))
        return CUDA_ERROR_INVALID_HANDLE;
    if (!name || (!dptr && !bytes))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_ERROR_NOT_FOUND; /* managed variables are not told from others */
}

CUresult sim_cuLibraryGetUnifiedFunction(void **fptr, CUlibrary library, const char *symbol)
{
    if (!SIM_OBJ(SIM_LIBRARY, library))
        return CUDA_ERROR_INVALID_HANDLE;
    return fptr && symbol ? CUDA_ERROR_NOT_FOUND : CUDA_ERROR_INVALID_VALUE; /* UNIFIED_FUNCTION_POINTERS is 0 */
}

/* ---- kernels ---- */

struct sim_entry *sim_kernel_entry(const struct sim_kernel *k)
{
    return &k->library->image->entries[k->entry];
}

CUresult sim_cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel)
{
    struct sim_function *f;
    if (!pFunc)
        return CUDA_ERROR_INVALID_VALUE;
    if (!SIM_OBJ(SIM_KERNEL, kernel))
        return CUDA_ERROR_INVALID_HANDLE;
    CUresult res = sim_function_resolve((CUfunction)kernel, NULL, &f);
    if (res == CUDA_SUCCESS)
        *pFunc = (CUfunction)f;
    return res;
}

CUresult sim_cuKernelGetLibrary(CUlibrary *pLib, CUkernel kernel)
{
    struct sim_kernel *k = SIM_OBJ(SIM_KERNEL, kernel);
    if (!k)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!pLib)
        return CUDA_ERROR_INVALID_VALUE;
    *pLib = (CUlibrary)k->library;
    return CUDA_SUCCESS;
}

CUresult sim_cuKernelGetName(const char **name, CUkernel hfunc)
{
    struct sim_kernel *k = SIM_OBJ(SIM_KERNEL, hfunc);
    if (!k)
        return sim_cuFuncGetName(name, (CUfunction)hfunc);
    if (!name)
        return CUDA_ERROR_INVALID_VALUE;
    *name = sim_kernel_entry(k)->name;
    return CUDA_SUCCESS;
}

CUresult sim_cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t *paramOffset, size_t *paramSize)
{
    struct sim_kernel *k = SIM_OBJ(SIM_KERNEL, kernel);
    if (!k)
        return CUDA_ERROR_INVALID_HANDLE;
    const struct sim_entry *e = sim_kernel_entry(k);
    if (!paramOffset || paramIndex >= e->nparams)
        return CUDA_ERROR_INVALID_VALUE;
    *paramOffset = e->offset[paramIndex];
    if (paramSize)
        *paramSize = e->size[paramIndex];
    return CUDA_SUCCESS;
}

/* dev only selects among per-device settings on a real driver; here all devices are alike. */
CUresult sim_cuKernelGetAttribute(int *pi, CUfunction_attribute attrib, CUkernel kernel, CUdevice dev)
{
    struct sim_kernel *k = SIM_OBJ(SIM_KERNEL, kernel);
    if (!k)
        return CUDA_ERROR_INVALID_HANDLE;
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    return pi ? sim_attribute_get(sim_kernel_entry(k), &k->attr, pi, attrib) : CUDA_ERROR_INVALID_VALUE;
}

CUresult sim_cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel, CUdevice dev)
{
    struct sim_kernel *k = SIM_OBJ(SIM_KERNEL, kernel);
    if (!k)
        return CUDA_ERROR_INVALID_HANDLE;
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    CUresult res = sim_attribute_set(sim_kernel_entry(k), &k->attr, attrib, val);
    if (res != CUDA_SUCCESS)
        return res;
    pthread_mutex_lock(&library_lock);
    for (struct sim_module *m = k->library->modules; m; m = m->next)
        if (m->functions[k->entry])
            sim_attribute_set(sim_kernel_entry(k), &m->functions[k->entry]->attr, attrib, val);
    pthread_mutex_unlock(&library_lock);
    return CUDA_SUCCESS;
}

CUresult sim_cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice dev)
{
    struct sim_kernel *k = SIM_OBJ(SIM_KERNEL, kernel);
    if (!k)
        return CUDA_ERROR_INVALID_HANDLE;
    if (dev < 0 || dev >= sim_device_count)
        return CUDA_ERROR_INVALID_DEVICE;
    k->attr.cache = config;
    return CUDA_SUCCESS;
}

/* ---- the linker: PTX inputs, one after the other, become one image ---- */

struct sim_link {
    struct sim_obj obj;
    char *text;
    size_t len;
    char *log;
    size_t log_size;
};

static CUresult link_add(struct sim_link *l, const char *data, size_t size)
{
    while (size && data[size - 1] == 0)
        size--;
    char *bigger = realloc(l->text, l->len + size + 2);
    if (!bigger)
        return CUDA_ERROR_OUT_OF_MEMORY;
    l->text = bigger;
    memcpy(l->text + l->len, data, size);
    l->len += size;
    l->text[l->len++] = '\n';
    l->text[l->len] = 0;
    return CUDA_SUCCESS;
}

CUresult sim_cuLinkCreate_v2(unsigned int numOptions, CUjit_option *options, void **optionValues, CUlinkState *stateOut)
{
    if (!stateOut)
        return CUDA_ERROR_INVALID_VALUE;
    struct sim_link *l = sim_obj_new(SIM_LINK);
    if (!l)
        return CUDA_ERROR_OUT_OF_MEMORY;
    l->text = NULL;
    l->len = 0;
    l->log = NULL;
    l->log_size = 0;
    for (unsigned i = 0; options && optionValues && i < numOptions; i++) {
        if (options[i] == CU_JIT_ERROR_LOG_BUFFER)
            l->log = optionValues[i];
        if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
            l->log_size = (size_t)(uintptr_t)optionValues[i];
    }
    *stateOut = (CUlinkState)l;
    return CUDA_SUCCESS;
}

CUresult sim_cuLinkCreate(unsigned int numOptions, CUjit_option *options, void **optionValues, CUlinkState *stateOut)
{
    return sim_cuLinkCreate_v2(numOptions, options, optionValues, stateOut);
}

CUresult sim_cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data, size_t size, const char *name, unsigned int numOptions,
                              CUjit_option *options, void **optionValues)
{
    struct sim_link *l = SIM_OBJ(SIM_LINK, state);
    (void)name;
    (void)numOptions;
    (void)options;
    (void)optionValues;
    if (!l)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!data || !size)
        return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_JIT_INPUT_PTX) {
        sim_log("cuLinkAddData: only PTX can be linked, this input has type %d", (int)type);
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    return link_add(l, data, size);
}

CUresult sim_cuLinkAddData(CUlinkState state, CUjitInputType type, void *data, size_t size, const char *name, unsigned int numOptions,
                           CUjit_option *options, void **optionValues)
{
    return sim_cuLinkAddData_v2(state, type, data, size, name, numOptions, options, optionValues);
}

CUresult sim_cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char *path, unsigned int numOptions, CUjit_option *options,
                              void **optionValues)
{
    void *data;
    size_t size;
    if (!path)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_read_file(path, &data, &size);
    if (res != CUDA_SUCCESS)
        return res;
    res = sim_cuLinkAddData_v2(state, type, data, size, path, numOptions, options, optionValues);
    free(data);
    return res;
}

CUresult sim_cuLinkAddFile(CUlinkState state, CUjitInputType type, const char *path, unsigned int numOptions, CUjit_option *options, void **optionValues)
{
    return sim_cuLinkAddFile_v2(state, type, path, numOptions, options, optionValues);
}

/* The "cubin" is the PTX itself: whatever loads images takes it. */
CUresult sim_cuLinkComplete(CUlinkState state, void **cubinOut, size_t *sizeOut)
{
    struct sim_link *l = SIM_OBJ(SIM_LINK, state);
    struct sim_image *image;
    if (!l)
        return CUDA_ERROR_INVALID_HANDLE;
    if (!cubinOut || !l->text)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult res = sim_image_load_sized(l->text, l->len, &image, l->log, l->log_size);
    if (res != CUDA_SUCCESS)
        return res;
    sim_image_release(image);
    *cubinOut = l->text;
    if (sizeOut)
        *sizeOut = l->len + 1;
    return CUDA_SUCCESS;
}

CUresult sim_cuLinkDestroy(CUlinkState state)
{
    struct sim_link *l = SIM_OBJ(SIM_LINK, state);
    if (!l)
        return CUDA_ERROR_INVALID_HANDLE;
    free(l->text);
    l->text = NULL;
    sim_obj_free(SIM_LINK, l);
    return CUDA_SUCCESS;
}
