# p13: what a partition of the SMs is worth for the mixes of issues 5 and 6, natively and in one process: an interactive model's graph at
# 400 requests/s (Poisson) on the most urgent stream of the whole chip, beside batch-64 inference of ResNet-50, cut into pieces of some
# 100 us. Where may the pieces run: anywhere, on a green stream's SMs, and may they begin during a request ("spatial"), not ("held"), or
# then only on the smaller partition? A row: p50, p99 of the interactive model, pieces a second against alone. usage: p13_partition.py SECONDS
import ctypes
import random
import statistics
import sys
import threading
import time
from pathlib import Path

import torch
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "programs"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serve import build

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2
cu = ctypes.CDLL("libcuda.so.1")


def call(name, *args):
    r = getattr(cu, name)(*args)
    if r:
        raise RuntimeError(f"{name}: CUresult {r}")


def partition(want):
    """A stream of least priority whose kernels run on so many SMs alone, and how many these are."""
    device, groups = ctypes.c_int(torch.cuda.current_device()), ctypes.c_uint(1)
    every, mine = (ctypes.c_uint * 36)(), (ctypes.c_uint * 36)()  # CUdevResource: 144 bytes, sm.smCount at 96
    description, context, stream = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    call("cuDeviceGetDevResource", device, every, 1)
    call("cuDevSmResourceSplitByCount", mine, ctypes.byref(groups), every, None, 0, want)
    call("cuDevResourceGenerateDesc", ctypes.byref(description), mine, 1)
    call("cuGreenCtxCreate", ctypes.byref(context), description, device, 1)
    call("cuGreenCtxStreamCreate", ctypes.byref(stream), context, 1, 0)
    return torch.cuda.ExternalStream(stream.value), mine[24]


class Params(ctypes.Structure):  # CUDA_KERNEL_NODE_PARAMS_v2
    _fields_ = [("func", ctypes.c_void_p)] + [(n, ctypes.c_uint) for n in ("gx", "gy", "gz", "bx", "by", "bz", "shared")]
    _fields_ += [(n, ctypes.c_void_p) for n in ("params", "extra", "kern", "ctx")]


class Config(ctypes.Structure):  # CUlaunchConfig
    _fields_ = [(n, ctypes.c_uint) for n in ("gx", "gy", "gz", "bx", "by", "bz", "shared")]
    _fields_ += [("stream", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("count", ctypes.c_uint)]


class Attribute(ctypes.Structure):  # CUlaunchAttribute
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_uint * 16)]


def captured(f, x, stream):
    with torch.cuda.stream(stream):
        for _ in range(3):
            f(x)
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(g, stream=stream):
        y = f(x)
    g.instantiate()
    torch.cuda.synchronize()
    return g, y


def pieces(stream):
    """Batch-64 inference of ResNet-50 as graphs one after the other."""
    m, x = torchvision.models.resnet50().eval().half().cuda(), torch.randn(64, 3, 224, 224).half().cuda()
    steps = [lambda x: m.maxpool(m.relu(m.bn1(m.conv1(x))))]
    for layer in (m.layer1, m.layer2, m.layer3, m.layer4):
        for b in layer:
            steps.append(lambda x, b=b: (b.relu(b.bn1(b.conv1(x))), x))
            steps.append(lambda x, b=b: (b.relu(b.bn2(b.conv2(x[0]))), x[1]))
            steps.append(lambda x, b=b: b.relu(b.bn3(b.conv3(x[0])) + (b.downsample(x[1]) if b.downsample else x[1])))
    steps.append(lambda x: m.fc(torch.flatten(m.avgpool(x), 1)))
    out = []
    for f in steps:
        g, x = captured(f, x, stream)
        out.append(g)
    kept.append((m, x))
    return out


kept, left_out, refused = [], {}, []


def confined(g, stream):
    """The kernels of a graph without branches, as a graph whose kernels run on stream's SMs."""
    n = ctypes.c_size_t()
    graph = ctypes.c_void_p(g.raw_cuda_graph())
    call("cuGraphGetNodes", graph, None, ctypes.byref(n))
    nodes = (ctypes.c_void_p * n.value)()
    call("cuGraphGetNodes", graph, nodes, ctypes.byref(n))
    to, made, exe = ctypes.c_void_p(stream.cuda_stream), ctypes.c_void_p(), ctypes.c_void_p()
    told = []
    call("cuStreamBeginCapture_v2", to, 2)
    for node in nodes:
        kind = ctypes.c_int()
        node = ctypes.c_void_p(node)
        call("cuGraphNodeGetType", node, ctypes.byref(kind))
        if kind.value:
            left_out[kind.value] = left_out.get(kind.value, 0) + 1
            continue
        p, cluster = Params(), Attribute(id=4)
        call("cuGraphKernelNodeGetParams_v2", node, ctypes.byref(p))
        call("cuGraphKernelNodeGetAttribute", node, 4, ctypes.byref(cluster.value))
        c = Config(p.gx, p.gy, p.gz, p.bx, p.by, p.bz, p.shared, stream.cuda_stream)
        if any(cluster.value[:3]):
            c.attributes, c.count = ctypes.addressof(cluster), 1
            most, fit = ctypes.c_int(-1), ctypes.c_int(-1)
            r1 = cu.cuOccupancyMaxPotentialClusterSize(ctypes.byref(most), ctypes.c_void_p(p.func or p.kern), ctypes.byref(c))
            r2 = cu.cuOccupancyMaxActiveClusters(ctypes.byref(fit), ctypes.c_void_p(p.func or p.kern), ctypes.byref(c))
            told.append(
                (
                    list(cluster.value[:3]),
                    (p.gx, p.gy, p.gz),
                    p.shared,
                    "most",
                    r1,
                    most.value,
                    "active",
                    r2,
                    fit.value,
                    bool(p.func),
                    bool(p.kern),
                )
            )
        call(
            "cuLaunchKernelEx",
            ctypes.byref(c),
            ctypes.c_void_p(p.func or p.kern),
            ctypes.c_void_p(p.params),
            ctypes.c_void_p(p.extra),
        )
    call("cuStreamEndCapture", to, ctypes.byref(made))
    r = cu.cuGraphInstantiateWithFlags(ctypes.byref(exe), made, ctypes.c_uint64(0))
    if r:
        refused.append((r, told))
        return g
    return exe


