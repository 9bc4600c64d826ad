# compiled: R closed-loop batch-1 fp16 inference processes of a torch.compile'd model: max-autotune with Triton's GEMM and convolution
# templates, without CUDA graphs or with them. usage: compiled.py bert|resnet50|deep R SECONDS REFERENCE.npz [graph]. With R = 1 it
# writes the reference: the outputs for the inputs of eight clients. With more, each process compares its output with the reference,
# bit for bit, before and after; "otherwise" counts kernels that a process runs in another configuration than the reference's, which may
# differ without anybody's fault. Prints one line of JSON. A third model, deep, is 128 small layers: very many kernels of some µs.
import json
import os
import sys
import time

START = float(os.environ.get("GT_START", time.time()))
CLIENTS = 8


def build(model, graphs):
    import torch
    import torch._inductor.config as inductor

    inductor.max_autotune_gemm_backends = "TRITON"
    inductor.max_autotune_conv_backends = "TRITON"
    inductor.fx_graph_cache = True
    inductor.autotune_local_cache = True
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if model == "resnet50":
        import torchvision

        with torch.device("cuda"):
            m = torchvision.models.resnet50().eval().half().to(memory_format=torch.channels_last)
        make = lambda g: torch.randn(1, 3, 224, 224, generator=g).half().contiguous(memory_format=torch.channels_last).pin_memory()
        out = lambda y: y
    elif model == "deep":

        class Layer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.linear, self.norm = torch.nn.Linear(256, 256), torch.nn.LayerNorm(256)

            def forward(self, x):  # the norm keeps numbers finite, the sum keeps outputs of different inputs different
                return self.norm(x + torch.nn.functional.gelu(self.linear(x)))

        with torch.device("cuda"):
            m = torch.nn.Sequential(*[Layer() for _ in range(128)]).eval().half()
        make = lambda g: torch.randn(16, 256, generator=g).half().pin_memory()
        out = lambda y: y
    else:
        from transformers import BertConfig, BertModel

        with torch.device("cuda"):
            m = BertModel(BertConfig()).eval().half()
        make = lambda g: torch.randint(0, 30000, (1, 128), generator=g).pin_memory()
        out = lambda y: y.last_hidden_state
    # The mode max-autotune but for its coordinate descent, which each process does anew, whatever is cached: other block shapes and warps
    # of a reduction sum in another order. So reductions have one configuration, and all processes compute the same bits.
    options = {"max_autotune": True, "triton.cudagraphs": graphs, "test_configs.force_filter_reduction_configs": True}
    c = torch.compile(m, options=options)
    inputs = [make(torch.Generator().manual_seed(i + 1)) for i in range(CLIENTS)]
    return lambda i: out(c(inputs[i].cuda(non_blocking=True))).cpu(), torch


def chosen():
    """Which configuration each of the model's Triton kernels runs in, a line for each."""
    from torch._inductor.codecache import PyCodeCache

    lines = set()
    for module in PyCodeCache.modules:
        for name, kernel in list(vars(module).items()):
            if name.startswith("triton_") and getattr(kernel, "launchers", None):
                c = kernel.launchers[0].config
                lines.add(f"{name} {sorted(c.kwargs.items())} warps {c.num_warps} stages {c.num_stages}")
    return sorted(lines)


def reductions(lines):
    return [l for l in lines if not l.startswith("triton_poi_")]


def launches(f, torch):
    """How many kernels one request launches, and how many of them are Triton's. Native only: a profiler sees its own process."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as p:
        f(0)
    names = [e.name for e in p.events() if e.device_type == torch.autograd.DeviceType.CUDA and not e.name.startswith("Mem")]
    return len(names), sum(n.startswith("triton_") for n in names)


def worker(i, model, secs, reference, graphs, bar, q):
    try:
        import numpy as np

        f, torch = build(model, graphs)
        with torch.inference_mode():
            got = f(i)
            first = time.time() - START
            for _ in range(9):
                f(i)
            torch.cuda.synchronize()
            want = np.load(reference)[f"client{i}"] if bar else None
            same = want is None or got.numpy().tobytes() == want.tobytes()
            if bar:
                bar.wait(120)
            L = []
            t0 = time.perf_counter()
            while time.perf_counter() - t0 < secs:
                a = time.perf_counter()
                got = f(i)
                L.append(time.perf_counter() - a)
                if want is not None and len(L) % 16 == 0:
                    same = same and got.numpy().tobytes() == want.tobytes()
            rate = len(L) / (time.perf_counter() - t0)
            same = same and (want is None or got.numpy().tobytes() == want.tobytes())
            configs = chosen()
            extra = {"kernels": len(configs)}
            if bar:
                # Other block shapes of pointwise kernels give the same bits; those of reductions and products do not.
                extra["otherwise"] = len(set(reductions(configs)) - set(np.load(reference)["configs"].tolist()))
            else:
                np.savez(reference, configs=np.array(configs), **{f"client{k}": f(k).numpy() for k in range(CLIENTS)})
                a, b = np.load(reference)["client0"], f(0).numpy()
                same = a.tobytes() == b.tobytes() and bool(np.isfinite(a).all())
                extra |= dict(zip(("launches", "triton"), launches(f, torch)))
            q.put((rate, sorted(L), first, same, "", extra))
    except Exception as e:  # noqa: BLE001 - whatever it is, it is told to the parent
        if bar:
            bar.abort()
        q.put((0.0, [], 0.0, False, f"{type(e).__name__}: {e}"[:200], {}))


if __name__ == "__main__":
    model, R, secs, reference = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    graphs = "graph" in sys.argv[5:]
    if R == 1:
        import queue

        q = queue.Queue()
        worker(0, model, secs, reference, graphs, None, q)
        rs = [q.get()]
    else:
        import multiprocessing as mp  # spawn: every worker is a process that opens CUDA by itself

        mp.set_start_method("spawn")
        bar = mp.Barrier(R)
        q = mp.Queue()
        ps = [mp.Process(target=worker, args=(i, model, secs, reference, graphs, bar, q)) for i in range(R)]
        [p.start() for p in ps]
        rs = [q.get(timeout=150) for _ in ps]
        [p.join(20) for p in ps]
    al = sorted(l for r in rs for l in r[1])
    n = len(al)
    print(
        json.dumps(
            {
                "rate": round(sum(r[0] for r in rs), 1),
                "p50": round(al[n // 2] * 1e3, 3) if n else None,
                "p99": round(al[n * 99 // 100] * 1e3, 3) if n else None,
                "first": round(max(r[2] for r in rs), 2),
                "same": all(r[3] for r in rs),
                "errors": sorted({r[4] for r in rs if r[4]}),
                **rs[0][5],
                "otherwise": max(r[5].get("otherwise", 0) for r in rs),
            }
        ),
        flush=True,
    )
