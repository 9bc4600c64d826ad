"""Makes the *.ptx beside it with Triton 3.9 (pip install triton; no GPU needed).

    TRITON_DEFAULT_FP_FUSION=1 python3 kernels.py

The results are checked in, because tests run without Triton.
"""
import os
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

@triton.jit
def vadd(x, y, o, n, B: tl.constexpr):
    i = tl.program_id(0)*B + tl.arange(0, B); m = i < n
    tl.store(o+i, tl.load(x+i, mask=m)+tl.load(y+i, mask=m), mask=m)
@triton.jit
def softmax(o, x, n, B: tl.constexpr):
    r = tl.program_id(0); i = tl.arange(0, B); m = i < n
    v = tl.load(x+r*n+i, mask=m, other=-float('inf')); v = v - tl.max(v, axis=0); e = tl.exp(v)
    tl.store(o+r*n+i, e/tl.sum(e, axis=0), mask=m)
@triton.jit
def layernorm(o, x, w, n, eps, B: tl.constexpr):
    r = tl.program_id(0); i = tl.arange(0, B); m = i < n
    v = tl.load(x+r*n+i, mask=m, other=0.).to(tl.float32); mean = tl.sum(v, axis=0)/n
    d = tl.where(m, v-mean, 0.); var = tl.sum(d*d, axis=0)/n
    tl.store(o+r*n+i, (d/tl.sqrt(var+eps)*tl.load(w+i, mask=m)), mask=m)
@triton.jit
def gemm(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    pm = tl.program_id(0); pn = tl.program_id(1)
    rm = pm*BM+tl.arange(0,BM); rn = pn*BN+tl.arange(0,BN); rk = tl.arange(0,BK)
    acc = tl.zeros((BM,BN), dtype=tl.float32)
    for k in range(0, K, BK):
        x = tl.load(a+rm[:,None]*K+(k+rk)[None,:]); y = tl.load(b+(k+rk)[:,None]*N+rn[None,:])
        acc = tl.dot(x, y, acc)
    tl.store(c+rm[:,None]*N+rn[None,:], acc.to(tl.float16))

P16, P32 = "*fp16", "*fp32"
JOBS = [
    (vadd, dict(x=P32, y=P32, o=P32, n="i32"), dict(B=1024), (90,)),
    (softmax, dict(o=P32, x=P32, n="i32"), dict(B=512), (90,)),
    (layernorm, dict(o=P16, x=P16, w=P32, n="i32", eps="fp32"), dict(B=1024), (90, 100)),
    (gemm, dict(a=P16, b=P16, c=P16, M="i32", N="i32", K="i32"), dict(BM=64, BN=64, BK=32), (75, 80, 90)),
]
here = os.path.dirname(os.path.abspath(__file__))
for fn, args, const, archs in JOBS:
    names = list(args) + list(const)
    attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(args) if args[n] != "fp32"}
    for cc in archs:
        src = ASTSource(fn=fn, signature={**args, **{n: "constexpr" for n in const}},
                        constexprs={(names.index(n),): v for n, v in const.items()}, attrs=attrs)
        k = triton.compile(src, target=GPUTarget("cuda", cc, 32))
        with open(os.path.join(here, f"{fn.__name__}_{cc}.ptx"), "w") as f:
            f.write(k.asm["ptx"].replace(here, "."))