class Background(threading.Thread):
    """Launches pieces, two at most in flight; where says on what, given whether a request runs: (stream, graphs) or None."""

    def __init__(self, where):
        super().__init__()
        self.where, self.stop, self.done = where, False, 0

    @torch.inference_mode()
    def run(self):
        torch.cuda.set_device(0)
        flying, at, last = [], 0, None
        while not self.stop:
            to = self.where(busy[0])
            if not to:
                time.sleep(0)
                continue
            stream, graphs = to
            if last is not None and last[0] is not stream:
                stream.wait_event(last[1])
            with torch.cuda.stream(stream):
                launch(graphs[at % len(graphs)], stream)
                e = torch.cuda.Event()
                e.record()
            last = stream, e
            flying.append(e)
            at += 1
            while len(flying) > 1 and not self.stop:
                if flying[0].query():
                    flying.pop(0)
                    self.done += 1
                else:
                    time.sleep(0)
        torch.cuda.synchronize()


def launch(g, stream):
    if isinstance(g, ctypes.c_void_p):
        call("cuGraphLaunch", g, ctypes.c_void_p(stream.cuda_stream))
    else:
        g.replay()


busy = [False]
# threads change hands at once, not every 5 ms
sys.setswitchinterval(1e-5)
whole = torch.cuda.Stream(priority=0)
urgent = torch.cuda.Stream(priority=-5)
parts = {n: partition(n) for n in (32, 64, 96, 112, 120)}
with torch.inference_mode():
    graphs = {"whole": (whole, pieces(whole))}
    for n, (s, sms) in parts.items():
        refused.clear()
        graphs[sms] = (s, [confined(g, s) for g in graphs["whole"][1]])
        print(f"{sms} SMs: {len(refused)} of {len(graphs['whole'][1])} pieces cannot be confined: {refused[:3]}", flush=True)
sizes = [sms for _, sms in parts.values()]
modes = {"spatial, whole chip": lambda b: graphs["whole"], "held, whole chip": lambda b: None if b else graphs["whole"]}
for n in sizes:
    modes[f"spatial, {n} SMs"] = lambda b, n=n: graphs[n]
for n in sizes[1:]:
    modes[f"held, {n} SMs"] = lambda b, n=n: None if b else graphs[n]
for few in sizes[:2]:
    modes[f"whole chip, {few} SMs during requests"] = lambda b, few=few: graphs[few] if b else graphs["whole"]
    for many in sizes[3:4]:
        modes[f"{many} SMs, {few} during requests"] = lambda b, few=few, many=many: graphs[few] if b else graphs[many]


@torch.inference_mode()
def rate(where):
    b = Background(where)
    b.start()
    time.sleep(0.05)
    n, t = b.done, time.monotonic()
    time.sleep(0.5)
    r = (b.done - n) / (time.monotonic() - t)
    b.stop = True
    b.join()
    return r


@torch.inference_mode()
def interactive(model, where):
    g, xs, ys, x = model
    host = torch.empty(ys.shape, dtype=ys.dtype, pin_memory=True)
    b = Background(where) if where else None
    if b:
        b.start()
        time.sleep(0.05)
    r, took = random.Random(1), []
    begin = t = time.monotonic()
    n = b.done if b else 0
    with torch.cuda.stream(urgent):
        while t < begin + seconds:
            t += r.expovariate(400)
            while time.monotonic() < t:
                time.sleep(0)
            busy[0] = True
            xs.copy_(x, non_blocking=True)
            g.replay()
            host.copy_(ys, non_blocking=True)
            e = torch.cuda.Event()
            e.record()
            while not e.query():
                time.sleep(0)
            busy[0] = False
            took.append(time.monotonic() - t)
    keeps = (b.done - n) / (time.monotonic() - begin) if b else 0
    if b:
        b.stop = True
        b.join()
    took.sort()
    return statistics.median(took) * 1e3, took[int(0.99 * len(took))] * 1e3, keeps


print(f"on all SMs, or not done, for they are no kernels (by type): {left_out}")
alone = rate(modes["spatial, whole chip"])
print(
    f"pieces alone: {alone:.0f}/s, {1e6 / alone:.0f} us each; on "
    + ", ".join(f"{n} SMs {rate(lambda b, n=n: graphs[n]) / alone:.2f}" for n in sizes)
)
with torch.inference_mode():
    models = {}
    for name in ("resnet50", "bert"):
        m, x = build(name)
        xs = x.cuda()
        out = lambda y: y if torch.is_tensor(y) else y.last_hidden_state[:, 0]
        g, ys = captured(lambda v, m=m, out=out: out(m(v)), xs, urgent)
        models[name] = (g, xs, ys, x), m
for name, (model, _) in models.items():
    interactive(model, None)
    p50, p99, _ = interactive(model, None)
    print(f"{name}: alone {p50:.3f} / {p99:.3f} ms", flush=True)
    for what, where in modes.items():
        a, b, n = interactive(model, where)
        print(f"  {what:38s} {a:8.3f} / {b:8.3f} ms, {a / p50:6.2f} {b / p99:6.2f}, others {n / alone:.3f}", flush=True)
