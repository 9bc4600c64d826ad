# frameworks: issue 6's list as programs for workload.py: each returns a function whose results are compared bit for bit.
import numpy as np


def layers(torch, n=4, width=256):
    nn = torch.nn
    return nn.Sequential(*[l for _ in range(n) for l in (nn.Linear(width, width), nn.LayerNorm(width), nn.GELU())]).eval().cuda()


def compiled(torch, mode):
    """torch.compile with CUDA graphs: the first calls warm up and record, the later ones replay."""
    m = torch.compile(layers(torch), mode=mode)
    x = torch.randn(64, 256, device="cuda")
    state = {"n": 0}

    def f():
        state["n"] += 1
        return [m(x * state["n"]).clone()]

    return f


def cupy_graph():
    """Two kernels and a copy captured by CuPy, replayed on changed input."""
    import cupy as cp

    k = cp.RawKernel(
        r"""extern "C" __global__ void f(const float *a, float *b, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) b[i] = a[i] * 1.5f + b[i] * 0.25f; }""",
        "f",
    )
    n = 100000
    a = cp.asarray(np.random.RandomState(0).rand(n).astype(np.float32))
    b, c, d = cp.zeros_like(a), cp.zeros_like(a), cp.zeros_like(a)
    args = lambda x, y: ((391,), (256,), (x, y, np.int32(n)))
    s = cp.cuda.Stream(non_blocking=True)
    with s:
        k(*args(a, b))
        s.synchronize()
        s.begin_capture()
        k(*args(a, b))
        k(*args(b, c))
        d.data.copy_from_device_async(c.data, c.nbytes, s)
        g = s.end_capture()

    def f():
        with s:
            a[:] = a * 1.25
            for _ in range(3):
                g.launch(s)
            s.synchronize()
        return [b.copy(), c.copy(), d.copy()]

    return f


def graph_events(torch):
    """A graph with events of its own, which another stream waits for and which give times, and copies to and from pinned memory."""
    m, x, side = layers(torch), torch.randn(64, 256).pin_memory(), torch.cuda.Stream()
    out, xs = torch.empty(64, 256).pin_memory(), x.cuda()
    start, middle, end = (torch.cuda.Event(enable_timing=True, external=True) for _ in range(3))
    with torch.no_grad():
        m(m(xs))
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(g):
        start.record()
        xs.copy_(x, non_blocking=True)
        y = m(xs)
        middle.record()
        z = m(y)
        out.copy_(z, non_blocking=True)
        end.record()

    def f():
        x.add_(0.125)
        g.replay()
        side.wait_event(middle)
        with torch.cuda.stream(side):
            w = y * 2
        torch.cuda.current_stream().wait_stream(side)
        end.synchronize()
        if start.elapsed_time(end) <= 0:
            raise RuntimeError(f"the graph took {start.elapsed_time(end)} ms")
        return [w, z.clone(), out.clone()]

    return f


def child(q, r):
    import torch

    kept = []  # what was shared lives until its receiver is done with it
    while (t := q.get()) is not None:
        t.mul_(2)
        kept.append(t @ t + 1)
        torch.cuda.synchronize()
        r.put(kept[-1])
    r.put(None)


def sharing(torch):
    """A tensor goes to another process, which changes it and gives one of its own back."""
    import torch.multiprocessing as mp

    c = mp.get_context("spawn")
    q, r = c.Queue(), c.Queue()
    p = c.Process(target=child, args=(q, r), daemon=True)
    p.start()
    x = torch.randn(256, 256, device="cuda")
    sent = []

    def f():
        t = x.clone()
        torch.cuda.synchronize()
        sent.append(t)
        q.put(t)
        y = r.get(timeout=60)
        out = [t.clone(), y.clone()]
        torch.cuda.synchronize()
        return out

    return f


def loader(torch):
    """A data loader with two worker processes and pinned memory feeds a model."""
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.randn(64, 3, 64, 64))
    m = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3)).eval().cuda().half()

    def f():
        batches = DataLoader(data, batch_size=16, num_workers=2, pin_memory=True)
        return [m(x.cuda(non_blocking=True).half()).mean((2, 3)) for (x,) in batches]

    return f


def threads(torch):
    """Four threads, each with a model and a stream of its own."""
    import threading

    places = [(layers(torch), torch.randn(64, 256).pin_memory(), torch.cuda.Stream()) for _ in range(4)]

    def f():
        out, bad = [None] * 4, []

        def work(i):
            m, x, s = places[i]
            try:
                with torch.no_grad(), torch.cuda.stream(s):
                    y = x.cuda(non_blocking=True)
                    for _ in range(20):
                        y = m(y)
                    out[i] = y.cpu()
            except Exception as e:  # noqa: BLE001 - whatever a thread meets is a failure
                bad.append(e)

        ts = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        [t.start() for t in ts]
        [t.join() for t in ts]
        if bad:
            raise bad[0]
        return out

    return f
