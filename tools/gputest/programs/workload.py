# workload: one unmodified program with fixed seeds; saves its outputs. usage: workload.py NAME OUT.npz [REPEATS]
# Prints one line of JSON: seconds to the first result, a hash of all outputs, whether they are finite.
import hashlib
import json
import os
import sys
import time

START = float(os.environ.get("GT_START", time.time()))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import frameworks
import numpy as np


def torch_setup():
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return torch


def vision(name):
    torch = torch_setup()
    import torchvision

    m = getattr(torchvision.models, name)().eval().cuda().half()
    x = torch.randn(2, 3, 224, 224)
    return lambda: [m(x.cuda().half())]


def bert():
    torch = torch_setup()
    from transformers import BertConfig, BertModel

    m = BertModel(BertConfig()).eval().cuda().half()
    x = torch.randint(0, 30000, (2, 128))
    return lambda: [m(x.cuda()).last_hidden_state]


def gpt2():
    torch = torch_setup()
    from transformers import GPT2Config, GPT2LMHeadModel

    m = GPT2LMHeadModel(GPT2Config()).eval().cuda().half()
    x = torch.randint(0, 50000, (1, 16))

    def f():
        r = m.generate(x.cuda(), max_new_tokens=64, min_new_tokens=64, do_sample=False, pad_token_id=0)
        return [r, m(r).logits[:, -1]]

    return f


def compiled():
    torch = torch_setup()
    import torchvision

    m = torchvision.models.resnet18().eval().cuda().half()
    x = torch.randn(2, 3, 224, 224).cuda().half()
    c = torch.compile(m)
    return lambda: [c(x)]


def train():  # forward, backward and an optimizer: reductions, memsets, many small kernels
    torch = torch_setup()
    import torchvision

    m = torchvision.models.resnet18().cuda()
    o = torch.optim.SGD(m.parameters(), 0.01, momentum=0.9)
    x = torch.randn(8, 3, 64, 64).cuda()
    y = torch.randint(0, 1000, (8,)).cuda()

    def f():
        with torch.enable_grad():
            l = torch.nn.functional.cross_entropy(m(x), y)
            o.zero_grad()
            l.backward()
            o.step()
        return [l.detach(), m.fc.weight.detach()]

    return f


def graph(name="resnet50"):
    torch = torch_setup()
    import torchvision

    m = getattr(torchvision.models, name)().eval().cuda().half()
    x = torch.randn(2, 3, 224, 224).half()
    xs = x.cuda()
    s = torch.cuda.Stream()
    s.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(s):
        for _ in range(3):
            m(xs)
    torch.cuda.current_stream().wait_stream(s)
    g = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(g):
        ys = m(xs)

    def f():
        xs.copy_(x * 1, non_blocking=True)
        g.replay()
        return [ys.clone()]

    return f


def jax_cnn():
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    k = jax.random.split(jax.random.PRNGKey(0), 6)
    ws = [jax.random.normal(k[i], (3, 3, a, b)) * 0.1 for i, (a, b) in enumerate([(3, 32), (32, 64), (64, 64)])]
    d = jax.random.normal(k[3], (64, 10))
    x = jax.random.normal(k[4], (4, 32, 32, 3))

    @jax.jit
    def net(x):
        for w in ws:
            x = jax.nn.relu(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        return jax.nn.softmax(x.mean((1, 2)) @ d)

    step = jax.jit(lambda x: x - 0.1 * jax.grad(lambda z: net(z)[:, 0].sum())(x))
    return lambda: [net(x), step(x)]


def cupy_raw():
    import cupy as cp

    k = cp.RawKernel(
        r"""extern "C" __global__ void f(const float *a, float *b, int n) { __shared__ float s[256]; int i = blockIdx.x * blockDim.x + threadIdx.x; s[threadIdx.x] = i < n ? a[i] : 0; __syncthreads();
      for (int d = 128; d; d >>= 1) { if (threadIdx.x < d) s[threadIdx.x] += s[threadIdx.x + d]; __syncthreads(); } if (i < n) b[i] = a[i] * 2 + s[0]; }""",
        "f",
    )
    a = cp.asarray(np.random.RandomState(0).rand(100000).astype(np.float32))
    s = cp.cuda.Stream(non_blocking=True)

    def f():
        b = cp.zeros_like(a)
        c = cp.empty_like(a)
        cp.cuda.Stream.null.synchronize()
        with s:
            k((391,), (256,), (a, b, np.int32(a.size)))
            c[:] = b
        s.synchronize()
        return [b, c, (b * 3 + 1).sum(), cp.sort(a)[:100], a.reshape(100, 1000) @ a.reshape(1000, 100)]

    return f


MAKE = {
    "resnet50": lambda: vision("resnet50"),
    "bert": bert,
    "gpt2": gpt2,
    "vit": lambda: vision("vit_b_16"),
    "compile": compiled,
    "train": train,
    "graph": graph,
    "jax": jax_cnn,
    "cupy": cupy_raw,
    "reduce-overhead": lambda: frameworks.compiled(torch_setup(), "reduce-overhead"),
    "max-autotune": lambda: frameworks.compiled(torch_setup(), "max-autotune"),
    "jax-graphs": jax_cnn,  # with other flags
    "cupy-graph": frameworks.cupy_graph,
    "graph-events": lambda: frameworks.graph_events(torch_setup()),
    "sharing": lambda: frameworks.sharing(torch_setup()),
    "loader": lambda: frameworks.loader(torch_setup()),
    "threads": lambda: frameworks.threads(torch_setup()),
    "expandable": train,  # with another allocator, set from outside
    "cudaMallocAsync": train,
}


def host(v):
    if type(v).__module__.startswith("torch"):
        v = v.detach().cpu().numpy()
    elif type(v).__module__.startswith("cupy"):
        v = v.get()
    return np.asarray(v)


def main():
    name, path, n = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3
    f = MAKE[name]()
    if not name.startswith(("jax", "cupy")):
        import torch

        torch.set_grad_enabled(False)
    outs = {}
    for i in range(n):
        r = f()
        for j, v in enumerate(r):
            outs[f"{i}.{j}"] = host(v)
        if i == 0:
            first = time.time() - START
    h = hashlib.sha256()
    for k in sorted(outs):
        h.update(k.encode())
        h.update(str(outs[k].dtype).encode())
        h.update(np.ascontiguousarray(outs[k]).tobytes())
    np.savez(path, **outs)
    print(
        json.dumps(
            {
                "name": name,
                "first": round(first, 2),
                "hash": h.hexdigest()[:16],
                "finite": bool(all(np.isfinite(v.astype(np.float64)).all() for v in outs.values())),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":  # not in what it spawns
    main()
