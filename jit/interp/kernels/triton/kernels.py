"""Triton kernels of the corpus, in the forms in which people and torch.compile write them.

    python3 -m venv /tmp/triton && /tmp/triton/bin/pip install 'triton==3.6.*'
    /tmp/triton/bin/python kernels.py [name …]       # no GPU needed

writes NAME.TARGET.ptx beside itself, each with a line that says how to launch it
(../kernels.go explains it). The results are checked in, because tests run without
Triton. PTX is of version 8.7, which every driver since CUDA 12.8 takes.
"""
import os
import re
import sys

os.environ.setdefault("TRITON_CACHE_DIR", "/tmp/heddle-triton-cache")

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

PTX_VERSION = 87
JOBS = []


def job(name, fn, sig, grid, launch, archs=(80,), warps=4, stages=3, lines=False, debug=False, after="", **const):
    """One kernel: sig maps arguments to types, launch is the rest of its descriptor (data in the order of sig). lines keeps
    what Triton gives by default and takes most of the space: comments, line tables and debug sections; debug keeps assertions. after is what
    the descriptor has behind Triton's hidden parameters."""
    JOBS.append((name, fn, sig, grid, launch, archs, warps, stages, lines, debug, after, const))


# ---- elementwise

@triton.jit
def vadd(x, y, o, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    m = i < n
    tl.store(o + i, tl.load(x + i, mask=m) + tl.load(y + i, mask=m), mask=m)


V3 = dict(x="*fp32", y="*fp32", o="*fp32", n="i32")
job("triton_vadd", vadd, V3, "4", "in:f32:4000:wide in:f32:4000:wide out:f32:4000 i32=2900..4000", (75, 80, 90, 100), B=1024)
job("triton_vadd_lines", vadd, V3, "4", "in:f32:4000:wide in:f32:4000:wide out:f32:4000 i32=2900..4000", (80, 90), lines=True, B=1024)
job("triton_vadd_16k", vadd, V3, "16", "in:f32:16384:wide in:f32:16384:wide out:f32:16384 i32=16384", (80, 90), B=1024)
job("triton_vadd_small", vadd, V3, "5", "in:f32:320:wide in:f32:320:wide out:f32:320 i32=257..320", (75,), warps=1, B=64)
job("triton_vadd_f16", vadd, dict(x="*fp16", y="*fp16", o="*fp16", n="i32"), "3", "in:f16:3000:unit in:f16:3000:unit out:f16:3000 i32=2100..3000", (75, 90), B=1024)
job("triton_vadd_i64", vadd, dict(x="*i64", y="*i64", o="*i64", n="i64"), "3", "in:s64:700:bits in:s64:700:bits out:s64:700 s64=520..700", (80,), B=256)


@triton.jit
def relu_gelu(x, o, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    m = i < n
    v = tl.load(x + i, mask=m)
    g = v * 0.5 * (1.0 + tl.erf(v * 0.7071067811865476))
    tl.store(o + i, tl.where(v > 0, g, v * 0.01), mask=m)


job("triton_gelu_erf", relu_gelu, dict(x="*fp32", o="*fp32", n="i32"), "4", "in:f32:2000:unit out:f32:2000 i32=1600..2000", (75, 80, 90, 100), B=512)


@triton.jit
def gelu_tanh(x, o, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    m = i < n
    v = tl.load(x + i, mask=m).to(tl.float32)
    u = 0.7978845608028654 * (v + 0.044715 * v * v * v)
    t = 1.0 - 2.0 / (tl.exp(2.0 * u) + 1.0)
    tl.store(o + i, (0.5 * v * (1.0 + t)).to(o.dtype.element_ty), mask=m)


job("triton_gelu_tanh_f16", gelu_tanh, dict(x="*fp16", o="*fp16", n="i32"), "4", "in:f16:2048:unit out:f16:2048 i32=1700..2048", (75, 90), B=512)
job("triton_gelu_tanh_bf16", gelu_tanh, dict(x="*bf16", o="*bf16", n="i32"), "4", "in:bf16:2048:unit out:bf16:2048 i32=1700..2048", (80, 90, 100), B=512)


@triton.jit
def relu_inplace(x, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    m = i < n
    v = tl.load(x + i, mask=m)
    tl.store(x + i, tl.maximum(v, 0.0), mask=m)


job("triton_relu_inplace", relu_inplace, dict(x="*fp32", n="i32"), "4", "io:f32:2000:unit i32=1600..2000", (80,), B=512)


@triton.jit
def bias_residual(x, bias, res, o, n, cols, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    m = i < n
    v = tl.load(x + i, mask=m) + tl.load(bias + i % cols, mask=m) + tl.load(res + i, mask=m)
    tl.store(o + i, tl.maximum(v, 0.0), mask=m)


job("triton_bias_residual", bias_residual, dict(x="*fp32", bias="*fp32", res="*fp32", o="*fp32", n="i32", cols="i32"), "6",
    "in:f32:3072:unit in:f32:96:unit in:f32:3072:unit out:f32:3072 i32=2700..3072 i32=64..96", (75, 80, 90), B=512)


@triton.jit
def silu_mul(g, u, o, n, B: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    m = i < n
    a = tl.load(g + i, mask=m).to(tl.float32)
    b = tl.load(u + i, mask=m).to(tl.float32)
    tl.store(o + i, (a * tl.sigmoid(a) * b).to(tl.bfloat16), mask=m)


job("triton_silu_mul", silu_mul, dict(g="*bf16", u="*bf16", o="*bf16", n="i32"), "4", "in:bf16:2048:unit in:bf16:2048:unit out:bf16:2048 i32=1600..2048", (80, 90), B=512)


@triton.jit
def where_clamp(x, o, lo, hi, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    m = i < n
    v = tl.load(x + i, mask=m, other=0)
    tl.store(o + i, tl.where((v & 1) == 0, tl.minimum(tl.maximum(v, lo), hi), -v), mask=m)


job("triton_clamp_i32", where_clamp, dict(x="*i32", o="*i32", lo="i32", hi="i32", n="i32"), "4", "in:s32:1000:bits out:s32:1000 i32=-900..-5 i32=7..900 i32=800..1000", (75,), B=256)


@triton.jit
def cast_scale(x, o, s, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    m = i < n
    v = tl.load(x + i, mask=m) * tl.load(s)
    tl.store(o + i, tl.minimum(tl.maximum(v, -127.0), 127.0).to(tl.int8), mask=m)


job("triton_quantise", cast_scale, dict(x="*fp32", o="*i8", s="*fp32", n="i32"), "4", "in:f32:2048:wide out:s8:2048 in:f32:1:unit i32=1600..2048", (80, 90), B=512)


@triton.jit
def rope(q, cos, sin, o, D: tl.constexpr, H: tl.constexpr):
    t = tl.program_id(0)
    h = tl.program_id(1)
    i = tl.arange(0, D // 2)
    base = (t * H + h) * D
    a = tl.load(q + base + i)
    b = tl.load(q + base + D // 2 + i)
    c = tl.load(cos + t * (D // 2) + i)
    s = tl.load(sin + t * (D // 2) + i)
    tl.store(o + base + i, a * c - b * s)
    tl.store(o + base + D // 2 + i, b * c + a * s)


job("triton_rope", rope, dict(q="*fp32", cos="*fp32", sin="*fp32", o="*fp32"), "6,4", "in:f32:1536:unit in:f32:192:unit in:f32:192:unit out:f32:1536", (80, 90), warps=1, D=64, H=4)


# ---- what torch.compile (inductor) emits, in form: flat index arithmetic, xnumel, in_out_ptr, eviction hints

@triton.jit
def poi_fused_add_relu(in_out_ptr0, in_ptr0, in_ptr1, xnumel, XBLOCK: tl.constexpr):
    xoffset = tl.program_id(0) * XBLOCK
    xindex = xoffset + tl.arange(0, XBLOCK)[:]
    xmask = xindex < xnumel
    x2 = xindex
    x0 = xindex % 48
    tmp0 = tl.load(in_out_ptr0 + (x2), xmask)
    tmp1 = tl.load(in_ptr0 + (x0), xmask, eviction_policy="evict_last")
    tmp3 = tl.load(in_ptr1 + (x2), xmask)
    tmp2 = tmp0 + tmp1
    tmp4 = tmp2 + tmp3
    tmp5 = tl.full([1], 0, tl.int32)
    tmp6 = tl.where(tmp5 > tmp4, tmp5.to(tl.float32), tmp4)
    tl.store(in_out_ptr0 + (x2), tmp6, xmask)


job("triton_poi_add_relu", poi_fused_add_relu, dict(in_out_ptr0="*fp32", in_ptr0="*fp32", in_ptr1="*fp32", xnumel="i32"), "12",
    "io:f32:3072:unit in:f32:48:unit in:f32:3072:unit i32=2900..3072", (80, 90, 100), XBLOCK=256)


@triton.jit
def per_fused_layer_norm(in_ptr0, in_ptr1, in_ptr2, out_ptr0, xnumel, rnumel, XBLOCK: tl.constexpr, RBLOCK: tl.constexpr):
    xoffset = tl.program_id(0) * XBLOCK
    xindex = xoffset + tl.arange(0, XBLOCK)[:, None]
    xmask = xindex < xnumel
    rindex = tl.arange(0, RBLOCK)[None, :]
    rmask = rindex < rnumel
    r1 = rindex
    x0 = xindex
    tmp0 = tl.load(in_ptr0 + (r1 + rnumel * x0), rmask & xmask, other=0.0)
    tmp1 = tl.broadcast_to(tmp0, [XBLOCK, RBLOCK])
    tmp3 = tl.where(rmask & xmask, tmp1, 0)
    tmp6 = tl.sum(tmp3, 1)[:, None] / rnumel
    tmp13 = tmp1 - tmp6
    tmp16 = tl.where(rmask & xmask, tmp13 * tmp13, 0)
    tmp18 = tl.sum(tmp16, 1)[:, None] / rnumel
    tmp23 = tl.rsqrt(tmp18 + 1e-5)
    tmp25 = tmp13 * tmp23 * tl.load(in_ptr1 + (r1), rmask, eviction_policy="evict_last", other=0.0)
    tmp27 = tmp25 + tl.load(in_ptr2 + (r1), rmask, eviction_policy="evict_last", other=0.0)
    tl.store(out_ptr0 + (r1 + rnumel * x0), tmp27, rmask & xmask)


job("triton_per_layer_norm", per_fused_layer_norm, dict(in_ptr0="*fp32", in_ptr1="*fp32", in_ptr2="*fp32", out_ptr0="*fp32", xnumel="i32", rnumel="i32"), "3",
    "in:f32:2112:unit in:f32:192:unit in:f32:192:unit out:f32:2112 i32=9..11 i32=150..192", (80, 90), XBLOCK=4, RBLOCK=256)


@triton.jit
def red_fused_mean(in_ptr0, out_ptr0, xnumel, rnumel, XBLOCK: tl.constexpr, RBLOCK: tl.constexpr):
    xoffset = tl.program_id(0) * XBLOCK
    xindex = xoffset + tl.arange(0, XBLOCK)[:, None]
    xmask = xindex < xnumel
    rbase = tl.arange(0, RBLOCK)[None, :]
    acc = tl.full([XBLOCK, RBLOCK], 0, tl.float32)
    for roffset in range(0, rnumel, RBLOCK):
        rindex = roffset + rbase
        rmask = rindex < rnumel
        v = tl.load(in_ptr0 + (rindex + rnumel * xindex), rmask & xmask, eviction_policy="evict_first", other=0.0)
        acc = tl.where(rmask & xmask, acc + v, acc)
    s = tl.sum(acc, 1)[:, None]
    tl.store(out_ptr0 + xindex, s / rnumel, xmask)


job("triton_red_mean", red_fused_mean, dict(in_ptr0="*fp32", out_ptr0="*fp32", xnumel="i32", rnumel="i32"), "4",
    "in:f32:2560:unit out:f32:16 i32=12..16 i32=100..160", (75, 80, 90), warps=2, XBLOCK=4, RBLOCK=64)


@triton.jit
def poi_max_pool(in_ptr0, out_ptr0, out_ptr1, xnumel, W: tl.constexpr, XBLOCK: tl.constexpr):
    x = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)
    m = x < xnumel
    c = x % (W // 2)
    r = x // (W // 2)
    p = in_ptr0 + 2 * c + 2 * W * r
    best = tl.load(p, m)
    at = tl.zeros([XBLOCK], tl.int8)
    for k in tl.static_range(1, 4):
        v = tl.load(p + (k % 2) + (k // 2) * W, m)
        at = tl.where(v > best, k, at).to(tl.int8)
        best = tl.maximum(v, best)
    tl.store(out_ptr0 + x, best, m)
    tl.store(out_ptr1 + x, at, m)


job("triton_poi_max_pool", poi_max_pool, dict(in_ptr0="*fp32", out_ptr0="*fp32", out_ptr1="*i8", xnumel="i32"), "4",
    "in:f32:2048:unit out:f32:512 out:s8:512 i32=400..512", (80,), warps=2, W=64, XBLOCK=128)


# ---- rows

@triton.jit
def softmax(o, x, n, B: tl.constexpr):
    r = tl.program_id(0)
    i = tl.arange(0, B)
    m = i < n
    v = tl.load(x + r * n + i, mask=m, other=-float("inf"))
    v = v - tl.max(v, axis=0)
    e = tl.exp(v)
    tl.store(o + r * n + i, e / tl.sum(e, axis=0), mask=m)


S2 = dict(o="*fp32", x="*fp32", n="i32")
job("triton_softmax", softmax, S2, "6", "out:f32:3072 in:f32:3072:unit i32=400..512", (75, 80, 90, 100), B=512)
job("triton_softmax_64x512", softmax, S2, "64", "out:f32:32768 in:f32:32768:wide i32=512", (80, 90), B=512)
job("triton_softmax_warp", softmax, S2, "9", "out:f32:576 in:f32:576:unit i32=33..64", (75,), warps=1, B=64)


job("triton_softmax_lines", softmax, S2, "6", "out:f32:3072 in:f32:3072:unit i32=400..512", (75, 90), lines=True, B=512)


@triton.jit
def log_softmax_loop(o, x, n, B: tl.constexpr):
    r = tl.program_id(0)
    top = tl.full([B], -float("inf"), tl.float32)
    for k in range(0, n, B):
        i = k + tl.arange(0, B)
        top = tl.maximum(top, tl.load(x + r * n + i, mask=i < n, other=-float("inf")))
    mx = tl.max(top, 0)
    acc = tl.zeros([B], tl.float32)
    for k in range(0, n, B):
        i = k + tl.arange(0, B)
        acc += tl.exp(tl.load(x + r * n + i, mask=i < n, other=-float("inf")) - mx)
    lse = tl.log(tl.sum(acc, 0)) + mx
    for k in range(0, n, B):
        i = k + tl.arange(0, B)
        tl.store(o + r * n + i, tl.load(x + r * n + i, mask=i < n) - lse, mask=i < n)


job("triton_log_softmax", log_softmax_loop, S2, "5", "out:f32:1500 in:f32:1500:unit i32=200..300", (80, 90), warps=2, B=128)


@triton.jit
def layernorm(o, x, w, n, eps, B: tl.constexpr):
    r = tl.program_id(0)
    i = tl.arange(0, B)
    m = i < n
    v = tl.load(x + r * n + i, mask=m, other=0.).to(tl.float32)
    mean = tl.sum(v, axis=0) / n
    d = tl.where(m, v - mean, 0.)
    var = tl.sum(d * d, axis=0) / n
    tl.store(o + r * n + i, (d / tl.sqrt(var + eps) * tl.load(w + i, mask=m)), mask=m)


LN = dict(o="*fp16", x="*fp16", w="*fp32", n="i32", eps="fp32")
job("triton_layernorm", layernorm, LN, "4", "out:f16:3072 in:f16:3072:unit in:f32:768:unit i32=700..768 f32=0.00001..0.001", (75, 80, 90, 100), B=1024)
job("triton_layernorm_64x768", layernorm, LN, "64", "out:f16:49152 in:f16:49152:unit in:f32:768:unit i32=768 f32=0.00001", (80, 90), B=1024)


@triton.jit
def rmsnorm(x, w, o, n, eps, B: tl.constexpr):
    r = tl.program_id(0)
    i = tl.arange(0, B)
    m = i < n
    v = tl.load(x + r * n + i, mask=m, other=0.).to(tl.float32)
    s = tl.rsqrt(tl.sum(v * v, 0) / n + eps)
    tl.store(o + r * n + i, (v * s * tl.load(w + i, mask=m).to(tl.float32)).to(o.dtype.element_ty), mask=m)


job("triton_rmsnorm", rmsnorm, dict(x="*bf16", w="*bf16", o="*bf16", n="i32", eps="fp32"), "5",
    "in:bf16:2560:unit in:bf16:512:unit out:bf16:2560 i32=400..512 f32=0.00001..0.001", (80, 90, 100), B=512)
job("triton_rmsnorm_f32", rmsnorm, dict(x="*fp32", w="*fp32", o="*fp32", n="i32", eps="fp32"), "5",
    "in:f32:1280:unit in:f32:256:unit out:f32:1280 i32=200..256 f32=0.00001..0.001", (75,), warps=2, B=256)


@triton.jit
def groupnorm(x, o, per, G: tl.constexpr, B: tl.constexpr):
    n = tl.program_id(0)
    g = tl.program_id(1)
    i = tl.arange(0, B)
    m = i < per
    base = (n * G + g) * per
    v = tl.load(x + base + i, mask=m, other=0.0)
    mean = tl.sum(v, 0) / per
    d = tl.where(m, v - mean, 0.0)
    tl.store(o + base + i, d * tl.rsqrt(tl.sum(d * d, 0) / per + 1e-5), mask=m)


job("triton_groupnorm", groupnorm, dict(x="*fp32", o="*fp32", per="i32"), "3,4", "in:f32:3072:unit out:f32:3072 i32=180..256", (80,), warps=2, G=4, B=256)


@triton.jit
def cross_entropy(x, label, loss, grad, n, B: tl.constexpr):
    r = tl.program_id(0)
    i = tl.arange(0, B)
    m = i < n
    v = tl.load(x + r * n + i, mask=m, other=-float("inf"))
    y = tl.load(label + r)
    mx = tl.max(v, 0)
    e = tl.exp(v - mx)
    s = tl.sum(e, 0)
    tl.store(loss + r, tl.log(s) + mx - tl.load(x + r * n + y))
    tl.store(grad + r * n + i, e / s - (i == y).to(tl.float32), mask=m)


job("triton_cross_entropy", cross_entropy, dict(x="*fp32", label="*i64", loss="*fp32", grad="*fp32", n="i32"), "6",
    "in:f32:1536:unit in:s64:6:below100 out:f32:6 out:f32:1536 i32=200..256", (80, 90), B=256)


@triton.jit
def embedding(ids, table, o, D: tl.constexpr):
    r = tl.program_id(0)
    i = tl.arange(0, D)
    k = tl.load(ids + r)
    tl.device_assert(k < 100)
    tl.store(o + r * D + i, tl.load(table + k * D + i))


job("triton_embedding", embedding, dict(ids="*i64", table="*fp32", o="*fp32"), "12", "in:s64:12:below32 in:f32:2048:unit out:f32:768", (80, 90), warps=1, D=64)


@triton.jit
def reduce_sum(x, o, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(o + tl.program_id(0), tl.sum(tl.load(x + i, mask=i < n, other=0.0), 0))


job("triton_sum", reduce_sum, dict(x="*fp32", o="*fp32", n="i32"), "6", "in:f32:3072:unit out:f32:6 i32=2600..3072", (75, 80, 90), B=512)


@triton.jit
def reduce_atomic(x, o, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.atomic_add(o, tl.sum(tl.load(x + i, mask=i < n, other=0.0), 0))


job("triton_sum_atomic", reduce_atomic, dict(x="*fp32", o="*fp32", n="i32"), "6", "in:f32:3072:few io:f32:1:zero i32=2600..3072", (75, 90), B=512)


@triton.jit
def argmax(x, o, v, n, B: tl.constexpr):
    r = tl.program_id(0)
    i = tl.arange(0, B)
    a = tl.load(x + r * n + i, mask=i < n, other=-float("inf"))
    tl.store(o + r, tl.argmax(a, 0))
    tl.store(v + r, tl.max(a, 0))


job("triton_argmax", argmax, dict(x="*fp32", o="*i32", v="*fp32", n="i32"), "7", "in:f32:1792:unit out:s32:7 out:f32:7 i32=200..256", (75, 80, 90), B=256)


@triton.jit
def max2d(x, o, rows, C: tl.constexpr, R: tl.constexpr):
    c = tl.program_id(0) * C + tl.arange(0, C)
    r = tl.arange(0, R)
    v = tl.load(x + r[:, None] * 64 + c[None, :], mask=r[:, None] < rows, other=-1 << 30)
    tl.store(o + c, tl.max(v, 0))


job("triton_max_columns", max2d, dict(x="*i32", o="*i32", rows="i32"), "4", "in:s32:2048:bits out:s32:64 i32=20..32", (80,), C=16, R=32)


@triton.jit
def _mul_add(a1, b1, a2, b2):
    return a1 * a2, b1 * a2 + b2


@triton.jit
def scan_sum(x, o, n, B: tl.constexpr):
    r = tl.program_id(0)
    i = tl.arange(0, B)
    tl.store(o + r * n + i, tl.cumsum(tl.load(x + r * n + i, mask=i < n, other=0), 0), mask=i < n)


job("triton_cumsum", scan_sum, dict(x="*i32", o="*i32", n="i32"), "5", "in:s32:1280:bits out:s32:1280 i32=200..256", (75, 80, 90), B=256)


@triton.jit
def scan_linear(a, b, o, B: tl.constexpr):
    r = tl.program_id(0)
    i = r * B + tl.arange(0, B)
    p, q = tl.associative_scan((tl.load(a + i), tl.load(b + i)), 0, _mul_add)
    tl.store(o + i, q)


job("triton_linear_scan", scan_linear, dict(a="*fp32", b="*fp32", o="*fp32"), "4", "in:f32:512:unit in:f32:512:unit out:f32:512", (80, 90), B=128)


@triton.jit
def sort_rows(x, o, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(o + i, tl.sort(tl.load(x + i)))


job("triton_sort", sort_rows, dict(x="*i32", o="*i32"), "4", "in:s32:256:bits out:s32:256", (80,), warps=2, B=64)


@triton.jit
def histogram(x, o, n, B: tl.constexpr, BINS: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    h = tl.histogram(tl.load(x + i, mask=i < n, other=0), BINS)
    tl.atomic_add(o + tl.arange(0, BINS), h)


job("triton_histogram", histogram, dict(x="*i32", o="*i32", n="i32"), "5", "in:s32:1280:below64 io:s32:64:zero i32=1100..1280", (80, 90), B=256, BINS=64)


@triton.jit
def transpose(x, o, M, N, B: tl.constexpr):
    r = tl.program_id(0) * B + tl.arange(0, B)
    c = tl.program_id(1) * B + tl.arange(0, B)
    v = tl.load(x + r[:, None] * N + c[None, :], mask=(r[:, None] < M) & (c[None, :] < N))
    tl.store(o + c[:, None] * M + r[None, :], tl.trans(v), mask=(c[:, None] < N) & (r[None, :] < M))


job("triton_transpose", transpose, dict(x="*fp32", o="*fp32", M="i32", N="i32"), "3,2", "in:f32:6144:unit out:f32:6144 i32=70..96 i32=40..64", (75, 80, 90, 100), B=32)
job("triton_transpose_f16", transpose, dict(x="*fp16", o="*fp16", M="i32", N="i32"), "2,2", "in:f16:4096:unit out:f16:4096 i32=40..64 i32=40..64", (80, 90), B=32)


@triton.jit
def ids3d(o, B: tl.constexpr):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    gx, gy, gz = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    i = tl.arange(0, B)
    tl.store(o + ((z * gy + y) * gx + x) * B + i, x + 16 * y + 256 * z + 4096 * gx + 65536 * gy + (gz << 20) + (i << 24))


job("triton_ids_3d", ids3d, dict(o="*i32"), "3,2,4", "out:s32:1536", (75, 90), warps=2, B=64)


@triton.jit
def grid_stride(x, o, n, B: tl.constexpr):
    for k in range(tl.program_id(0) * B, n, tl.num_programs(0) * B):
        i = k + tl.arange(0, B)
        m = i < n
        tl.store(o + i, tl.load(x + i, mask=m) * 3 + 1, mask=m)


job("triton_grid_stride", grid_stride, dict(x="*i32", o="*i32", n="i32"), "3", "in:s32:3000:bits io:s32:3000:zero i32=2000..3000", (75, 80, 90), warps=2, B=128)


@triton.jit
def dropout(x, o, n, p, seed, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    m = i < n
    v = tl.load(x + i, mask=m)
    keep = tl.rand(seed, i) > p
    tl.store(o + i, tl.where(keep, v / (1 - p), 0.0), mask=m)


job("triton_dropout", dropout, dict(x="*fp32", o="*fp32", n="i32", p="fp32", seed="i32"), "4", "in:f32:1024:unit out:f32:1024 i32=900..1024 f32=0.1..0.6 i32=1..2000000000", (75, 80, 90), B=256)


@triton.jit
def random_ints(o, seed, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    a, b, c, d = tl.randint4x(seed, i)
    tl.store(o + i * 4, a)
    tl.store(o + i * 4 + 1, b)
    tl.store(o + i * 4 + 2, c)
    tl.store(o + i * 4 + 3, d)


job("triton_randint4x", random_ints, dict(o="*i32", seed="i64"), "3", "out:s32:1536 s64=1..900000000000", (80,), B=128)


@triton.jit
def normal(o, seed, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(o + i, tl.randn(seed, i), mask=i < n)


job("triton_randn", normal, dict(o="*fp32", seed="i32", n="i32"), "4", "out:f32:512 i32=1..2000000000 i32=400..512", (80, 90), B=128)


# ---- atomics

@triton.jit
def atomics(x, s, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    m = i < n
    v = tl.load(x + i, mask=m, other=0)
    tl.atomic_add(s + v % 8, v, mask=m)
    tl.atomic_max(s + 8 + v % 8, v, mask=m)
    tl.atomic_min(s + 16 + v % 8, -v, mask=m)
    tl.atomic_or(s + 24 + v % 2, v, mask=m)
    tl.atomic_xor(s + 26 + v % 2, v, mask=m)
    tl.atomic_and(s + 28 + v % 2, v | 1, mask=m)


job("triton_atomics", atomics, dict(x="*i32", s="*i32", n="i32"), "4", "in:s32:1024:small io:s32:32:bits i32=900..1024", (75, 80, 90), B=256)


@triton.jit
def locked(x, lock, o, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.sum(tl.load(x + i, mask=i < n, other=0), 0)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    c = tl.load(o)
    tl.store(o, c + v)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


job("triton_lock", locked, dict(x="*i32", lock="*i32", o="*i32", n="i32"), "6", "in:s32:768:bits io:s32:1:zero io:s32:1:bits i32=600..768", (80, 90), B=128)


@triton.jit
def scatter_add(ids, x, o, D: tl.constexpr):
    r = tl.program_id(0)
    i = tl.arange(0, D)
    tl.atomic_add(o + tl.load(ids + r) * D + i, tl.load(x + r * D + i))


job("triton_scatter_add", scatter_add, dict(ids="*i32", x="*fp32", o="*fp32"), "10", "in:s32:10:below8 in:f32:640:few io:f32:512:zero", (75, 80, 90), warps=2, D=64)
job("triton_scatter_add_f16", scatter_add, dict(ids="*i32", x="*fp16", o="*fp16"), "10", "in:s32:10:below8 in:f16:640:few io:f16:512:zero", (80, 90), warps=2, D=64)


# ---- matrix products

@triton.jit
def gemm(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ACC: tl.constexpr):
    pm = tl.program_id(0)
    pn = tl.program_id(1)
    rm = pm * BM + tl.arange(0, BM)
    rn = pn * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    pa = a + rm[:, None] * K + rk[None, :]
    pb = b + rk[:, None] * N + rn[None, :]
    acc = tl.zeros((BM, BN), dtype=ACC)
    for k in range(0, K, BK):
        acc = tl.dot(tl.load(pa), tl.load(pb), acc, out_dtype=ACC)
        pa += BK
        pb += BK * N
    tl.store(c + rm[:, None] * N + rn[None, :], acc.to(c.dtype.element_ty))


def gemm_job(name, t, out, data, m, n, k, archs, BM, BN, BK, warps=4, stages=3, ACC=tl.float32, lines=False):
    e = dict(fp16="f16", bf16="bf16", fp32="f32", i8="s8", i32="s32")
    job(name, gemm, dict(a="*" + t, b="*" + t, c="*" + out, M="i32", N="i32", K="i32"), f"{m//BM},{n//BN}",
        f"in:{e[t]}:{m*k}:{data} in:{e[t]}:{k*n}:{data} out:{e[out]}:{m*n} i32={m} i32={n} i32={k}", archs, warps, stages, lines, BM=BM, BN=BN, BK=BK, ACC=ACC)


gemm_job("triton_gemm_f16_64", "fp16", "fp16", "unit", 128, 64, 128, (75, 80, 90, 100), 64, 64, 32)
gemm_job("triton_gemm_f16_32", "fp16", "fp32", "unit", 64, 64, 64, (75, 80), 32, 32, 32, warps=2)
gemm_job("triton_gemm_f16_128", "fp16", "fp16", "unit", 128, 128, 64, (80, 90), 128, 128, 32, warps=8, stages=2)
gemm_job("triton_gemm_f16_16", "fp16", "fp32", "unit", 32, 48, 64, (80,), 16, 16, 32, warps=1)
gemm_job("triton_gemm_f16_64x128", "fp16", "fp16", "unit", 64, 128, 128, (80, 90), 64, 128, 64, stages=4)
gemm_job("triton_gemm_bf16_64", "bf16", "bf16", "unit", 128, 64, 64, (80, 90, 100), 64, 64, 32)
gemm_job("triton_gemm_bf16_32", "bf16", "fp32", "unit", 64, 32, 96, (80,), 32, 32, 32, warps=2, stages=4)
gemm_job("triton_gemm_tf32_64", "fp32", "fp32", "unit", 64, 64, 64, (80, 90), 64, 64, 32)
gemm_job("triton_gemm_i8_64", "i8", "i32", "bits", 64, 64, 128, (80, 90), 64, 64, 64, ACC=tl.int32)
gemm_job("triton_gemm_f16acc", "fp16", "fp16", "few", 64, 64, 64, (80, 90), 64, 64, 32, ACC=tl.float16)


gemm_job("triton_gemm_lines", "fp16", "fp16", "unit", 64, 64, 64, (80, 90), 64, 64, 32, lines=True)


@triton.jit
def gemm_masked(a, b, bias, c, M, N, K, sam, sbk, scm, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr):
    pid = tl.program_id(0)
    gm = tl.cdiv(M, BM)
    gn = tl.cdiv(N, BN)
    per = GROUP * gn
    first = pid // per * GROUP
    size = tl.minimum(gm - first, GROUP)
    pm = first + pid % per % size
    pn = pid % per // size
    rm = (pm * BM + tl.arange(0, BM)) % M
    rn = (pn * BN + tl.arange(0, BN)) % N
    rk = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, tl.cdiv(K, BK)):
        kk = k * BK + rk
        x = tl.load(a + rm[:, None] * sam + kk[None, :], mask=kk[None, :] < K, other=0.0)
        y = tl.load(b + kk[:, None] * sbk + rn[None, :], mask=kk[:, None] < K, other=0.0)
        acc = tl.dot(x, y, acc)
    om = pm * BM + tl.arange(0, BM)
    on = pn * BN + tl.arange(0, BN)
    acc += tl.load(bias + on, mask=on < N, other=0.0)[None, :]
    acc = tl.maximum(acc, 0.0)
    tl.store(c + om[:, None] * scm + on[None, :], acc.to(tl.float16), mask=(om[:, None] < M) & (on[None, :] < N))


job("triton_linear_relu", gemm_masked, dict(a="*fp16", b="*fp16", bias="*fp32", c="*fp16", M="i32", N="i32", K="i32", sam="i32", sbk="i32", scm="i32"), "4",
    "in:f16:12288:unit in:f16:12288:unit in:f32:128:unit out:f16:16384 i32=70..128 i32=65..128 i32=60..96 i32=96 i32=128 i32=128", (75, 80, 90), BM=64, BN=64, BK=32, GROUP=2)


@triton.jit
def gemm_splitk(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rk = tl.program_id(2) * BK + tl.arange(0, BK)
    acc = tl.dot(tl.load(a + rm[:, None] * K + rk[None, :]), tl.load(b + rk[:, None] * N + rn[None, :]))
    tl.atomic_add(c + rm[:, None] * N + rn[None, :], acc)


job("triton_gemm_splitk", gemm_splitk, dict(a="*fp16", b="*fp16", c="*fp32", M="i32", N="i32", K="i32"), "2,2,3",
    "in:f16:6144:few in:f16:6144:few io:f32:4096:zero i32=64 i32=64 i32=96", (80, 90), warps=2, BM=32, BN=32, BK=32)


@triton.jit
def gemm_persistent(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    gn = tl.cdiv(N, BN)
    for t in range(tl.program_id(0), tl.cdiv(M, BM) * gn, tl.num_programs(0)):
        rm = t // gn * BM + tl.arange(0, BM)
        rn = t % gn * BN + tl.arange(0, BN)
        acc = tl.zeros((BM, BN), dtype=tl.float32)
        for k in range(0, K, BK):
            rk = k + tl.arange(0, BK)
            acc = tl.dot(tl.load(a + rm[:, None] * K + rk[None, :]), tl.load(b + rk[:, None] * N + rn[None, :]), acc)
        tl.store(c + rm[:, None] * N + rn[None, :], acc.to(tl.bfloat16))


job("triton_gemm_persistent", gemm_persistent, dict(a="*bf16", b="*bf16", c="*bf16", M="i32", N="i32", K="i32"), "3",
    "in:bf16:8192:unit in:bf16:8192:unit out:bf16:16384 i32=128 i32=128 i32=64", (80, 90), BM=64, BN=64, BK=32)


@triton.jit
def gemm_tma(a, b, c, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    m = tl.program_id(0) * BM
    n = tl.program_id(1) * BN
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, K, BK):
        acc = tl.dot(a.load([m, k]), b.load([k, n]), acc)
    c.store([m, n], acc.to(tl.float16))


def maps(t, *shapes):
    """Descriptors of tensor maps (rows, columns, box) with what Triton passes beside each: shape and strides; then their buffers."""
    e = dict(fp16="f16", fp32="f32")[t]
    return " ".join(f"map:{e}:{r}:{c}:{b}:{b}:128 i32={r} i32={c} s64={c} s64=1" for r, c, b, _, _ in shapes)


def map_buffers(t, first, *shapes):
    e = dict(fp16="f16", fp32="f32")[t]
    return " ".join(f"@{5*i+first}+0:{kind}:{e}:{r*c}{gen}" for i, (r, c, b, kind, gen) in enumerate(shapes))


GT = [(128, 128, 64, "in", ":unit"), (128, 64, 64, "in", ":unit"), (128, 64, 64, "out", "")]
D16 = "tensordesc<fp16[64,64]>"
job("triton_gemm_tma", gemm_tma, dict(a=D16, b=D16, c=D16, K="i32"), "2,1", f"{maps('fp16', *GT)} i32=128", (90,), after=map_buffers("fp16", 0, *GT), BM=64, BN=64, BK=64)


@triton.jit
def scale_tma(x, o, s, B: tl.constexpr):
    r = tl.program_id(0) * B
    c = tl.program_id(1) * B
    o.store([r, c], x.load([r, c]) * s)


ST = [(96, 64, 32, "in", ":unit"), (96, 64, 32, "out", "")]
D32 = "tensordesc<fp32[32,32]>"
job("triton_scale_tma", scale_tma, dict(x=D32, o=D32, s="fp32"), "3,2", f"{maps('fp32', *ST)} f32=-3..3", (90,), after=map_buffers("fp32", 0, *ST), B=32)


@triton.jit
def batched(a, b, c, BM: tl.constexpr, BN: tl.constexpr, K: tl.constexpr):
    z = tl.program_id(2)
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rk = tl.arange(0, K)
    M = tl.num_programs(0) * BM
    N = tl.num_programs(1) * BN
    x = tl.load(a + z * M * K + rm[:, None] * K + rk[None, :])
    y = tl.load(b + z * N * K + rk[:, None] * N + rn[None, :])
    tl.store(c + z * M * N + rm[:, None] * N + rn[None, :], tl.dot(x, y).to(tl.float16))


job("triton_bmm", batched, dict(a="*fp16", b="*fp16", c="*fp16"), "2,1,3", "in:f16:6144:unit in:f16:3072:unit out:f16:6144", (75, 80, 90), warps=2, BM=32, BN=32, K=32)


@triton.jit
def gemv(a, x, o, K, R: tl.constexpr, B: tl.constexpr):
    r = tl.program_id(0) * R + tl.arange(0, R)
    acc = tl.zeros((R, B), tl.float32)
    for k in range(0, K, B):
        i = k + tl.arange(0, B)
        acc += tl.load(a + r[:, None] * K + i[None, :], mask=i[None, :] < K, other=0.0) * tl.load(x + i, mask=i < K, other=0.0)[None, :]
    tl.store(o + r, tl.sum(acc, 1))


job("triton_gemv", gemv, dict(a="*fp32", x="*fp32", o="*fp32", K="i32"), "6", "in:f32:4800:unit in:f32:200:unit out:f32:24 i32=150..200", (75, 80, 90), warps=2, R=4, B=64)


# ---- attention and convolution

@triton.jit
def attention(q, k, v, o, scale, T, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr):
    start = tl.program_id(0) * BM
    base = tl.program_id(1) * T * D
    rm = start + tl.arange(0, BM)
    rd = tl.arange(0, D)
    x = tl.load(q + base + rm[:, None] * D + rd[None, :])
    m = tl.full([BM], -float("inf"), tl.float32)
    l = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    end = start + BM if CAUSAL else T
    for n in range(0, end, BN):
        rn = n + tl.arange(0, BN)
        y = tl.load(k + base + rn[None, :] * D + rd[:, None])
        s = tl.dot(x, y) * scale
        if CAUSAL:
            s = tl.where(rm[:, None] >= rn[None, :], s, -float("inf"))
        mn = tl.maximum(m, tl.max(s, 1))
        p = tl.exp2(s - mn[:, None])
        f = tl.exp2(m - mn)
        l = l * f + tl.sum(p, 1)
        acc = acc * f[:, None]
        acc = tl.dot(p.to(v.dtype.element_ty), tl.load(v + base + rn[:, None] * D + rd[None, :]), acc)
        m = mn
    tl.store(o + base + rm[:, None] * D + rd[None, :], (acc / l[:, None]).to(o.dtype.element_ty))


AT = lambda t: dict(q="*" + t, k="*" + t, v="*" + t, o="*" + t, scale="fp32", T="i32")
job("triton_attention", attention, AT("fp16"), "2,2", "in:f16:16384:unit in:f16:16384:unit in:f16:16384:unit out:f16:16384 f32=0.1..0.3 i32=128", (80, 90), stages=2, D=64, BM=64, BN=32, CAUSAL=False)
job("triton_attention_causal", attention, AT("fp16"), "2,2", "in:f16:8192:unit in:f16:8192:unit in:f16:8192:unit out:f16:8192 f32=0.1..0.3 i32=128", (80, 90), stages=2, D=32, BM=64, BN=64, CAUSAL=True)
job("triton_attention_bf16", attention, AT("bf16"), "2,1", "in:bf16:8192:unit in:bf16:8192:unit in:bf16:8192:unit out:bf16:8192 f32=0.1..0.3 i32=128", (80, 90, 100), stages=2, D=64, BM=64, BN=64, CAUSAL=True)


@triton.jit
def conv2d(x, w, y, H, W, C: tl.constexpr, KO: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    n = tl.program_id(1)
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    OH = H - 2
    OW = W - 2
    oy = p // OW
    ox = p % OW
    ok = p < OH * OW
    rk = tl.arange(0, KO)
    rc = tl.arange(0, BC)
    acc = tl.zeros((BP, KO), tl.float32)
    for t in range(9 * (C // BC)):
        c = t % (C // BC) * BC
        dy = t // (C // BC) // 3
        dx = t // (C // BC) % 3
        a = tl.load(x + ((n * H + oy + dy) * W + ox + dx)[:, None] * C + (c + rc)[None, :], mask=ok[:, None], other=0.0)
        b = tl.load(w + (((dy * 3 + dx) * C + c + rc)[:, None] * KO + rk[None, :]))
        acc = tl.dot(a, b, acc)
    tl.store(y + (n * OH * OW + p)[:, None] * KO + rk[None, :], acc.to(tl.float16), mask=ok[:, None])


job("triton_conv2d", conv2d, dict(x="*fp16", w="*fp16", y="*fp16", H="i32", W="i32"), "2,2", "in:f16:12800:unit in:f16:9216:unit out:f16:4096 i32=10 i32=9..10", (75, 80, 90), C=32, KO=32, BP=32, BC=32)


@triton.jit
def depthwise(x, w, y, T, B: tl.constexpr):
    c = tl.program_id(1)
    i = tl.program_id(0) * B + tl.arange(0, B)
    acc = tl.zeros([B], tl.float32)
    for k in tl.static_range(5):
        j = i + k - 2
        acc += tl.load(x + c * T + j, mask=(j >= 0) & (j < T), other=0.0) * tl.load(w + c * 5 + k)
    tl.store(y + c * T + i, acc, mask=i < T)


job("triton_depthwise", depthwise, dict(x="*fp32", w="*fp32", y="*fp32", T="i32"), "3,4", "in:f32:1536:unit in:f32:20:unit out:f32:1536 i32=300..384", (80, 90), B=128)


# ---- functions that are not inlined, and inline PTX

@triton.jit(noinline=True)
def _weight(x, k):
    return x * 3 + k * tl.num_programs(0) + tl.program_id(0)


@triton.jit
def calls(x, o, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(x + i, mask=i < n, other=0)
    s = _weight(n, 5)
    t = _weight(s, tl.program_id(1))
    tl.store(o + tl.program_id(1) * 800 + i, v + t, mask=i < n)


job("triton_noinline", calls, dict(x="*i32", o="*i32", n="i32"), "3,2", "in:s32:768:bits out:s32:1600 i32=600..768", (80, 90), warps=2, B=256)


@triton.jit
def asserting(x, o, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(x + i, mask=i < n, other=0)
    tl.device_assert(v < 100, "value too large")
    tl.store(o + i, v * v, mask=i < n)


job("triton_assert", asserting, dict(x="*i32", o="*i32", n="i32"), "3", "in:s32:768:below100 out:s32:768 i32=600..768", (80, 90), warps=2, debug=True, B=256)


@triton.jit
def swap_halves(x, o, n, flag: tl.constexpr, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    v = tl.load(x + i, mask=i < n, other=0)
    if flag:
        v = (v << 16) | ((v >> 16) & 0xffff)
    r = tl.inline_asm_elementwise("prmt.b32 $0, $1, $1, 0x0123;", "=r,r", [v], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(o + i, r, mask=i < n)


job("triton_inline_asm", swap_halves, dict(x="*i32", o="*i32", n="i32"), "3", "in:s32:600:bits out:s32:600 i32=520..600", (75, 90), warps=2, flag=True, B=256)


def build(name, fn, sig, grid, launch, archs, warps, stages, lines, debug, after, const):
    triton.knobs.compilation.disable_line_info = not lines
    names = list(fn.arg_names)
    # As Triton's launcher does: pointers and integers that are multiples of 16 are known to be.
    data = dict(zip(sig, launch.split()))
    divisible = [n for n in sig if sig[n].startswith("*") or not after and re.fullmatch(r"[is]\d+=\d*[02468]", data[n]) and int(data[n].split("=")[1]) % 16 == 0]
    attrs = {(names.index(n),): [["tt.divisibility", 16]] for n in divisible}
    done = []
    for cc in archs:
        src = ASTSource(fn=fn, signature={n: sig.get(n, "constexpr") for n in names}, constexprs={(names.index(n),): v for n, v in const.items()}, attrs=attrs)
        k = triton.compile(src, target=GPUTarget("cuda", cc, 32), options=dict(debug=debug, num_warps=warps, num_stages=stages, ptx_version=PTX_VERSION))
        if getattr(k.metadata, "global_scratch_size", 0):
            sys.exit(f"{name}: wants scratch memory")
        text = re.sub(rf"\b{fn.__name__}\b", name, k.asm["ptx"])
        if lines:
            text = re.sub(r'"/[^"]*/([^"/]*)"', r'"\1"', text)
        else:
            text = re.sub(r"[ \t]*//[^\n]*", "", text)
            text = re.sub(r"\n\n+", "\n", text).strip() + "\n"
        target = re.search(r"\.target\s+(\w+)", text).group(1)
        hidden = len(re.findall(r"\.param", text.split(f".entry {name}(")[1].split(")")[0])) - len(launch.split())
        with open(os.path.join(here, f"{name}.{target}.ptx"), "w") as f:
            f.write(f"//@ {name} grid={grid} block={32*warps} shared={k.metadata.shared} {launch}{' u64=0' * hidden}{' ' * bool(after)}{after}\n{text}")
        done.append(target)
    print(name, *done)


here = os.path.dirname(os.path.abspath(__file__))
failed = []
if __name__ == "__main__":
    for j in JOBS:
        if len(sys.argv) == 1 or j[0] in sys.argv[1:]:
            try:
                build(*j)
            except Exception as e:  # noqa: BLE001 - what Triton refuses is named at the end
                failed.append(j[0])
                print(j[0], "FAILED:", str(e)[:600])
    if failed:
        sys.exit("failed: " + " ".join(failed))
