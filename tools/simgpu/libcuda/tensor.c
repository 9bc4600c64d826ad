/* tensor.c: tensor maps in tiled mode. The 128 bytes are this GPU's own (jit/interp/ops_tensor.go reads them): the
 * layout of the chip's is not public, and a program treats it as opaque. */
#include <string.h>

#include "sim.h"

#define MAGIC 0x314d5448u /* "HTM1" */

static unsigned element_bytes(CUtensorMapDataType type)
{
    switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
        return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
        return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ:
        return 4;
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
        return 8;
    default:
        return 0;
    }
}

static int is_float(CUtensorMapDataType type)
{
    return type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32
        || type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ || type == CU_TENSOR_MAP_DATA_TYPE_TFLOAT32 || type == CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ
        || type == CU_TENSOR_MAP_DATA_TYPE_FLOAT64;
}

static void put(unsigned char *to, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        to[i] = (unsigned char)(v >> 8 * i);
}

/* The rules are those of cuda.h. Valid maps that the interpreter cannot execute (packed types of 4 and 6 bits, interleaved
 * layouts, the swizzles by atoms of 32 and 64 bytes) are not supported. */
CUresult sim_cuTensorMapEncodeTiled(CUtensorMap *tensorMap, CUtensorMapDataType tensorDataType, cuuint32_t tensorRank, void *globalAddress,
                                    const cuuint64_t *globalDim, const cuuint64_t *globalStrides, const cuuint32_t *boxDim,
                                    const cuuint32_t *elementStrides, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                    CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill)
{
    const unsigned spans[] = {0, 32, 64, 128};
    unsigned elem = element_bytes(tensorDataType);
    if (!tensorMap || (uintptr_t)tensorMap % 64 || tensorRank < 1 || tensorRank > 5 || !globalDim || !boxDim || !elementStrides
        || (tensorRank > 1 && !globalStrides) || (uintptr_t)globalAddress % 16 || (unsigned)tensorDataType > CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B
        || (unsigned)interleave > CU_TENSOR_MAP_INTERLEAVE_32B || (unsigned)swizzle > CU_TENSOR_MAP_SWIZZLE_128B_ATOM_64B
        || (unsigned)l2Promotion > CU_TENSOR_MAP_L2_PROMOTION_L2_256B || (unsigned)oobFill > CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA)
        return CUDA_ERROR_INVALID_VALUE;
    if (elem == 0 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || (unsigned)swizzle >= sizeof spans / sizeof *spans)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (oobFill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE && !is_float(tensorDataType))
        return CUDA_ERROR_INVALID_VALUE;
    unsigned inner = boxDim[0] * elem;
    if (boxDim[0] > 256 || inner % 16 || (spans[swizzle] && inner > spans[swizzle]))
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < tensorRank; i++) {
        if (globalDim[i] < 1 || globalDim[i] > 1ull << 32 || boxDim[i] < 1 || boxDim[i] > 256 || elementStrides[i] < 1 || elementStrides[i] > 8)
            return CUDA_ERROR_INVALID_VALUE;
        if (i > 0 && (globalStrides[i - 1] % 16 || globalStrides[i - 1] >= 1ull << 40))
            return CUDA_ERROR_INVALID_VALUE;
    }
    unsigned char *b = (unsigned char *)tensorMap;
    memset(b, 0, sizeof *tensorMap);
    put(b, MAGIC, 4);
    b[4] = (unsigned char)elem;
    b[5] = (unsigned char)tensorRank;
    b[6] = (unsigned char)spans[swizzle];
    b[7] = (unsigned char)((oobFill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) | (tensorDataType == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16) << 1);
    put(b + 8, (uintptr_t)globalAddress, 8);
    for (unsigned i = 0; i < tensorRank; i++) {
        /* Of a box every step-th element is copied; the innermost dimension has no step without interleaving. */
        unsigned step = i == 0 ? 1 : elementStrides[i];
        put(b + 16 + 4 * i, globalDim[i] - 1, 4);
        put(b + 36 + 2 * i, (boxDim[i] + step - 1) / step, 2);
        b[46 + i] = (unsigned char)step;
        if (i > 0)
            put(b + 56 + 8 * (i - 1), globalStrides[i - 1], 8);
    }
    return CUDA_SUCCESS;
}

/* Gives an existing map another tensor of the same shape. */
CUresult sim_cuTensorMapReplaceAddress(CUtensorMap *tensorMap, void *globalAddress)
{
    unsigned char *b = (unsigned char *)tensorMap;
    uint32_t magic = 0;
    if (!tensorMap || (uintptr_t)tensorMap % 64 || (uintptr_t)globalAddress % 16)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&magic, b, sizeof magic);
    if (magic != MAGIC)
        return CUDA_ERROR_INVALID_VALUE;
    put(b + 8, (uintptr_t)globalAddress, 8);
    return CUDA_SUCCESS;
}
